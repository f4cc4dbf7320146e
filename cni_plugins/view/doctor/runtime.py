"""The Mesos agent of this host, and whether containers reach it and their name servers."""

from __future__ import annotations

import errno
import os
import struct
from _socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM, socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

from cni_plugins.kernel.namespace import entered
from cni_plugins.plugins.registry import MODULES
from cni_plugins.spec.namespace import Namespace
from cni_plugins.store import network_files
from cni_plugins.view import configurations
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.doctor.facts import Facts, Finding, Level
from cni_plugins.view.inside import opened
from cni_plugins.view.runtimes import Agent, agents

_SECONDS = 1.0
_PORT = 5051
_RESOLV_CONF = "/etc/resolv.conf"
#: A question for the name servers of the root, RFC 1035, 4.1.
_QUESTION = struct.pack(">HHHHHH", 0x6D65, 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack(">HH", 2, 1)


def agent_flags(facts: Facts) -> Iterator[Finding]:
    for agent in agents():
        places = [place for place in agent.flags.get("network_cni_plugins_dir", "").split(":") if place]
        folder = agent.flags.get("network_cni_config_dir", "")
        if not places or not folder:
            if facts.node.attachments:
                yield Finding(
                    "agent-flags",
                    Level.WARN,
                    "the Mesos agent that runs here knows no CNI networks",
                    f"process {agent.pid} has no --network_cni_plugins_dir and --network_cni_config_dir",
                    "--network_cni_plugins_dir=/opt/cni/bin "
                    f"--network_cni_config_dir={network_files.DIRECTORY}",
                )
            continue
        for path, config in configurations.files(facts.roots):
            if config is None or str(path.parent) != folder:
                continue
            for section in configurations.sections(config):
                name = section.get("type")
                if (
                    name in MODULES
                    and section is config
                    and not any(os.access(Path(place) / str(name), os.X_OK) for place in places)
                ):
                    yield Finding(
                        "agent-flags",
                        Level.FAIL,
                        f"the agent has no plugin {name}, which {path} asks for",
                        f"--network_cni_plugins_dir={':'.join(places)}",
                        f"packaging/install puts it there; or a link: ln -s …/{name} {places[0]}/",
                    )


def agent_unreachable(facts: Facts) -> Iterator[Finding]:
    """From inside one container of each network: an executor there must reach the agent."""
    endpoints = [(agent, _endpoint(facts, agent)) for agent in agents()]
    for item, namespace in _one_of_each(facts) if endpoints else ():
        for agent, (host, port) in endpoints:
            if not host:
                continue
            why = _connect(namespace, host, port)
            if why:
                yield Finding(
                    "agent-unreachable",
                    Level.FAIL,
                    f"containers of network {item.network} do not reach the Mesos agent: executors there "
                    "cannot register",
                    f"from {item.container_id} to {host}:{port}: {why}; the agent is process {agent.pid}",
                    f"mesokit ping {item.container_id} {host} tcp/{port}",
                )


def _endpoint(facts: Facts, agent: Agent) -> tuple[str, int]:
    """Where executors are told to find the agent; "" where only the agent knows."""
    port = agent.flags.get("advertise_port") or agent.flags.get("port") or str(_PORT)
    said = agent.flags.get("advertise_ip") or agent.flags.get("ip") or ""
    if said in {"", "0.0.0.0", "::"}:
        said = _address(facts)
    return said, int(port) if port.isdigit() else _PORT


def _address(facts: Facts) -> str:
    """The address of the link that the default route leaves by."""
    for route in facts.routes[4]:
        if not route.route.dst.network.prefixlen:
            for entry in facts.addresses:
                if entry.index == route.index and entry.address.version == 4:
                    return str(entry.address.ip)
    return ""


def _one_of_each(facts: Facts) -> Iterator[tuple[Attachment, Namespace]]:
    seen = set()
    for item, inside in facts.inside.items():
        if item.network in seen or inside.link is None or not item.addresses:
            continue
        namespace = opened(item, facts.host)
        if namespace is None:
            continue
        seen.add(item.network)
        try:
            yield item, namespace
        finally:
            os.close(namespace.fd)


def _connect(namespace: Namespace, host: str, port: int) -> str:
    """Why a connection does not come about, "" when it does or is refused by a listener that is not there."""
    family = AF_INET6 if ":" in host else AF_INET
    with entered(namespace):
        opened_ = socket(family, SOCK_STREAM)
    with closing(opened_) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect((host, port))
        except OSError as error:
            return "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
    return ""


def name_servers(facts: Facts) -> Iterator[Finding]:
    """Those that a network's result names (others are the runtime's own choice)."""
    for item, namespace in _one_of_each(facts):
        result = next((each.result for each in reversed(item.contents) if each.result), None) or {}
        dns = result.get("dns")
        servers = dns.get("nameservers") if isinstance(dns, dict) else None
        listed = [str(server) for server in servers] if isinstance(servers, list) else []
        if not listed:
            yield from _host_resolver(facts, item)
            continue
        own = [server for server in listed if _is_loopback(server)]
        if own:
            yield Finding(
                "name-servers",
                Level.FAIL,
                f"containers of network {item.network} are told to ask {', '.join(own)} for names, which is "
                "themselves: it is a resolver of the host",
                f"dns of the result of {item.container_id}, from `resolvConf` or `dns` of its network",
                '"resolvConf": "/run/systemd/resolve/resolv.conf" in the network\'s ipam, or name servers '
                "under `dns`; then restart its tasks",
            )
            continue
        families = {":" in entry.ip for entry in item.addresses}
        asked = [server for server in listed if (":" in server) in families]
        if not asked:
            yield Finding(
                "name-servers",
                Level.FAIL,
                f"containers of network {item.network} have no address of the family of their name servers",
                f"name servers {', '.join(listed)}",
                "name one of the other family under `dns`, or give the network both families",
            )
        elif not any(_answers(namespace, server) for server in asked):
            yield Finding(
                "name-servers",
                Level.FAIL,
                f"no name server answers containers of network {item.network}",
                f"asked from {item.container_id}: {', '.join(asked)}",
                f"mesokit ping {item.container_id} {asked[0]} udp/53",
            )


def _host_resolver(facts: Facts, item: Attachment) -> Iterator[Finding]:
    """A Mesos agent gives a container the host's resolv.conf when its network names no server
    (network/cni isolator); other runtimes look after that themselves.
    """
    if "/mesos/" not in item.netns:
        return
    try:
        lines = facts.roots.relocate(_RESOLV_CONF).read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    words = [line.split() for line in lines]
    servers = [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]
    if servers and all(_is_loopback(server) for server in servers):
        yield Finding(
            "name-servers",
            Level.FAIL,
            f"containers of network {item.network} get the host's {_RESOLV_CONF}, which names "
            f"{', '.join(servers)}: that is themselves",
            f"{_RESOLV_CONF} of the host; the network names no server",
            '"dns": {"nameservers": [...]} in the network\'s configuration, or "resolvConf": '
            '"/run/systemd/resolve/resolv.conf" in its ipam; then restart its tasks',
        )


def _is_loopback(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _answers(namespace: Namespace, server: str) -> bool:
    family = AF_INET6 if ":" in server else AF_INET
    with entered(namespace):
        opened_ = socket(family, SOCK_DGRAM)
    with closing(opened_) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect((server, 53))
            connection.send(_QUESTION)
            return bool(connection.recv(512))
        except OSError as error:
            return error.errno == errno.EMSGSIZE
        except ValueError:
            return False


CHECKS = (agent_flags, agent_unreachable, name_servers)
