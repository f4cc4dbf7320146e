"""The state of a policy: what is compiled is what the kernel holds, and a crash at any step is made good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from cni_plugins.conftest import new_namespace
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import library, policy
from cni_plugins.policy.compile import Compiler
from cni_plugins.policy.tests.strategies import endpoints, policies
from cni_plugins.policy.tests.test_compile import model, read
from cni_plugins.spec.deadline import after
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.steps import policy_state
from cni_plugins.steps.policy_state import State

WEB = {"name": "w", "for": {}, "ingress": [{"allow": ["tcp/80"], "from": ["any"]}]}
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


def assert_held(host: Namespace, state: State) -> None:
    with Nfnetlink(host) as socket:
        assert policy_state.held(socket) == Compiler(state.policies).compile(state.endpoints).entries


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
            store.update(lambda _, state=state: state)  # type: ignore[misc]
            assert_held(host, state)
            again = store.restore()
            assert (again.new, again.added, again.removed) == (0, 0, 0)


@pytest.mark.parametrize("step", range(5))
def test_a_crash_between_any_two_steps_is_made_good(tmp_path: Path, mocker: MockerFixture, step: int) -> None:
    """The next change finds the mark, and leads to what it says itself."""
    host, roots = new_namespace(), roots_from({"MESOKIT_ROOT": str(tmp_path)})
    old = State(tuple(read([WEB])), (model(MEMBER),), read=True)
    _update(roots, host, old)
    places = [
        (policy, "_run", 1),
        (policy, "_batch", 1),
        (policy, "_batch", 2),
        (policy, "discard", 1),
        (policy_state.Store, "_save", 1),
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
        _update(roots, host, replace(old, policies=tuple(read([DB]))))
    mocker.stopall()
    with policy_state.opened(roots, host, after(30)) as store:
        assert store.state == old
        store.restore()
    assert_held(host, old)
    new = replace(old, policies=tuple(read([WEB, DB])))
    _update(roots, host, new)
    assert_held(host, new)


def _update(roots: Roots, host: Namespace, state: State) -> None:
    with policy_state.opened(roots, host, after(30)) as store:
        store.update(lambda _: state)


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
