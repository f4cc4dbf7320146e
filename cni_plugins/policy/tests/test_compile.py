"""What is compiled means what the text says: the sets, looked up as the kernel does, against an evaluator
that shares no code with the compiler."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni_plugins.policy import document
from cni_plugins.policy.compile import Compiled, Compiler
from cni_plugins.policy.explain import Packet, Sets, judge, judge_untracked
from cni_plugins.policy.model import Default, Endpoint, Policy
from cni_plugins.policy.profile import Entry
from cni_plugins.policy.read import parse
from cni_plugins.policy.selection import Members
from cni_plugins.policy.tests import evaluator
from cni_plugins.policy.tests.strategies import PROTOCOLS, endpoints, policies, probes


def read(listed: list[dict[str, Any]]) -> list[Policy]:
    found, problems = parse(json.dumps({"policies": listed}), "p.json")
    assert not problems
    return found


def model(endpoint: dict[str, Any]) -> Endpoint:
    return Endpoint(
        network=endpoint["network"],
        container=endpoint["container"],
        ifname="eth0",
        addresses=tuple(map(ip_address, endpoint["addresses"])),
        subnets=tuple(map(ip_network, endpoint["subnets"])),
        groups=frozenset(endpoint["groups"]),
        labels=tuple(sorted(endpoint["labels"].items())),
        default=Default(endpoint["default"]),
        link="br0",
        port=f"v{endpoint['container']}",
        bridged=True,
    )


def verdict(entries: Iterable[Entry], compiler: Compiler, probe: tuple[str, str, str, int]) -> bool:
    source, target, protocol, number = probe
    numbers = PROTOCOLS[protocol]
    packet = Packet(ip_address(source), ip_address(target), numbers[":" in source], number)
    return judge(sets_of(entries), compiler.profiles, packet).allowed


def sets_of(entries: Iterable[Entry]) -> Sets:
    by_set: dict[str, list[Entry]] = {}
    for entry in entries:
        by_set.setdefault(entry.set, []).append(entry)
    return lambda name: by_set.get(name, [])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_sets_mean_what_the_policies_say(data: st.DataObject) -> None:
    world = data.draw(endpoints())
    listed = data.draw(policies())
    compiler = Compiler(read(listed))
    compiled = compiler.compile([model(each) for each in world])
    for probe in data.draw(probes(world)):
        expected = evaluator.allowed(listed, world, probe)
        assert verdict(compiled.entries, compiler, probe) == expected, probe


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_sets_mean_what_the_policies_say_of_what_nobody_tracks(data: st.DataObject) -> None:
    world = data.draw(endpoints())
    listed = data.draw(policies())
    compiler = Compiler(read(listed))
    sets = sets_of(compiler.compile([model(each) for each in world]).entries)
    for source, target, protocol, far in data.draw(probes(world)):
        near = data.draw(st.sampled_from([80, 5432, 8100])) if protocol not in ("icmp", "47") else 0
        number = PROTOCOLS[protocol][":" in source]
        packet = Packet(ip_address(source), ip_address(target), number, far, near)
        expected = evaluator.allowed_untracked(listed, world, (source, target, protocol, near, far))
        assert judge_untracked(sets, compiler.profiles, packet).allowed == expected, packet


def test_without_the_key_nothing_is_made_for_what_nobody_tracks() -> None:
    """Neither another profile nor another rule; and with it those that judge flows are the same."""
    closed = {"name": "a", "for": {}, "ingress": [{"allow": ["tcp/80"], "from": ["any"]}], "egress": []}
    plain, both = (
        Compiler(read([each])).compile([model({**_ENDPOINT})])
        for each in (closed, closed | {"untracked": "both"})
    )
    assert {each.kind for each in plain.profiles.values()} == {"in", "out", "host"}
    assert {each.kind for each in both.profiles.values()} == {"in", "out", "host", "send", "take"}
    for name, profile in plain.profiles.items():
        assert profile.kind == "host" or both.profiles[name] == profile


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_differences_lead_to_what_is_compiled_anew(data: st.DataObject) -> None:
    world = [model(each) for each in data.draw(endpoints())]
    some = data.draw(st.lists(st.sampled_from(world), unique_by=lambda each: each.identity))
    others = data.draw(st.lists(st.sampled_from(world), unique_by=lambda each: each.identity))
    before = Compiler(read(data.draw(policies())))
    after = before if data.draw(st.booleans()) else Compiler(read(data.draw(policies())))
    held = before.compile(some)
    change = after.change(before, some, others)
    profiles = set(held.profiles) | {each.name for each in change.new}
    assert profiles - {each.name for each in change.dead} == set(after.compile(others).profiles)
    dead = tuple(f"{each.name}_" for each in change.dead)
    assert change.remove <= held.entries
    assert not change.add & held.entries
    left = {entry for entry in held.entries - change.remove if not entry.set.startswith(dead or ("-",))}
    assert left | change.add | change.fill == after.compile(others).entries


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_inherited_is_what_is_compiled_anew(data: st.DataObject) -> None:
    """Through several changes, of which each may leave most policies as they are."""
    world = Members([model(each) for each in data.draw(endpoints())])
    listed = read(data.draw(policies()))
    compiler = Compiler(listed)
    compiler.used(world)
    for _ in range(3):
        drawn = read(data.draw(policies()))
        both = {item.name: item for item in (*listed, *drawn)}
        chosen = data.draw(st.sets(st.sampled_from(sorted(both)))) if both else set()
        listed = [both[name] for name in sorted(chosen)]
        compiler, fresh = Compiler(listed, compiler), Compiler(listed)
        assert compiler.compile(world) == fresh.compile(world)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_profile_has_the_sets_of_all_that_may_come_to_be_in_it(data: st.DataObject) -> None:
    """The sets are chosen when the profile is made; endpoints come later."""
    compiler = Compiler(read(data.draw(policies())))
    world = [model(each) for each in data.draw(endpoints())]
    for entry in compiler.compile(world).entries:
        name, _, rest = entry.set.rpartition("_")
        if name in compiler.profiles:
            assert rest[0] in compiler.profiles[name].sets


def test_a_profile_has_no_set_that_nothing_can_come_to_be_in() -> None:
    rules = [
        {"allow": ["tcp/80", "icmp"], "from": [{"labels": {"role": "web"}}]},
        {"allow": ["tcp/443"], "from": [{"cidr": "192.168.0.0/16"}]},
    ]
    for listed, expected in ((rules[:1], "pa"), (rules[1:], "pc"), (rules, "pac")):
        compiler = Compiler(read([{"name": "a", "for": {}, "ingress": listed}]))
        compiler.assignment(model({**_ENDPOINT}))
        (profile,) = [item for item in compiler.profiles.values() if item.kind == "in"]
        assert profile.sets == frozenset(expected)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_state_gives_back_what_was_written(data: st.DataObject) -> None:
    for policy in read(data.draw(policies())):
        assert document.policy(json.loads(json.dumps(document.of_policy(policy)))) == policy
    for endpoint in map(model, data.draw(endpoints())):
        assert document.endpoint(json.loads(json.dumps(document.of_endpoint(endpoint)))) == endpoint


def test_where_a_rule_stands_is_no_part_of_a_profile() -> None:
    text = '{"policies": [{"name": "n", "for": {},\n "ingress": [{"allow": ["tcp/1"], "from": ["any"]}]}]}'
    world = [model({**_ENDPOINT})]
    names: list[set[str]] = []
    for spaced in (text, "\n\n" + text):
        listed, _ = parse(spaced, "p.json")
        compiled: Compiled = Compiler(listed).compile(world)
        names.append(set(compiled.profiles))
    assert names[0] == names[1]


_ENDPOINT: dict[str, Any] = {
    "network": "net",
    "container": "c1",
    "addresses": ["10.1.0.2"],
    "subnets": ["10.1.0.0/24"],
    "groups": [],
    "labels": {},
    "default": "open",
}


@pytest.mark.parametrize("default", list(Default))
def test_without_policies_an_open_network_has_no_profile(default: Default) -> None:
    world = [model({**_ENDPOINT, "default": default.value})]
    profiles = Compiler([]).compile(world).profiles
    assert bool(profiles) == (default is not Default.OPEN)


def test_profiles_are_named_as_those_that_the_kernel_holds_already() -> None:
    """The name is part of what an older release left in the kernel: the digest of the rules' repr(), and of
    the number that rises with a release that writes them as other rules.
    """
    peers = [{"labels": {"role": "web"}}, {"cidr": "10.0.0.0/8"}]
    rule = {"allow": ["tcp/80"], "from": peers}
    for rules in ([], [rule], [rule, rule | {"allow": ["tcp/81"]}]):
        compiler = Compiler(read([{"name": "a", "for": {}, "ingress": rules}]))
        compiler.assignment(Endpoint("net", "c", "eth0", (ip_address("10.9.0.2"),)))
        (profile,) = [each for each in compiler.profiles.values() if each.kind == "in"]
        text = repr((2, "in", profile.rules, ""))
        assert profile.name == f"in_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def test_an_endpoint_is_found_by_each_part_of_a_selector() -> None:
    """What looks up who may be meant leaves out nobody that a selector, or a CIDR peer, means."""
    labels = (("role", "web"), ("tier", "a"))
    mine = Endpoint("net", "c", "eth0", (ip_address("10.9.0.2"),), (), frozenset({"g"}), labels)
    other = Endpoint("other", "d", "eth0", (ip_address("10.8.0.2"),))
    selectors: list[dict[str, Any]] = [
        {},
        {"network": "net"},
        {"container": "c"},
        {"groups": ["g"]},
        {"labels": {"tier": None}},
        {"labels": {"role": "web", "tier": None}},
        {"network": "net", "container": "c", "group": "g", "labels": {"role": "web"}},
    ]
    for selector in selectors:
        compiler = Compiler(read([{"name": "a", "for": selector, "ingress": []}]))
        assert compiler.assignment(mine).into
        assert bool(compiler.assignment(other).into) == (selector == {})
    for peer in ("any", {"cidr": "10.9.0.2/32"}, *(selector for selector in selectors if selector)):
        compiler = Compiler(
            read([{"name": "a", "for": {}, "ingress": [{"allow": ["tcp/80"], "from": [peer]}]}])
        )
        made = compiler.compile((mine, other))
        found = {
            entry.key[:4] for entry in made.entries if entry.set.startswith("in_") and "_p4" in entry.set
        }
        assert mine.addresses[0].packed in found
        assert (other.addresses[0].packed in found) == (peer == "any")
