"""A task with every right in its own network namespace cannot keep its DEL from coming through, nor leave
anything on the host, whatever it did to what it was given."""

from __future__ import annotations

import pytest

from netns_tests.node import Node
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_crash import NET, SCENARIOS

NAMES = ("bridge", "ptp", "macvlan-policy", "tap", "tuning", "sbr", "bandwidth", "firewall-nftables", "chain")
#: Each alone, in the container.
ACTS = (
    "ip link set eth0 down",
    "ip addr flush dev eth0; ip route flush table main; ip -6 route flush table main",
    "sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
    "ip rule flush; ip -6 rule flush; ip route flush table all",
    "nft flush ruleset",
    "ip link set eth0 down; ip link set eth0 name x0; ip link set x0 up",
    "ip link set eth0 name x0; ip link add eth0 type veth peer name y0; ip link set eth0 up",
    "ip link set eth0 mtu 1280; ip link set eth0 address 02:00:00:00:00:99",
    "ip link add br9 type bridge; ip link set eth0 master br9",
    "ip link del eth0",
)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_task_did_its_del_comes_through(node: Node, ours: str, name: str) -> None:
    conf = {**NET, **SCENARIOS[name]}
    node.uplink()
    before = snapshot(node)
    for act in ACTS:
        box = node.netns("c1")
        node.cni("ADD", f"{ours}/{conf['type']}", conf, "c1", box).ok()
        box.run(["sh", "-c", act], check=False)
        node.cni("DEL", f"{ours}/{conf['type']}", conf, "c1", box).ok()
        box.delete()
        assert_clean(node, before, act)
