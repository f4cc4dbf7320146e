"""What a snapshot says, and what it leaves out because the kernel does it of its own accord."""

from __future__ import annotations

from netns_tests.node import Node, until
from netns_tests.snapshot import difference, snapshot

LINKS = """
    ip link add br0 type bridge
    ip link add v0 type veth peer name v1
    ip link set v0 master br0
    for name in br0 v0 v1; do ip link set $name up; done
"""


def test_what_comes_a_while_after_is_no_difference(node: Node) -> None:
    """Link-local addresses and their routes, groups, and what a bridge learned when a link spoke."""
    node.shell(LINKS)
    before = snapshot(node)
    until(lambda: node.shell("ip -6 route show table local").count("local fe80::") == 3, what="addresses")
    node.shell("busybox ping -6 -c 1 -W 1 ff02::1%v1 || true")
    learned = (each for each in node.json("bridge", "-j", "fdb", "show", "br", "br0"))
    assert any(each["ifname"] == "v0" and each.get("state") == "" for each in learned)
    assert difference(before, snapshot(node)) == []


def test_what_somebody_added_is_one(node: Node) -> None:
    node.shell(LINKS)
    before = snapshot(node)
    node.shell(
        "ip addr add fe80::1/64 dev br0; ip addr add 10.9.0.1/24 dev br0\n"
        "bridge fdb add 02:00:00:00:00:09 dev v0 master; ip -6 route add fe80:9::/64 dev br0"
    )
    lines = "\n".join(difference(before, snapshot(node)))
    for fact in (
        "address br0 fe80::1/64",
        "address br0 10.9.0.1/24",
        "fdb v0 02:00:00:00:00:09",
        "fe80:9::/64",
    ):
        assert f"+ node: {fact}" in lines or f" {fact} " in lines, lines
