"""Policy and the node itself: published ports, who comes by them, and what the host and containers may say to
one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from netns_tests.node import Netns, Node
from netns_tests.plugins import MESOKIT
from netns_tests.policy_ask import asks_for_neighbours, passes, serving
from netns_tests.policy_box import Box, apply, conf
from netns_tests.traffic import ask, server

GATEWAY = ("10.9.0.1", "fd09::1")
UPLINK = ("192.0.2.2", "2001:db8::2")
FOR_DB = {"labels": {"role": "db"}}
WEB = {"labels": {"role": "web"}}


def published(policy: str, **more: Any) -> dict[str, Any]:
    """The node's port 8080 is the container's 80."""
    return {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "portmap",
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}, *more.get("ports", ())]},
        "delegate": conf(policy, ipMasq=True, hairpinMode=True),
    }


def routed(policy: str, kind: str) -> dict[str, Any]:
    """With a way to all that the node reaches, whatever the plugin."""
    made = conf(policy, type=kind)
    return made | {"ipam": made["ipam"] | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}}


def world_of(node: Node) -> Netns:
    world = node.uplink()
    asks_for_neighbours(node)
    return world


def test_published_ports_are_judged_by_the_containers_port(node: Node, plugins: str) -> None:
    """From a neighbour, from itself and from outside; with the client's own address for the policy to see.
    (br_netfilter translates before the bridge forwards, so that the way to oneself needs hairpinMode.)
    """
    world = world_of(node)
    db = Box(node, plugins, "db", published("open"), role="db")
    web = Box(node, plugins, "web", conf("open"), role="web")
    with server(db.netns, "tcp", 80):
        assert [ask(world, "tcp", each, 8080) for each in UPLINK] == ["192.0.2.1", "2001:db8::1"]
    everybody: list[tuple[Box | Netns, Sequence[str]]] = [(web, GATEWAY), (db, GATEWAY), (world, UPLINK)]

    def reach(*rules: dict[str, Any]) -> list[bool]:
        if rules:
            apply(node, [{"name": "n", "for": FOR_DB, "ingress": list(rules)}])
        return [passes(who, where, "tcp/8080") == [True] for who, where in everybody]

    with serving(db):
        assert reach() == [True, True, True]
        assert reach({"allow": ["tcp/80"], "from": ["world"]}) == [False, True, True]
        assert reach({"allow": ["tcp/80"], "from": [WEB]}) == [True, True, False]
        cidrs = [{"cidr": "192.0.2.1/32"}, {"cidr": "2001:db8::1/128"}]
        assert reach({"allow": ["tcp/80"], "from": cidrs}) == [False, True, True]
        assert reach({"allow": ["tcp/8080"], "from": ["any"]}) == [False, True, False]


def test_check_tells_of_the_nodes_port_where_the_containers_is_judged(node: Node, ours: str) -> None:
    """Of who publishes it and of who asks for it; a rule that has both ports is right."""
    Box(node, ours, "db", published("open"), role="db")
    Box(node, ours, "web", conf("open"), role="web")

    dns = {"allow": ["udp/53"], "to": ["any"]}

    def warned(traffic: str, action: str = "allow") -> list[str]:
        rule = {action: [traffic]}
        apply(node, [
            {"name": "in", "for": FOR_DB, "ingress": [rule | {"from": ["any"]}]},
            {"name": "out", "for": WEB, "egress": [rule | {"to": [FOR_DB]}, dns]},
        ])  # fmt: skip
        found = node.run([MESOKIT, "policy", "check", "--json"]).json()["warnings"]
        return [each.partition(": ")[2] for each in found]

    tail = "tcp/8080, which is the node's port; policy judges that of db, tcp/80"
    assert warned("tcp/8080") == [f"policy 'in' allows {tail}", f"policy 'out' allows {tail}"]
    assert warned("tcp/8000-9000", "deny") == [f"policy 'in' denies {tail}", f"policy 'out' denies {tail}"]
    for traffic in ("tcp/80", "tcp", "any", "tcp/80-8080", "udp/8080", "tcp/8081"):
        assert warned(traffic) == [], traffic


def test_to_oneself_and_to_a_neighbour_by_a_published_port(node: Node, plugins: str) -> None:
    """In an isolated network oneself is no neighbour; a neighbour's port is what it leads to."""
    db = Box(node, plugins, "db", published("isolated"), role="db")
    web = Box(node, plugins, "web", conf("isolated"), role="web")
    with serving(db):
        assert passes(db, GATEWAY, "tcp/8080") == [True]
        assert passes(web, GATEWAY, "tcp/8080") == [False]
        for port, passed in (("tcp/80", True), ("tcp/8080", False)):
            into = {"name": "in", "for": FOR_DB, "ingress": [{"allow": [port], "from": [WEB]}]}
            out = {"name": "out", "for": WEB, "egress": [{"allow": [port], "to": [FOR_DB]}]}
            apply(node, [into, out])
            assert passes(web, GATEWAY, "tcp/8080") == [passed]
            assert passes(db, GATEWAY, "tcp/8080") == [True]


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_the_host_reaches_who_does_not_deny_it(node: Node, plugins: str, kind: str) -> None:
    """Isolated or not; and where a rule denies it the container reaches the agent's port on."""
    node.uplink()
    box = Box(node, plugins, "web", routed("isolated", kind), role="web")
    with serving(box):
        assert passes(node, box, "tcp/80", "udp/80", "icmp") == [True] * 3
        apply(node, [{"name": "n", "for": WEB, "ingress": [{"deny": ["any"], "from": ["host"]}]}])
        assert passes(node, box, "tcp/80", "udp/80", "icmp") == [False] * 3
    with server(node, "tcp", 5051):
        assert passes(box, UPLINK, "tcp/5051") == [True]


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_egress_without_the_host(node: Node, plugins: str, kind: str) -> None:
    """None of its addresses is reached but at the agent's port; a resolver there is what a rule allows."""
    node.uplink()
    out = {"allow": ["any"], "to": [{"labels": {"role": "x"}}, {"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}]}
    box = Box(node, plugins, "web", routed("open", kind), role="web")
    with serving(node), server(node, "tcp", 5051):
        # Who answers UDP at all addresses answers from the nearest: it is asked at that.
        for addresses, dns in ((GATEWAY, "udp/53"), (UPLINK, "tcp/53")):
            ways = ("tcp/80", dns, "tcp/5051")
            apply(node, [])
            assert passes(box, addresses, *ways) == [True] * 3
            apply(node, [{"name": "n", "for": WEB, "egress": [out]}])
            assert passes(box, addresses, *ways, "icmp") == [False, False, True, False]
            apply(node, [{"name": "n", "for": WEB, "egress": [{"allow": [dns], "to": ["host"]}]}])
            assert passes(box, addresses, *ways) == [False, True, True]
