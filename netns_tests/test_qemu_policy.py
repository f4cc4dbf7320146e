"""Policy on Debian's kernel: ipvlan, judged in the container's own namespace."""

from __future__ import annotations

import pytest

from netns_tests.node import Node
from netns_tests.policy_lan import CLOSED, DB, lan
from netns_tests.test_policy import Box, apply

pytestmark = pytest.mark.timeout(400)


def test_ipvlan(node: Node, ours: str) -> None:
    """Who reaches whom before and after a change; DEL leaves no rule in a namespace."""
    world = node.uplink()
    boxes = [Box(node, ours, name, lan("ipvlan", mode="l2"), role=name) for name in ("db", "web", "x")]
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
