"""Policy on Debian's kernel: between the ports of a bridge by bridge conntrack, which the kernel under the
other tests may lack; of ipvlan and VLANs in the container's own namespace.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from cni_plugins.kernel.tests.test_profile_rules import PROFILES, assert_is_what_the_compiler_makes
from netns_tests.cases_links import TAGGED
from netns_tests.node import Node, until
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, apply, conf
from netns_tests.policy_lan import CLOSED, DB, closes_and_leaves_nothing, device, lan
from netns_tests.policy_world import by_no_filter_of_all_bridges, packets_arrive_where_the_evaluator_says
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_policy import assert_tagged_frames_do_not_pass
from netns_tests.test_policy_attack import (
    FLOW,
    OF_A_LAN,
    Machine,
    assert_nothing_gets_into,
    assert_nothing_gets_past,
    assert_nothing_reaches_the_node,
    host_of,
    sent,
)
from netns_tests.test_policy_scenarios import assert_untracked_is_judged

pytestmark = pytest.mark.timeout(400)

ROUTED = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.8.0.0/24"}], [{"subnet": "fd08::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
}


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


def test_nothing_gets_into_an_ipvlan(node: Node, ours: str) -> None:
    """From another of the same master, which has the same MAC address."""
    assert_nothing_gets_into(node, ours, lan("ipvlan", mode="l2"), {"udp4", "udp6", "gre", "sctp"})


def test_nothing_gets_into_a_vlan(node: Node, ours: str) -> None:
    """From a machine that is in the same VLAN; a datagram that it may send comes in after all others."""
    world = node.uplink()
    node.shell(f"{TAGGED}; ip -n world addr add fd09::1/64 dev tagged nodad")
    ranges = [[{"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.2"}], [{"subnet": "fd09::/64"}]]
    ipam = {"type": "host-local", "ranges": ranges}
    db = Box(node, ours, "db", device("vlan", master="eth0", vlanId=100, ipam=ipam), role="db")
    mac = world.json("ip", "-j", "link", "show", "tagged")[0]["address"]
    machine = Machine(world, [mac, "10.9.0.1", "fd09::1"])
    _, heard = sent(machine, host_of(db), db.netns, world, by="tagged")
    assert heard >= {"udp4", "udp6", "gre", "sctp"}
    apply(node, [CLOSED | {"ingress": [{"allow": ["udp/9"], "from": [{"cidr": "10.9.0.1/32"}]}]}])
    db.netns.run(["python3", "-c", FLOW], check=False)
    _, heard = sent(machine, host_of(db), db.netns, world, by="tagged")
    assert heard <= OF_A_LAN, heard


def _unloaded(module: str) -> bool:
    subprocess.run(["rmmod", module], capture_output=True, check=False)
    return not Path(f"/sys/module/{module}").exists()


@contextmanager
def out_of_reach(node: Node, *modules: str) -> Iterator[None]:
    """Modules that are not there, and that neither the kernel nor the node finds."""
    loader = Path("/proc/sys/kernel/modprobe")
    before = loader.read_text()
    loader.write_text("/bin/false\n")
    try:
        for module in modules:
            until(partial(_unloaded, module), what=f"{module} goes")
        node.shell("mount -t tmpfs none /usr/lib/modules")
        yield
    finally:
        loader.write_text(before)
        subprocess.run(["modprobe", "br_netfilter"], check=True)


def test_a_kernel_that_judges_nothing_between_ports(node: Node, ours: str) -> None:
    """42: neither bridge conntrack nor br_netfilter: refused in one sentence before anything is made; a
    bridge without policy and a routed pair with it are as ever.
    """
    box = node.netns("c1")
    with out_of_reach(node, "nf_conntrack_bridge", "br_netfilter"):
        before = snapshot(node, [box])
        for made in (conf("isolated"), conf("open")):
            for verb in ("STATUS", "ADD"):
                answer = node.cni(verb, f"{ours}/bridge", made, "c1", box)
                assert answer.code == 50 and answer.error is not None, answer
                said = (
                    "policy cannot be enforced between the ports of a bridge: this kernel has no br_netfilter"
                )
                assert answer.error["msg"] == said
                assert "and no bridge conntrack" in answer.error["details"]
            node.cni("DEL", f"{ours}/bridge", made, "c1", box).ok()
        assert_clean(node, before, boxes=[box], allowed=[r"file /run/mesokit/policy"])
        assert not node.cni("STATUS", f"{ours}/bridge", conf(None), "c1", box).error
        node.cni("ADD", f"{ours}/bridge", conf(None), "c1", box).ok()
        db, web = (
            Box(node, ours, name, conf("open", name="p", type="ptp", ipam=ROUTED), role=name)
            for name in ("db", "web")
        )
        assert web.reaches(db)
        apply(node, [CLOSED])
        assert not web.reaches(db) and db.reaches(web)


def test_a_profile_is_what_the_compiler_makes_of_it() -> None:
    """In the bridge family."""
    for profile in PROFILES:
        if profile.kind not in ("host", "from"):
            assert_is_what_the_compiler_makes(profile, bridged=True)
