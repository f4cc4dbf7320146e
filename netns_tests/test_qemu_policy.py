"""Policy on Debian's kernel: ipvlan and VLANs, judged in the container's own namespace."""

from __future__ import annotations

import pytest

from netns_tests.node import Node
from netns_tests.policy_lan import CLOSED, DB, lan, lan_matrix
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_policy import Box, apply

pytestmark = pytest.mark.timeout(400)
ALLOWED = [r".*file /run/mesokit/policy"]


@pytest.mark.parametrize("mode", ["l2", "l3s"])
def test_ipvlan(node: Node, ours: str, mode: str) -> None:
    """Who reaches whom before and after a change; DEL leaves nothing."""
    world = node.uplink()
    before = snapshot(node, [world])
    boxes = [Box(node, ours, name, lan("ipvlan", mode=mode), role=name) for name in ("db", "web", "x")]
    db, web, other = boxes
    assert web.reaches(db) and other.reaches(db)
    apply(node, [DB])
    assert web.reaches(db) and not other.reaches(db)
    apply(node, [CLOSED])
    assert not web.reaches(db) and not world.ping(db.four, seconds=1)
    for box in boxes:
        assert not box.call("CHECK").error
        box.call("DEL").ok()
        box.netns.run(["sh", "-c", "! nft list ruleset | grep ."])
    assert_clean(node, before, boxes=[world], allowed=[*ALLOWED, ".*(policy.d|netns/)"])


def test_vlan(node: Node, ours: str) -> None:
    """A VLAN is one container's alone: what it is kept from is the machine on the other side."""
    world = node.uplink()
    world.run(["sh", "-c", "ip link add link world name tagged type vlan id 100; ip link set world mtu 1500"])
    world.run(["sh", "-c", "ip addr flush dev world; ip link set tagged up"])
    world.run(
        ["sh", "-c", "ip addr add 192.0.2.1/24 dev tagged; ip addr add 2001:db8::1/64 dev tagged nodad"]
    )
    db = Box(node, ours, "db", lan("vlan", vlanId=100), role="db")
    assert lan_matrix([db], world) == {"d-", "-d"}
    apply(node, [CLOSED])
    assert lan_matrix([db], world) == {"d-"}
    apply(node, [{"name": "out", "for": {}, "egress": []}])
    assert lan_matrix([db], world) == {"-d"}
    db.call("DEL").ok()
