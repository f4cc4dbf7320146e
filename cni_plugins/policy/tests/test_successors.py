"""A profile that takes another's place under its name: what it leads to, and what holds meanwhile."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni_plugins.policy import successors
from cni_plugins.policy.compile import Change, Compiler
from cni_plugins.policy.profile import Entry
from cni_plugins.policy.selection import Members
from cni_plugins.policy.tests import evaluator
from cni_plugins.policy.tests.strategies import endpoints, policies, probes
from cni_plugins.policy.tests.test_compile import model, read, verdict

MEMBER: dict[str, Any] = {
    "network": "net",
    "container": "c1",
    "addresses": ["10.1.0.2", "fd01::2"],
    "subnets": ["10.1.0.0/24"],
    "groups": [],
    "labels": {"role": "db"},
    "default": "isolated",
}
WEB = MEMBER | {"container": "c2", "addresses": ["10.1.0.3", "fd01::3"], "labels": {"role": "web"}}
FROM_WEB = [{"labels": {"role": "web"}}]


def policy(*rules: dict[str, Any], role: str = "db") -> dict[str, Any]:
    return {"name": role, "for": {"labels": {"role": role}}, "ingress": list(rules)}


def allow(*traffic: str) -> dict[str, Any]:
    return {"allow": list(traffic), "from": FROM_WEB}


@dataclass
class Node:
    """What a node's kernel holds, as changes leave it."""

    compiler: Compiler = field(default_factory=lambda: Compiler(()))
    members: Members = field(default_factory=lambda: Members(()))
    entries: set[Entry] = field(default_factory=set)
    profiles: set[str] = field(default_factory=set)

    def become(
        self, listed: list[dict[str, Any]], world: list[dict[str, Any]], *, inherit: bool = True
    ) -> tuple[Change, set[Entry]]:
        """The change, and what is held between its two transactions."""
        before, old, names = self.compiler, self.members, self.compiler.names
        members = Members([model(each) for each in world])
        if old.without(members) == members.without(old) == []:
            members = old
        after = Compiler(read(listed), before if inherit else None, names)
        successors.follow(before, old, after, members)
        after.settle(members)
        change = after.change(before, old, members)
        dead = tuple(f"{each.name}_" for each in change.dead)
        between = self.entries | change.fill
        assert change.remove <= self.entries
        assert not change.fill & self.entries
        left = {entry for entry in between - change.remove if not entry.set.startswith(dead or ("-",))}
        self.entries = left | change.add
        self.profiles -= {each.name for each in change.dead}
        assert not self.profiles & {each.name for each in change.new}
        self.profiles |= {each.name for each in change.new}
        self.compiler, self.members = after, members
        assert self.entries == after.compile(members).entries
        fresh = Compiler(read(listed), names=after.names).compile(members)
        assert (fresh.entries, set(fresh.profiles)) == (self.entries, self.profiles)
        return change, between


def edited(data: st.DataObject, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With another word in one of the rules."""
    found = copy.deepcopy(listed)
    rules = [rule for item in found for way in ("ingress", "egress") for rule in item.get(way, ())]
    if rules:
        rule = data.draw(st.sampled_from(rules))
        key = "allow" if "allow" in rule else "deny"
        rule[key] = data.draw(st.lists(st.sampled_from(["tcp/80", "tcp/81", "udp/53", "icmp"]), min_size=1))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_through_edits_the_kernel_holds_what_is_compiled_and_never_more_than_both(
    data: st.DataObject,
) -> None:
    world = data.draw(endpoints())
    listed, node = data.draw(policies(most=3)), Node()
    node.become(listed, world)
    for _ in range(4):
        was, old, here = node.entries, node.compiler, listed
        kind = data.draw(st.sampled_from(["edit", "edit", "edit", "other", "world"]))
        some = data.draw(st.lists(st.sampled_from(world), unique_by=str)) if kind == "world" else world
        listed = data.draw(policies(most=3)) if kind == "other" else edited(data, listed)
        change, between = node.become(listed, some, inherit=data.draw(st.booleans()))
        there = {each.name for each in change.new}
        assert not any(
            entry.end or entry.flags
            for entry in change.fill | change.remove
            if entry.set.rpartition("_")[0] in node.profiles - there and kind != "world"
        )
        if some is not world:
            node.become(listed, world)
            continue
        for probe in data.draw(probes(world, count=6)):
            expected = evaluator.allowed(here, world, probe), evaluator.allowed(listed, world, probe)
            assert (verdict(was, old, probe), verdict(node.entries, node.compiler, probe)) == expected
            # Old maps still lead where they led: to profiles that have what is to come in them already.
            assert verdict(between, old, probe) in expected


def test_a_port_a_peer_or_an_address_more_or_less_makes_no_chain() -> None:
    world, node = [MEMBER, WEB], Node()
    node.become([policy(allow("tcp/80", "icmp"))], world)
    for rules in (
        [allow("tcp/81", "icmp")],
        [allow("tcp/80", "tcp/81", "icmp")],
        [allow("tcp/80", "icmp")],
        [{"allow": ["tcp/80", "icmp"], "from": [{"labels": {"role": "db"}}]}],
    ):
        change, _ = node.become([policy(*rules)], world)
        assert not (change.new or change.dead)
        assert {entry.set[:3] for entry in change.fill | change.remove} == {"in_"}
        assert not change.add


def _sets(change: Change) -> set[str]:
    """The profiles of whose sets elements come or go."""
    names = {entry.set.rpartition("_")[0] for entry in change.fill | change.add | change.remove}
    return {name for name in names if not name.startswith(("policy", "port"))}


CIDR = {"allow": ["tcp/443"], "from": [{"cidr": "192.168.0.0/16"}]}


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([allow("tcp/80-1000", "icmp")], id="another kind of set"),
        pytest.param([allow("tcp/81", "icmp"), CIDR], id="intervals"),
        pytest.param([], id="no set at all"),
    ],
)
def test_what_takes_other_rules_or_intervals_is_made_anew(rules: list[dict[str, Any]]) -> None:
    world, node = [MEMBER, WEB], Node()
    node.become([policy(allow("tcp/80", "icmp"))], world)
    change, _ = node.become([policy(*rules)], world)
    assert len(change.dead) == 1
    assert _sets(change) <= {each.name for each in change.new}


def test_an_audit_is_made_anew() -> None:
    """Its chain's counter is of what this very audit would have refused."""
    world, node = [MEMBER, WEB], Node()
    node.become([policy(allow("tcp/80")) | {"audit": True}], world)
    change, _ = node.become([policy(allow("tcp/81")) | {"audit": True}], world)
    assert len(change.new) == len(change.dead) == 1


def test_who_goes_to_another_profile_never_meets_what_neither_allows() -> None:
    """web had tcp/80 with db, and is to have nothing: it may not meet what comes to db's profile."""
    shared = {"name": "all", "for": {}, "ingress": [allow("tcp/80")]}
    node, world = Node(), [MEMBER, WEB]
    node.become([shared], world)
    for listed in ([policy(allow("tcp/81"))], [shared], [policy(allow("tcp/80"), role="web")], [shared]):
        change, _ = node.become(listed, world)
        assert _sets(change) <= {each.name for each in change.new}


def test_a_name_that_another_content_has() -> None:
    """tcp/80 is db's first; what comes in its place has its name when web is to have the same as db had."""
    world, node = [MEMBER, WEB], Node()
    contents = {}
    for port in (80, 81, 82, 83):
        node.become([policy(allow(f"tcp/{port}"))], world)
        (contents[port],) = [
            each.content for each in node.compiler.profiles.values() if each.rules and each.kind == "in"
        ]
    called = contents[80]
    assert node.compiler.names == ((contents[83], called),)
    node.become([policy(allow("tcp/83")), policy(allow("tcp/80"), role="web")], world)
    found = dict(node.compiler.names)
    assert found[contents[83]] == called
    assert found[contents[80]] not in contents.values()
    node.become([policy(allow("tcp/80")), policy(allow("tcp/80"), role="web")], world)
    assert dict(node.compiler.names) == {contents[80]: found[contents[80]]}
    node.become([policy(allow("tcp/80")), policy(allow("tcp/81"), role="web")], world)
    node.become(
        [policy(allow("tcp/82")), policy(allow("tcp/80"), role="web")],
        [*world, world[0] | {"container": "c3", "addresses": ["10.1.0.9"]}],
    )
    node.become([], [])
    assert not node.profiles
    assert not node.compiler.names


def test_two_who_change_places_keep_their_profiles() -> None:
    world, node = [MEMBER, WEB], Node()
    one, other = allow("tcp/80"), allow("tcp/81")
    node.become([policy(one), policy(other, role="web")], world)
    change, _ = node.become([policy(other), policy(one, role="web")], world)
    assert not (change.new or change.dead or _sets(change))
