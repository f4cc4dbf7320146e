"""Network policy: whom it does not reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cni_plugins.steps import policy_places
from cni_plugins.view.doctor.facts import Facts, Finding, Level

if TYPE_CHECKING:
    from cni_plugins.view.unjudged import Outside


def outside_policy(facts: Facts) -> Iterator[Finding]:
    """Once for each network."""
    if not policy_places.state_file(facts.roots).exists():
        return
    from cni_plugins.steps import policy_state
    from cni_plugins.view.unjudged import unjudged

    state = policy_state.load(facts.roots, facts.host)
    networks: dict[tuple[str, str], list[Outside]] = {}
    for each in unjudged(facts.node, state):
        networks.setdefault((each.item.network, each.why), []).append(each)
    for (network, why), found in networks.items():
        first, more = found[0], f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield Finding(
            "outside-policy",
            Level.WARN,
            f"no policy judges what containers of network {network} send and get",
            f"{first.item.ifname} of {first.item.container_id}{more}: {why}",
            first.remedy,
        )


def refusing_untracked(facts: Facts) -> list[str]:
    """The containers to or from which nothing passes that nobody tracks: those that a policy closes, and none
    has it judged. CniError 5.
    """
    if not policy_places.state_file(facts.roots).exists():
        return []
    from cni_plugins.policy.compile import Compiler
    from cni_plugins.steps import policy_state

    state = policy_state.load(facts.roots, facts.host)
    compiler = Compiler(state.policies, names=state.names)
    found = set()
    for item in state.endpoints:
        assigned = compiler.assignment(item)
        refuses = (assigned.shut_out and not assigned.send) or (assigned.shut_in and not assigned.take)
        if refuses and not item.inside:
            found.add(item.container)
    return sorted(found)


CHECKS = (outside_policy,)
