"""The way out for a step that does not stand: commands that may be pasted, and repeated. Pure.

What a step itself says comes first; rules, limits, forwarding and gateways come back with `mesokit reload`;
what is in the container is made again by hand, because only its runtime could attach it anew.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_interface
from typing import Any

from cni_plugins.steps import registry
from cni_plugins.steps.step import Step
from cni_plugins.view.attachments import Attachment

Arguments = Mapping[str, Any]

_ANEW = "only its runtime can make this again: end the container (Mesos: kill the task) and start it anew"


def enter(netns: str, command: str) -> str:
    return f"nsenter --net={shlex.quote(netns)} {command}"


def remedy(attachment: Attachment, step: Step, said: str) -> str:
    """What to do about a step of the attachment that does not stand; `said` is the step's own advice."""
    if said:
        return said
    made = _BY_KIND.get(registry.kind_of(step))
    if made is not None:
        return made(attachment, registry.encode(step))
    return _reload(attachment) if type(step).restore is not Step.restore else _ANEW


def _reload(attachment: Attachment) -> str:
    return f"mesokit reload --container {shlex.quote(attachment.container_id)}"


def _port(attachment: Attachment, arguments: Arguments) -> str:
    return f"ip link set {arguments['name']} master {arguments['bridge']} up  # if it is gone: {_ANEW}"


def _gateway(attachment: Attachment, arguments: Arguments) -> str:
    return f"ip link set {arguments['interface']} up; {_reload(attachment)}"


def _sysctl(attachment: Attachment, arguments: Arguments) -> str:
    value = shlex.quote(f"net.{arguments['name'].replace('/', '.')}={arguments['after']}")
    return enter(attachment.netns, f"sysctl -w {value}")


def _veth(attachment: Attachment, arguments: Arguments) -> str:
    if not arguments["mtu"]:
        return _ANEW
    size = f"ip link set {arguments['ifname']} mtu {arguments['mtu']}"
    return enter(attachment.netns, size) + f"  # if it is gone: {_ANEW}"


def _reservation(attachment: Attachment, arguments: Arguments) -> str:
    who = f"mesokit ip {shlex.quote(attachment.network)}"
    return f"{_reload(attachment)}  # if another has {arguments['address']} ({who}): end one of the two"


def _addresses(attachment: Attachment, arguments: Arguments) -> str:
    name = arguments["ifname"]
    commands = [f"ip link set {name} up"]
    for entry in arguments["ips"]:
        commands.append(f"ip address replace {entry['address']} dev {name}")
        if arguments["by_gateway"] and entry["gateway"]:
            commands += _inner(entry, name)
    gateways = {
        _version(entry["gateway"]): entry["gateway"] for entry in arguments["ips"] if entry["gateway"]
    }
    for route in arguments["routes"]:
        if route.get("table"):
            continue
        gateway = route.get("gw") or gateways.get(_version(route["dst"]))
        by = f" via {gateway}" if gateway else ""
        commands.append(f"ip route replace {route['dst']}{by} dev {name}")
    return enter(attachment.netns, f"sh -c {shlex.quote('; '.join(commands))}")


def _inner(entry: Mapping[str, Any], name: str) -> Iterator[str]:
    length = 32 if _version(entry["gateway"]) == 4 else 128
    yield f"ip route replace {entry['gateway']}/{length} dev {name}"
    yield f"ip route replace {_network(entry['address'])} via {entry['gateway']} dev {name}"


def _host_routes(attachment: Attachment, arguments: Arguments) -> str:
    return "; ".join(_each_host_route(arguments)) or _ANEW


def _each_host_route(arguments: Arguments) -> Iterator[str]:
    for entry in arguments["ips"]:
        ip = entry["address"].partition("/")[0]
        length = 32 if _version(ip) == 4 else 128
        yield f"ip route replace {ip}/{length} dev {arguments['name']}"


def _version(text: str) -> int:
    return 6 if ":" in text else 4


def _network(text: str) -> str:
    return str(ip_interface(text).network)


_BY_KIND: Mapping[registry.Kind, Callable[[Attachment, Arguments], str]] = {
    registry.Kind.ADDRESSES: _addresses,
    registry.Kind.BRIDGE_PORT: _port,
    registry.Kind.GATEWAY: _gateway,
    registry.Kind.HOST_ROUTES: _host_routes,
    registry.Kind.RESERVATION: _reservation,
    registry.Kind.SYSCTL: _sysctl,
    registry.Kind.VETH: _veth,
}
