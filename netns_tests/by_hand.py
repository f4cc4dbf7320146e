"""Containers attached by hand, plugin calls in this process, and what our nf_tables tables hold: for the
tests of what works on top of an attachment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from cni_plugins.main import handle
from cni_plugins.spec.call import Request
from cni_plugins.spec.namespace import Namespace, from_descriptor
from netns_tests.node import Answer, Finished, Netns, Node, answer
from netns_tests.traffic import server

OURS = ""


@contextmanager
def host_of(node: Node) -> Iterator[Namespace]:
    """The node's network namespace, for kernel operations from this process."""
    fd = os.open(f"/proc/{node.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield from_descriptor(fd, "the node's")
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Container:
    """A container on the bridge `br0`, attached by hand; `result` is what the plugin that did it would
    answer."""

    box: Netns
    number: int
    families: tuple[int, ...] = (4, 6)

    @property
    def v4(self) -> str:
        return f"10.88.0.{self.number}"

    @property
    def v6(self) -> str:
        return f"fd88::{self.number}"

    @property
    def result(self) -> dict[str, Any]:
        ips = [
            {"address": f"{self.v4}/24", "gateway": "10.88.0.1", "interface": 1, "family": 4},
            {"address": f"{self.v6}/64", "gateway": "fd88::1", "interface": 1, "family": 6},
        ]
        return {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": self.box.path}],
            "ips": [
                {key: value for key, value in entry.items() if key != "family"}
                for entry in ips
                if entry["family"] in self.families
            ],
        }


def bridge(node: Node) -> None:
    node.shell(
        "ip link add br0 type bridge\n"
        "echo 0 >/proc/sys/net/ipv6/conf/br0/accept_dad\n"
        "ip addr add 10.88.0.1/24 dev br0\n"
        "ip addr add fd88::1/64 dev br0 nodad\n"
        "ip link set br0 addrgenmode none up\n"
        "echo 1 >/proc/sys/net/ipv4/ip_forward\n"
        "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding\n"
    )


def container(node: Node, number: int, families: tuple[int, ...] = (4, 6)) -> Container:
    made = Container(node.netns(f"c{number}"), number, families)
    lines = [
        f"ip link add v{number} type veth peer name eth0 netns c{number}",
        f"ip link set v{number} master br0 addrgenmode none up",
        f"bridge link set dev v{number} hairpin on",
        f"ip -n c{number} link set lo up",
        f"ip -n c{number} link set eth0 addrgenmode none up",
    ]
    if 4 in families:
        lines += [
            f"ip -n c{number} addr add {made.v4}/24 dev eth0",
            f"ip -n c{number} route add default via 10.88.0.1",
        ]
    if 6 in families:
        lines += [
            f"ip -n c{number} addr add {made.v6}/64 dev eth0 nodad",
            f"ip -n c{number} -6 route add default via fd88::1",
        ]
    node.shell("\n".join(lines))
    return made


def conf(target: Container | None, mappings: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    previous = {} if target is None else {"prevResult": target.result}
    return (
        {"cniVersion": "1.0.0", "name": "web", "type": "portmap", "runtimeConfig": {"portMappings": mappings}}
        | previous
        | keys
    )


def call(node: Node, plugins: str, verb: str, target: Container, document: dict[str, Any]) -> Answer:
    """A call of a plugin of a folder, or (plugins "") of ours in this process, with the node's
    descriptors.
    """
    cid = f"cid{target.number}"
    if plugins:
        return node.cni(verb, f"{plugins}/{document['type']}", document, cid, target.box)
    env = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": cid,
        "CNI_NETNS": target.box.path,
        "CNI_IFNAME": "eth0",
        "MESOKIT_ROOT": str(node.path("/")),
    }
    with host_of(node) as host, node.path(target.box.path).open("rb") as box:
        stdin = json.dumps(document).encode()
        reply = handle(Request(document["type"], env, stdin, host.fd, box.fileno()))
    return answer(Finished((document["type"],), reply.status, reply.stdout, reply.stderr))


TCP = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
UDP = {"hostPort": 8053, "containerPort": 53, "protocol": "udp"}


@contextmanager
def serving(target: Container) -> Iterator[None]:
    with ExitStack() as stack:
        for protocol, port in (("tcp", 80), ("udp", 53)):
            stack.enter_context(server(target.box, protocol, port))
        yield


def elements(node: Node) -> list[str]:
    """The elements of our tables, as text."""
    listed = json.loads(node.shell("nft -j list ruleset"))["nftables"]
    return [
        json.dumps(element)
        for entry in listed
        for kind in ("set", "map")
        if entry.get(kind, {}).get("table") == "mesokit"
        for element in entry[kind].get("elem", [])
    ]


def rules(node: Node) -> int:
    return len(
        [entry for entry in json.loads(node.shell("nft -j list ruleset"))["nftables"] if "rule" in entry]
    )


def unfilter_bridges(node: Node) -> None:
    """Bridged packets do not pass through iptables and nf_tables: without this, answers that go directly from
    container to container are translated back on the bridge."""
    node.shell("for f in /proc/sys/net/bridge/bridge-nf-call-*; do echo 0 >$f; done")
