"""Policy on Debian's kernel: between the ports of a bridge by bridge conntrack, which the kernel under the
other tests may lack; of ipvlan and VLANs in the container's own namespace.
"""

from __future__ import annotations

import json

import pytest

from cni_plugins.kernel.tests.test_profile_rules import PROFILES, assert_is_what_the_compiler_makes
from netns_tests.cases_links import TAGGED
from netns_tests.node import Node
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, apply, conf
from netns_tests.policy_lan import CLOSED, DB, closes_and_leaves_nothing, device, lan
from netns_tests.policy_world import by_no_filter_of_all_bridges, packets_arrive_where_the_evaluator_says
from netns_tests.test_policy import assert_tagged_frames_do_not_pass
from netns_tests.test_policy_attack import assert_nothing_gets_past, assert_nothing_reaches_the_node
from netns_tests.test_policy_scenarios import assert_untracked_is_judged

pytestmark = pytest.mark.timeout(400)


def test_packets_arrive_where_the_evaluator_says(ours: str) -> None:
    """Random policies and real packets, through bridge conntrack and between bridge and routed pairs."""
    defaults = {"one": "groups", "two": "open"}
    count = packets_arrive_where_the_evaluator_says(ours, defaults, examples=2, seconds=6)
    assert count >= 400, count


def test_bridge_conntrack(node: Node, ours: str) -> None:
    """What judges is told, and explain reads its sets; br_netfilter stays off; what somebody flushed or took
    away is seen and made again; nothing is left.
    """
    by_no_filter_of_all_bridges(node)
    db, web, other = (Box(node, ours, name, conf(), role=name) for name in ("db", "web", "x"))
    apply(node, [DB])
    assert web.reaches(db) and not other.reaches(db)
    shown = node.run([MESOKIT, "policy", "show", "--json"]).json()
    assert {item["enforced"] for item in shown["endpoints"]} == {"bridge conntrack of br0"}
    assert shown["missing"] == 0
    assert "nf_call_iptables 0" in node.shell("ip -d link show br0")
    told = node.run([MESOKIT, "policy", "explain", "web", "db", "tcp/5432", "--json"])
    assert all(answer["allowed"] for answer in json.loads(told.text))
    node.shell(f"nft delete element bridge mesokit policy_in4 '{{ {db.four} }}'")
    refused = node.run([MESOKIT, "policy", "explain", web.four, db.four, "tcp/5432"], check=False)
    assert refused.status == 1 and "shut" in refused.text
    assert not web.netns.ping(db.four, seconds=2)
    assert db.call("CHECK").error and apply(node)["restored"] == 1
    node.shell("nft flush chain bridge mesokit policy_ports")
    assert other.reaches(db) and db.call("CHECK").error
    apply(node, [CLOSED])
    assert not web.reaches(db) and not db.call("CHECK").error
    for box in (db, web, other):
        box.call("DEL").ok()
    node.run(["sh", "-c", "! nft list ruleset | grep -E 'elements|[a-z]_[0-9a-f]{12}'"])


def test_a_tag_hides_no_packet(node: Node, ours: str) -> None:
    """A frame with a VLAN tag of number 0 is an ordinary one to who gets it."""
    assert_tagged_frames_do_not_pass(node, ours)


def test_nothing_gets_past_a_policy(node: Node, ours: str) -> None:
    """Tags and other ether types, sources and targets that are nobody's, fragments, neighbours that lie."""
    assert_nothing_gets_past(node, ours)


def test_what_nobody_tracks_is_judged_where_a_policy_wants_it(node: Node, ours: str) -> None:
    """40: an administrator's rules in the bridge family, and bridge conntrack."""
    by_no_filter_of_all_bridges(node)
    assert_untracked_is_judged(node, ours, "bridge", family="bridge")


def test_nothing_reaches_the_node(node: Node, ours: str) -> None:
    assert_nothing_reaches_the_node(node, ours, "bridge")


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


def test_vlan(node: Node, ours: str) -> None:
    """By a machine that is in the same VLAN."""
    world = node.uplink()
    node.shell(TAGGED)
    closes_and_leaves_nothing(
        node, Box(node, ours, "db", device("vlan", master="eth0", vlanId=100), role="db"), world
    )


def test_a_profile_is_what_the_compiler_makes_of_it() -> None:
    """In the bridge family."""
    for profile in PROFILES:
        if profile.kind not in ("host", "from"):
            assert_is_what_the_compiler_makes(profile, bridged=True)
