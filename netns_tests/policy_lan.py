"""Containers on a LAN of the node's, whose packets the host does not see, and who reaches whom."""

from __future__ import annotations

from typing import Any

from netns_tests.node import Netns, Node
from netns_tests.policy_box import Box, apply, conf, pairs_that_reach, task
from netns_tests.test_policy import DB

__all__ = ["CLOSED", "DB", "add_lan", "closes_and_leaves_nothing", "device", "lan", "lan_matrix"]

CLOSED = DB | {"ingress": []}
#: Of the LAN that `Node.uplink` makes: 192.0.2.1 and 2001:db8::1 are the other machine.
RANGES = [
    [{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100", "rangeEnd": "192.0.2.200"}],
    [{"subnet": "2001:db8::/64", "rangeStart": "2001:db8::100", "rangeEnd": "2001:db8::200"}],
]


def lan(kind: str, default: str | None = "open", **keys: Any) -> dict[str, Any]:
    made = conf(default, type=kind, master="eth0", ipam={"type": "host-local", "ranges": RANGES}) | keys
    return {key: value for key, value in made.items() if key not in ("bridge", "isDefaultGateway")}


def device(kind: str, **keys: Any) -> dict[str, Any]:
    """An interface whose only neighbour is 10.9.0.1."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.2"}]]}
    made = conf("open", type=kind, ipam=ipam) | keys
    return {key: value for key, value in made.items() if key not in ("bridge", "isDefaultGateway")}


def closes_and_leaves_nothing(node: Node, box: Box, neighbour: Netns) -> None:
    """A container of role db: its neighbour reaches it until a policy closes it, and it reaches on."""
    assert box.reaches("10.9.0.1") and neighbour.ping(box.four, seconds=3)
    apply(node, [CLOSED])
    assert box.reaches("10.9.0.1") and not neighbour.ping(box.four, seconds=1)
    assert not box.call("CHECK").error
    box.call("DEL").ok()
    box.netns.run(["sh", "-c", "! nft list ruleset | grep ."])


def add_lan(node: Node, ours: str, made: dict[str, Any], box: Netns, **labels: str) -> dict[str, Any]:
    made = made | {"args": task([], labels)}
    return node.cni("ADD", f"{ours}/{made['type']}", made, box.name, box).ok()


def lan_matrix(boxes: list[Box], world: Netns) -> set[str]:
    """The pairs that reach one another, by the first letters of their names; - is the other machine."""
    containers = {box.name[0]: (box.netns, box.addresses) for box in boxes}
    return pairs_that_reach({**containers, "-": (world, ("192.0.2.1", "2001:db8::1"))})
