"""Filters of traffic control that drop all (doctor, `traffic-filters`): most kinds need Debian's kernel."""

from __future__ import annotations

from netns_tests.node import Node
from netns_tests.test_night import doctor
from netns_tests.test_view import WEB, attach

DROPS = (
    ("$C1 ingress matchall action drop", "drops all that comes in by veth"),
    ("$C1 egress protocol ip u32 match u32 0 0 action drop", "drops all IPv4 that goes out by veth"),
    ("eth0 egress protocol ipv6 flower action drop", "drops all IPv6 that goes out by eth0, an uplink"),
    ("web0 ingress matchall action mirred ingress redirect dev lo", "leads all that comes in by web0 to lo"),
)
WISHES = (
    "$C1 ingress protocol ip flower ip_proto tcp dst_port 25 action drop",
    "$C1 ingress protocol ip u32 match ip dst 203.0.113.0/24 action drop",
    "eth0 egress matchall action mirred egress mirror dev lo",
    "eth0 ingress matchall action pass",
)


def test_filters_that_drop_all_are_told(node: Node, plugins: str) -> None:
    node.uplink()
    attach(node, plugins, WEB, "c1")
    (veth,) = [link["ifname"] for link in node.json("ip", "-j", "link", "show", "master", "web0")]
    env = {"C1": veth}
    node.run(["sh", "-ec", "for link in $C1 eth0 web0; do tc qdisc add dev $link clsact; done"], env=env)
    for wish in WISHES:
        node.run(["sh", "-ec", f"tc filter add dev {wish}"], env=env)
    assert doctor(node) == []
    for drop, says in DROPS:
        node.run(["sh", "-ec", f"tc filter add dev {drop}"], env=env)
        (found,) = doctor(node)
        assert found["check"] == "traffic-filters" and says in found["about"], found
        node.run(["sh", "-ec", found["remedy"]])
        assert doctor(node) == [], found
