"""What a case of the differential test is, and the pieces that configurations are made of.

Each case is one container (and, where it says so, a second one) on one network, on a fresh node with an
uplink 192.0.2.2/24 and 2001:db8::2/64 (the world behind it: .1 and ::1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Conf = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reach:
    """A probe made after ADD: `kind` ping, tcp or udp; from `source` (node, world, c1, c2) to `target`; for
    tcp and udp a server listens on `listen` (default `port`) in namespace `server`, and the answer is the
    address it saw."""

    kind: str
    source: str
    target: str
    port: int = 0
    server: str = "c1"
    listen: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """`setup` is a shell script run on the node before; `second` attaches container c2 after c1, the same
    way; `rules` also compares the packet filter rule by rule (for configurations that ask for iptables)."""

    name: str
    plugins: Sequence[Conf]
    version: str | None = "1.0.0"
    args: str | None = None
    caps: Mapping[str, Any] = field(default_factory=dict)
    setup: str = ""
    ifname: str = "eth0"
    second: bool = False
    reach: Sequence[Reach] = ()


def local(*subnets: str, **keys: Any) -> Conf:
    """A host-local configuration: one range set for each subnet."""
    return {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets], **keys}


def bridge(ipam: Conf | None, **keys: Any) -> Conf:
    conf: Conf = {"type": "bridge", "bridge": "br0", **keys}
    if ipam is not None:
        conf["ipam"] = ipam
    return conf


def ping(source: str, target: str) -> Reach:
    return Reach("ping", source, target)


V4 = local("10.9.0.0/24")
V6 = local("fd00:9::/64")
DUAL = local("10.9.0.0/24", "fd00:9::/64")
DEFAULT4 = {"dst": "0.0.0.0/0"}
GATEWAY4 = (ping("c1", "10.9.0.1"), ping("node", "10.9.0.2"))
GATEWAY6 = (ping("c1", "fd00:9::1"),)
ABROAD4 = Reach("tcp", "c1", "192.0.2.1", 80, server="world")
ABROAD6 = Reach("tcp", "c1", "2001:db8::1", 80, server="world")
