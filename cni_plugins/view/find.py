"""Who is X? A container id or its beginning, a task, an address, a MAC address, an interface of the host, a
published port, a process, a network namespace. Pure, but for the namespace of a process.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cni_plugins.view.attachments import Attachment
from cni_plugins.view.node import Node

_MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")
_PORT = re.compile(r"^(?:(?P<protocol>tcp|udp|sctp)/|port/|:)(?P<number>[0-9]{1,5})$")
_PORT_FIRST = re.compile(r"^(?:.*:)?(?P<number>[0-9]{1,5})(?:/(?P<protocol>tcp|udp|sctp))?$")
_PID = re.compile(r"^pid/(?P<number>[0-9]+)$")
_LEAST = 2  # characters of a beginning

Found = Mapping[str, list[Attachment]]


class NotFoundError(LookupError):
    """Nothing, or several different things, go by a name. The text is a sentence."""


def find(node: Node, name: str) -> list[Attachment]:
    """The attachments of the container that `name` names (one, unless it has several interfaces); of the
    interface, address or port if it names one of those. NotFoundError.
    """
    if not name.strip():
        raise NotFoundError("the name is empty: an unset variable?")
    if not node.attachments:
        why = node.seen.hidden[0] if node.seen.hidden else "no attachment is recorded on this node"
        raise NotFoundError(f"{name!r}: {why}")
    found = {what: listed for what, look in _LOOKS.items() if (listed := look(node, name))}
    if not found:
        raise NotFoundError(
            _known_otherwise(node, name)
            or f"nothing here goes by {name!r}: give a container id (or its beginning), a task id, an "
            "address, a MAC address, a container's interface on the host, tcp/PORT, pid/PID, or the name of "
            "a network namespace; `mesokit ls` lists what there is"
        )
    for what in _SURE:
        if what in found:
            return found[what]
    return _single(name, found)


def _known_otherwise(node: Node, name: str) -> str:
    """What a name is that no container has, as a sentence; "" when it is nothing that is known."""
    looks = (_a_network, _a_device, _an_address, _a_port, _a_process)
    return next((said for look in looks if (said := look(node, name))), "")


def _a_network(node: Node, name: str) -> str:
    found = any(item.network == name for item in node.attachments)
    return f"{name!r} is a network: mesokit ls -n {shlex.quote(name)}" if found else ""


def _a_device(node: Node, name: str) -> str:
    kind = node.by_name[name].kind if name in node.by_name else ""
    networks = sorted({item.network for item in node.attachments if item.parent == name})
    if networks:
        listed = ", ".join(f"mesokit ls -n {shlex.quote(network)}" for network in networks)
        return f"{name!r} is the {kind or 'device'} of network {' and '.join(networks)}: {listed}"
    if name in node.by_name:
        return f"{name!r} is an interface of this host, and no container's: ip -d link show {name}"
    return ""


def _a_port(_node: Node, name: str) -> str:
    match = _PORT.match(name) or _PORT_FIRST.match(name)
    if match is None:
        return ""
    if not 0 < int(match["number"]) <= 0xFFFF:
        return f"{name!r}: ports are 1 to 65535"
    return (
        f"no container publishes host port {name}; a process of this host may have it: "
        f"ss -lnp sport = :{match['number']}"
    )


def _a_process(_node: Node, name: str) -> str:
    return f"{name!r} runs in no container's network namespace, or nowhere" if _PID.match(name) else ""


def _an_address(node: Node, name: str) -> str:
    address = _ip(name.partition("/")[0])
    return _nobodys(node, address) if address is not None else ""


def _nobodys(node: Node, address: IPv4Address | IPv6Address) -> str:
    """Of an address that no container has."""
    for item in node.attachments:
        for entry in item.addresses:
            if entry.gateway and _ip(entry.gateway) == address:
                return (
                    f"{address} is the gateway of network {item.network}, on {item.parent or 'this host'}: "
                    f"mesokit ls -n {item.network}"
                )
    for item in node.attachments:
        for entry in item.addresses:
            network = ipaddress.ip_network(entry.address, strict=False)
            if network.version == address.version and address in network:
                return (
                    f"nothing here goes by {str(address)!r}: network {item.network} gives addresses of "
                    f"{network}: mesokit ip {item.network}"
                )
    return f"nothing here goes by {str(address)!r}, and no network here gives it"


def _single(name: str, found: Found) -> list[Attachment]:
    several = {tuple(item.identity for item in listed): what for what, listed in found.items()}
    containers = {item.container_id for listed in found.values() for item in listed}
    if len(containers) > 1:
        said = ", ".join(sorted(containers)[:5]) + (", …" if len(containers) > 5 else "")
        kinds = " and ".join(sorted(set(several.values())))
        raise NotFoundError(f"{name!r} is {len(containers)} containers, by {kinds}: {said}")
    return max(found.values(), key=len)


def _by_container(node: Node, name: str) -> list[Attachment]:
    return [item for item in node.attachments if item.container_id == name]


def _by_beginning(node: Node, name: str) -> list[Attachment]:
    if len(name) < _LEAST:
        return []
    return [item for item in node.attachments if item.container_id.startswith(name)]


def _by_task(node: Node, name: str) -> list[Attachment]:
    def named(item: Attachment) -> bool:
        task = node.task(item)
        return task is not None and (name in task.names or name in {task.executor, task.short})

    return [item for item in node.attachments if named(item)]


def _by_address(node: Node, name: str) -> list[Attachment]:
    try:
        wanted = ipaddress.ip_address(name.partition("/")[0])
    except ValueError:
        return []
    return [
        item
        for item in node.attachments
        if any(_ip(ip) == wanted for ip in (*(entry.ip for entry in item.addresses), *item.external))
    ]


def _ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _by_mac(node: Node, name: str) -> list[Attachment]:
    wanted = name.lower().replace("-", ":")
    if not _MAC.match(wanted):
        return []
    return [item for item in node.attachments if wanted in {item.mac, item.host_mac}]


def _by_interface(node: Node, name: str) -> list[Attachment]:
    exact = [item for item in node.attachments if item.host_interface == name]
    return exact or [item for item in node.attachments if f"{item.container_id}/{item.ifname}" == name]


def _by_port(node: Node, name: str) -> list[Attachment]:
    match = _PORT.match(name) or _PORT_FIRST.match(name)
    if match is None or not name.isascii():
        return []
    number, protocol = int(match["number"]), match["protocol"]
    return [
        item
        for item in node.attachments
        if any(port.host_port == number and protocol in {None, port.protocol} for port in item.ports)
    ]


def _by_process(node: Node, name: str) -> list[Attachment]:
    match = _PID.match(name)
    number = match["number"] if match else name
    if not (number.isascii() and number.isdigit()):
        return []
    return _in_namespace(node, Path(f"/proc/{number}/ns/net"))


def _by_namespace(node: Node, name: str) -> list[Attachment]:
    named = [item for item in node.attachments if item.netns and name in {item.netns, Path(item.netns).name}]
    return named or (_in_namespace(node, Path(name)) if name.startswith("/") else [])


def _in_namespace(node: Node, path: Path) -> list[Attachment]:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return []
    wanted = (status.st_dev, status.st_ino)
    return [item for item in node.attachments if node.seen.namespaces.get(item.netns) == wanted]


_LOOKS: Mapping[str, Callable[[Node, str], list[Attachment]]] = {
    "container id": _by_container,
    "beginning of a container id": _by_beginning,
    "task": _by_task,
    "address": _by_address,
    "MAC address": _by_mac,
    "interface": _by_interface,
    "host port": _by_port,
    "process": _by_process,
    "network namespace": _by_namespace,
}
_SURE = ("container id", "address", "MAC address", "interface")
