"""The state of a policy: what is compiled is what the kernel holds, and a crash at any step is made good."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from cni_plugins.conftest import new_namespace
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import library, policy
from cni_plugins.policy.compile import Compiled, Compiler
from cni_plugins.policy.tests.strategies import endpoints, policies
from cni_plugins.policy.tests.test_compile import model, read
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.steps import policy_kernel, policy_state
from cni_plugins.steps.policy_file import State

WEB = {"name": "w", "for": {}, "ingress": [{"allow": ["tcp/80"], "from": ["any"]}]}
ASK = {"name": "w", "for": {}, "ingress": [{"allow": ["tcp/80"], "from": [{"network": "net"}]}]}
ASK_81 = {"name": "w", "for": {}, "ingress": [{"allow": ["tcp/81"], "from": [{"network": "net"}]}]}
DB = {"name": "d", "for": {}, "egress": [{"allow": ["udp/53"], "to": [{"cidr": "10.0.0.0/8"}]}]}
MEMBER = {
    "network": "net",
    "container": "c1",
    "addresses": ["10.1.0.2", "fd01::2"],
    "subnets": ["10.1.0.0/24"],
    "groups": [],
    "labels": {},
    "default": "isolated",
}


def always(state: State) -> Callable[[State], State]:
    """A change to this state, whatever there was."""
    return lambda _: state


def assert_held(host: Namespace, state: State) -> None:
    with Nfnetlink(host) as socket:
        assert policy_kernel.held(socket) == _compiled(state).entries


def _compiled(state: State) -> Compiled:
    return Compiler(state.policies, names=state.names).compile(state.endpoints)


def assert_no_profile_is_left(host: Namespace, state: State) -> None:
    with Nfnetlink(host) as socket:
        names = {name.rpartition("_")[0] for name in policy.chain_names(socket)}
    wanted = _compiled(state).profiles.keys()
    assert {name for name in names if len(name.rpartition("_")[2]) == 12} == wanted


@settings(max_examples=8, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_kernel_holds_what_is_compiled(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any sequence of policies and endpoints, by differences; never by what a second look would mend."""
    host, roots = new_namespace(), roots_from({"MESOKIT_ROOT": str(tmp_path_factory.mktemp("root"))})
    world = [model(each) for each in data.draw(endpoints())]
    for _ in range(4):
        state = State(
            tuple(read(data.draw(policies()))),
            tuple(data.draw(st.lists(st.sampled_from(world), unique_by=lambda each: each.identity))),
            read=True,
        )
        with policy_state.opened(roots, host, after(30)) as store:
            store.update(always(state))
            assert_held(host, store.state)
            again = store.restore()
            assert (again.new, again.added, again.removed) == (0, 0, 0)


@pytest.mark.parametrize("other", ["another kind", "another port"])
@pytest.mark.parametrize("step", range(7))
def test_a_crash_between_any_two_steps_is_made_good(
    tmp_path: Path, mocker: MockerFixture, step: int, other: str
) -> None:
    """The next change finds the mark, and leads to what it says itself."""
    host, roots = new_namespace(), roots_from({"MESOKIT_ROOT": str(tmp_path)})
    first, then = (WEB, DB) if other == "another kind" else (ASK, ASK_81)
    old = _update(roots, host, State(tuple(read([first])), (model(MEMBER),), read=True))
    places = [
        (policy, "apply", 1),
        (policy, "_batch", 1),
        (policy, "_batch", 2),
        (policy_state.Store, "_save", 1),
        (policy, "forget", 1),
        (policy, "_batch", 3) if other == "another kind" else (policy_state.Store, "_verify", 1),
        (policy_state.Store, "_unmark", 1),
    ]
    where, name, count = places[step]
    real, calls = getattr(where, name), []

    def dying(*arguments: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == count:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    mocker.patch.object(where, name, dying)
    with pytest.raises(KeyboardInterrupt):
        _update(roots, host, replace(old, policies=tuple(read([then]))))
    mocker.stopall()
    with policy_state.opened(roots, host, after(30)) as store:
        written = store.state
        assert (written == old) == (step <= 3)
        store.restore()
    assert_held(host, written)
    assert_no_profile_is_left(host, written)
    new = _update(roots, host, replace(old, policies=tuple(read([WEB, DB]))))
    assert_held(host, new)


def test_a_port_more_or_less_makes_no_chain_anew(tmp_path: Path) -> None:
    """Elements come and go; no rule and no chain does, here and in the next process."""
    host, roots = new_namespace(), roots_from({"MESOKIT_ROOT": str(tmp_path)})
    other = model(MEMBER | {"container": "c2", "addresses": ["10.1.0.3"]})
    state = _update(roots, host, State(tuple(read([ASK])), (model(MEMBER), other), read=True))
    with Nfnetlink(host) as socket:
        chains = policy.chain_names(socket)
    for listed in ([ASK_81], [ASK], [ASK_81]):
        with policy_state.opened(roots, host, after(30)) as store:
            done = store.update(partial(replace, policies=tuple(read(listed))))
            state = store.state
        assert (done.new, done.dead, done.added, done.removed) == (0, 0, 3, 3)
        with Nfnetlink(host) as socket:
            assert policy.chain_names(socket) == chains
        assert_held(host, state)
    assert policy_state.load(roots, host) == state
    with policy_state.opened(roots, host, after(30)) as store:
        assert store.restore().restored == 0
    library.run(host, "flush ruleset\n")
    with policy_state.opened(roots, host, after(30)) as store:
        store.restore()
    assert_held(host, state)


def _update(roots: Roots, host: Namespace, state: State) -> State:
    with policy_state.opened(roots, host, after(30)) as store:
        store.update(lambda _: state)
        return store.state


def test_what_somebody_changed_is_put_right(tmp_path: Path) -> None:
    host, roots = new_namespace(), roots_from({"MESOKIT_ROOT": str(tmp_path)})
    state = State(tuple(read([WEB])), (model(MEMBER),), read=True)
    _update(roots, host, state)
    for harm in (
        "delete element inet mesokit policy_shut_in4 { 10.1.0.2 }",
        "add element inet mesokit policy_self4 { 10.1.0.9 . 10.1.0.9 }",
        "flush map inet mesokit policy_in4",
        "flush ruleset",
    ):
        library.run(host, harm)
        with policy_state.opened(roots, host, after(30)) as store:
            store.restore()
        assert_held(host, state)


def test_a_process_that_remembers_believes_only_what_is_written(tmp_path: Path) -> None:
    """Others change the state and the kernel in between; what it remembers is no part of what comes out."""
    host, roots = new_namespace(), roots_from({"MESOKIT_ROOT": str(tmp_path)})
    memory = policy_state.Memory()
    first, second = model(MEMBER), model(MEMBER | {"container": "c2", "addresses": ["10.1.0.3"]})
    third = model(MEMBER | {"container": "c3", "addresses": ["10.1.0.4"], "groups": ["g"]})
    web, db = tuple(read([WEB])), tuple(read([DB]))
    states = [
        State(web, (first,), read=True),
        State(db, (first,), read=True),
        State(tuple(read([WEB, DB])), (first, third), read=True),
        State((), (second, third), read=True),
        State(web, (second,), read=True),
    ]
    for number, state in enumerate(states * 2):
        mine = memory if number % 2 else None
        with policy_state.opened(roots, host, after(30), mine) as store:
            assert number == 0 or store.state == states[(number - 1) % len(states)]
            store.update(always(state))
        assert_held(host, state)
        assert_no_profile_is_left(host, state)
        assert policy_state.load(roots, host) == state == policy_state.load(roots, host, memory.lines)


def test_the_state_that_an_older_release_wrote_is_read(tmp_path: Path) -> None:
    """One line, as it was up to the release that gave each policy and endpoint its own."""
    host, roots = new_namespace(), roots_from({"MESOKIT_ROOT": str(tmp_path)})
    state = State(tuple(read([WEB, DB])), (model(MEMBER),), read=True)
    _update(roots, host, state)
    path = roots.run / "policy" / "state.json"
    found = json.loads(path.read_text())
    assert [item["name"] for item in found["policies"]] == ["w", "d"]
    path.write_text(json.dumps(found))
    assert policy_state.load(roots, host) == state
    path.write_text(json.dumps(found | {"version": 2}))
    with pytest.raises(CniError, match="newer release"):
        policy_state.load(roots, host)


def test_what_an_older_release_left_in_the_kernel_is_made_anew(tmp_path: Path) -> None:
    """It gave profiles of the same name more sets, and rules for them."""
    host, roots = new_namespace(), roots_from({"MESOKIT_ROOT": str(tmp_path)})
    state = State(tuple(read([WEB])), (model(MEMBER),), read=True)
    _update(roots, host, state)
    with policy_state.opened(roots, host, after(30)) as store:
        store.restore()
    verified = roots.run / "policy" / "verified"
    verified.write_text(verified.read_text().partition(" ")[2])  # its seal began with the namespace
    name = next(iter(Compiler(state.policies, names=state.names).compile(state.endpoints).profiles))
    before = library.run(host, "list ruleset\n")
    library.run(host, f"add set inet mesokit {name}_z4 {{ type ipv4_addr; }}\n")
    library.run(host, f"insert rule inet mesokit {name}_4 ip saddr @{name}_z4 accept\n")
    library.run(host, "add set inet mesokit in_0123456789ab_p4 { type ipv4_addr; }\n")
    with policy_state.opened(roots, host, after(30)) as store:
        store.restore()
    after_it = library.run(host, "list ruleset\n")
    assert before.count("accept") == after_it.count("accept")
    assert "in_0123456789ab" not in after_it


def test_attachments_look_at_the_fixed_chains_after_somebody_elses_change_alone(tmp_path: Path) -> None:
    host, roots = new_namespace(), roots_from({"MESOKIT_ROOT": str(tmp_path)})
    policies = tuple(read([WEB]))
    members = [
        model(MEMBER | {"container": f"c{number}", "addresses": [f"10.1.0.{number}"]}) for number in (2, 3, 4)
    ]
    seals = []
    for count in (1, 2, 3):
        _update(roots, host, State(policies, tuple(members[:count]), read=True))
        seal = roots.run / "policy" / "verified"
        seals.append(seal.read_text().rpartition(" ")[2] if seal.exists() else "")
    assert seals == ["", "chains", "chains"]
    before = library.run(host, "list chain inet mesokit policy_forward\n")
    library.run(host, "flush chain inet mesokit policy_forward\n")
    state = State(policies, tuple(members[:1]), read=True)
    _update(roots, host, state)
    assert library.run(host, "list chain inet mesokit policy_forward\n") == before
    assert_held(host, state)
