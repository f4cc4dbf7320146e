"""The service's part of policy: files that changed are applied, and what somebody flushed is made again."""

from __future__ import annotations

import logging
from dataclasses import replace

from cni_plugins.kernel import tracked
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.policy.compile import Compiler
from cni_plugins.policy.explain import Packet, judge
from cni_plugins.policy.profile import Entry
from cni_plugins.policy.read import Refused, read_directory
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.steps import policy_state
from cni_plugins.steps.policy_file import State

log = logging.getLogger("mesokit.node")

_SECONDS = 30.0
_NAMED = 10


def upkeep(roots: Roots, host: Namespace) -> None:
    """Make the files hold, if they are right, and the kernel as it has to be; log what was wrong."""
    if not (roots.run / "policy" / "state.json").exists():
        return
    try:
        _upkeep(roots, host)
    except CniError as error:
        log.error("policy: %s", error)


def _upkeep(roots: Roots, host: Namespace) -> None:
    policies = None
    try:
        policies = tuple(read_directory(policy_state.directory(roots)))
    except Refused as error:
        for problem in error.problems:
            log.error("policy: %s", problem)
        log.error("policy: the files are refused; what was applied before holds on")
    with policy_state.opened(roots, host, after(_SECONDS)) as store:
        if policies is not None and policies != store.state.policies:
            done = store.update(lambda state: replace(state, policies=policies, read=True))
            log.warning(
                "policy: %d policies applied to %d endpoints (%d elements added, %d removed)",
                len(policies),
                len(store.state.endpoints),
                done.added,
                done.removed,
            )
        mended = store.restore()
        if mended.added or mended.removed or mended.new:
            _tell_of_the_gap(host, store.state, mended.added + mended.new)


def _tell_of_the_gap(host: Namespace, state: State, missing: int) -> None:
    """What was tracked while the policy was not whole, and is refused now."""
    compiler = Compiler(state.policies)
    held: dict[str, list[Entry]] = {}
    for entry in compiler.compile(state.endpoints).entries:
        held.setdefault(entry.set, []).append(entry)
    mine = {address for endpoint in state.endpoints for address in endpoint.addresses}
    refused: list[str] = []
    with Nfnetlink(host) as socket:
        for flow in tracked.flows(socket):
            if flow.source in mine or flow.target in mine:
                packet = Packet(flow.source, flow.target, flow.protocol, flow.port)
                if not judge(lambda name: held.get(name, []), compiler.profiles, packet).allowed:
                    refused.append(
                        f"{flow.source} to {flow.target} protocol {flow.protocol} port {flow.port}"
                    )
    more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    log.warning(
        "policy: somebody removed it from nf_tables (%d elements and chains), and it is back; flows that it "
        "refuses and that passed before it or meanwhile: %s%s",
        missing,
        "; ".join(refused[:_NAMED]) or "none",
        more,
    )
