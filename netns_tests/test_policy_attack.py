"""A container that sends whatever it likes gets nothing past a policy: to another on the same bridge, to the
node itself, over a routed link, and into a container whose own namespace judges.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netns_tests.node import Netns, Node, until
from netns_tests.policy_box import Box, apply, conf
from netns_tests.policy_lan import lan
from netns_tests.test_policy import DB

PROGRAM = Path(__file__).with_name("policy_attack.py")
LAST = "import socket, sys; socket.socket(2, 2).sendto(b'<last>', (sys.argv[1], int(sys.argv[2])))"
DHCP = 67  #: what the node always hears
#: What the kernel itself keeps from a neighbour on an open network: fragments that are never whole, that
#: overlap, or of which the first does not have all headers.
NEVER = {"fragment", "fragment6", "overlap6", "late ports6", "inner6"}
EGRESS = {"name": "x", "for": {"labels": {"role": "x"}}, "egress": [{"allow": ["any"], "to": ["world"]}]}
#: One port is open to the sender; none of his frames is for it, though some of them show it.
SHOWN = DB | {"ingress": [*DB["ingress"], {"allow": ["udp/9"], "from": [{"labels": {"role": "x"}}]}]}
#: Flows of the receiver's that an error may be about.
FLOW = """
import socket
for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(("", 7777))
    s.sendto(b"x", (target, 9))
    s.close()
"""
#: What the stack of IP takes in wherever nothing is closed, by way of a router too.
ARRIVING = {"udp4", "udp6", "fragments", "fragments6", "gre", "ipip6", "six", "sctp", "destination"}
#: What any machine of a LAN may say to another, and says under a router's name if it likes.
OF_A_LAN = {"error", "error6", "local nd", "neighbour", "router"}
GATEWAY = ["10.9.0.1", "fd09::1"]


@dataclass(frozen=True)
class Machine:
    """An attacker that is no container: MAC, IPv4 and IPv6 address."""

    netns: Netns
    host: list[str]


def ptp() -> dict[str, Any]:
    made = conf(type="ptp")
    made["ipam"] = made["ipam"] | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    return made


def host_of(box: Box) -> list[str]:
    mac = next(item["mac"] for item in box.result["interfaces"] if item.get("sandbox"))
    return [mac, box.four, box.six]


def sent(
    attacker: Box | Machine,
    his: list[str],
    at: Node | Netns,
    last: Node | Netns,
    *,
    listen: tuple[str, ...] = ("hear",),
    port: int = 9,
    by: str = "eth0",
    **more: Any,
) -> tuple[set[str], set[str]]:
    """The names of frames that one sends to `his` addresses, and of those that come in `at` there. `last`
    sends a datagram after all of these that is heard in any case.
    """
    listening = at.popen(["python3", str(PROGRAM), *listen])
    try:
        until(lambda: b"ready" in listening.output(), what="somebody listens")
        mine = attacker.host if isinstance(attacker, Machine) else host_of(attacker)
        said = {"mine": mine, "his": his, "gateway": GATEWAY, **more}
        told = attacker.netns.run(["python3", str(PROGRAM), "send", by, json.dumps(said)]).text
        last.run(["python3", "-c", LAST, his[1], str(port)])
        until(lambda: b"\nlast\n" in listening.output(), what="all that comes has come")
        heard = set(listening.output().decode().splitlines()) - {"ready", "last"}
    finally:
        listening.kill()
    return set(told.splitlines()), heard


def assert_nothing_gets_past(node: Node, ours: str) -> None:
    """Closed at the receiver, then at the sender; on an open network all of it arrives."""
    node.uplink()
    db, web, other = (Box(node, ours, name, conf(), role=name) for name in ("db", "web", "x"))
    listen = ("listen", "eth0")
    names, heard = sent(other, host_of(db), db.netns, node, listen=listen)
    assert names - heard <= NEVER, names - heard
    for policy in (DB, EGRESS, SHOWN):
        apply(node, [policy])
        db.netns.run(["python3", "-c", FLOW])
        _, heard = sent(other, host_of(db), db.netns, node, listen=listen)
        assert sorted(heard) == []
    apply(node, [DB])
    assert web.reaches(db)


def assert_nothing_reaches_the_node(node: Node, ours: str, kind: str) -> None:
    """At no address of the node's, by no protocol; on an open network it arrives."""
    node.uplink()
    other = Box(node, ours, "x", conf(type="bridge") if kind == "bridge" else ptp(), role="x")
    link = "br0" if kind == "bridge" else other.result["interfaces"][0]["name"]
    (shown,) = node.json("ip", "-j", "addr", "show", "dev", link)
    local = next(each["local"] for each in shown["addr_info"] if each["local"].startswith("fe80"))
    his = [shown["address"], *GATEWAY]
    others = ["192.0.2.2", "2001:db8::2", local, "224.0.0.1", "255.255.255.255", "ff02::1", "ff02::2"]
    more: dict[str, Any] = {"port": DHCP, "others": others, "flow": ["192.0.2.2", "2001:db8::2"]}
    node.run(["python3", "-c", FLOW])
    _, heard = sent(other, his, node, other.netns, **more)
    assert heard >= ARRIVING | {"error", "error6", *(f"other {each}" for each in others)}
    apply(node, [EGRESS])
    node.run(["python3", "-c", FLOW])
    _, heard = sent(other, his, node, other.netns, **more)
    assert sorted(heard) == []


def test_nothing_gets_past_a_policy(node: Node, ours: str) -> None:
    assert_nothing_gets_past(node, ours)


def test_nothing_reaches_the_node(node: Node, ours: str) -> None:
    assert_nothing_reaches_the_node(node, ours, "bridge")


def test_nothing_reaches_the_node_by_a_routed_link(node: Node, ours: str) -> None:
    assert_nothing_reaches_the_node(node, ours, "ptp")


def test_nothing_gets_past_a_policy_of_routed_links(node: Node, ours: str) -> None:
    node.uplink()
    db, other = (Box(node, ours, name, ptp(), role=name) for name in ("db", "x"))
    router = next(item["mac"] for item in other.result["interfaces"] if not item.get("sandbox"))
    his = [router, db.four, db.six]
    _, heard = sent(other, his, db.netns, node)
    assert heard >= ARRIVING
    for policy in (DB, EGRESS):
        apply(node, [policy])
        db.netns.run(["python3", "-c", FLOW])
        _, heard = sent(other, his, db.netns, node)
        assert sorted(heard) == []


def test_nothing_gets_into_a_container_that_judges_itself(node: Node, ours: str) -> None:
    assert_nothing_gets_into(node, ours, lan("macvlan"), ARRIVING | OF_A_LAN)


def assert_nothing_gets_into(node: Node, ours: str, made: dict[str, Any], arriving: set[str]) -> None:
    """From a neighbour of the same master; `arriving` is what comes in while nothing is closed."""
    world = node.uplink()
    db, web, other = (Box(node, ours, name, made, role=name) for name in ("db", "web", "x"))
    _, heard = sent(other, host_of(db), db.netns, world)
    assert heard >= arriving, arriving - heard
    apply(node, [DB | {"ingress": [*DB["ingress"], {"allow": ["udp/9"], "from": ["world"]}]}])
    db.netns.run(["python3", "-c", FLOW])
    _, heard = sent(other, host_of(db), db.netns, world)
    assert heard <= OF_A_LAN
    assert web.reaches(db)
