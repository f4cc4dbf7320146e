"""The service's part of policy: files that changed are applied, and what somebody flushed is made again.

The former is done by a process that lives (policy_process.py, `serve` here), the latter in the process that
makes all rules again (rules_watch.py), before those of single attachments.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import select
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from cni_plugins.kernel import tracked
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.node.inside_watch import InsideWatch
from cni_plugins.node.policy_process import NOTHING_TO_DO
from cni_plugins.node.policy_watch import PolicyWatch
from cni_plugins.policy.explain import Packet
from cni_plugins.policy.model import Policy
from cni_plugins.policy.read import Refused, read_directory
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace
from cni_plugins.spec.roots import Roots, roots_from
from cni_plugins.steps import policy_flows, policy_state
from cni_plugins.steps.policy_file import State
from cni_plugins.steps.policy_inside import Look
from cni_plugins.steps.policy_state import Memory

log = logging.getLogger("mesokit.node")

_SECONDS = 30.0
_MOMENT_SECONDS = 0.005  # what is written within that is applied together
_NAMED = 10
_JUDGED = 1_000  # flows: a container can make a great many
_FLOWS = 20_000  # to list them takes 0.1 s of a processor and 7 MB, at every change
_LEAVE_SECONDS = 3.0  # containers end and begin again; forking anew costs as much as a change


def serve() -> int:
    """Apply the files whenever one has changed, for as long as there are endpoints."""
    roots, host = roots_from(os.environ), open_namespace(OWN_NETNS)
    if host is None:
        return NOTHING_TO_DO
    memory = Memory()
    watch = PolicyWatch(policy_state.directory(roots))  # before the first look: nothing is missed
    with contextlib.suppress(OSError):  # else what is above it is watched, which tells of every attachment
        policy_state.inside_directory(roots).mkdir(parents=True, exist_ok=True)
    arrivals = PolicyWatch(policy_state.inside_directory(roots))
    departures = PolicyWatch(policy_state.endpoints_directory(roots))
    inside, leaving = InsideWatch(), Leaving(policy_state.endpoints_directory(roots) / "some")
    while True:
        inside.looked()
        upkeep(roots, host, memory)
        _give_back()
        while memory.lines.state.endpoints:
            some = any(item.inside for item in memory.lines.state.endpoints)
            files = (watch.fileno(), arrivals.fileno(), departures.fileno())
            _wait(files, inside if some else None, leaving)
            if watch.changed():
                break
            if departures.changed():
                leaving.hear()
            if leaving.is_due() and not _endpoints(roots, host, memory):
                return NOTHING_TO_DO
            if arrivals.changed() or (some and not inside.patience()):
                inside.looked()
                _look_inside(roots, host, memory)
        else:
            return NOTHING_TO_DO


@dataclass(slots=True)
class Leaving:
    """When to end: a while after the last endpoint has gone, as `note` tells, unless another one comes."""

    note: Path
    _at: float = math.inf

    def hear(self) -> None:
        """The note has come or gone."""
        if self.note.exists():
            self._at = math.inf
        else:
            self._at = min(self._at, time.monotonic() + _LEAVE_SECONDS)

    def patience(self) -> float:
        """Seconds until it is due."""
        return max(0.0, self._at - time.monotonic())

    def is_due(self) -> bool:
        """Whether to look for endpoints and end without any; true once."""
        if self.patience():
            return False
        self._at = math.inf
        return True


def _endpoints(roots: Roots, host: Namespace, memory: Memory) -> bool:
    """Whether there is one by now. True where that cannot be told."""
    try:
        return bool(policy_state.load(roots, host, memory.lines).endpoints)
    except CniError as error:
        log.error("policy: %s", error)
        return True


def _wait(files: Iterable[int], inside: InsideWatch | None, leaving: Leaving) -> None:
    """Until one of `files` has news, a look at what is `inside` is due or may be, or it is time to end."""
    events = select.poll()
    for each in (*files, *(inside.watched() if inside is not None else ())):
        events.register(each, select.POLLIN)
    seconds = min(leaving.patience(), math.inf if inside is None else inside.patience())
    events.poll(None if math.isinf(seconds) else math.ceil(seconds * 1000))
    time.sleep(_MOMENT_SECONDS)
    if inside is not None:
        inside.hear()


def _look_inside(roots: Roots, host: Namespace, memory: Memory) -> None:
    """Make the rules of containers' namespaces again where somebody has changed them."""
    try:
        with policy_state.opened(roots, host, after(_SECONDS), memory) as store:
            _tell_of_namespaces(store.restore_inside())
    except CniError as error:
        log.error("policy: %s", error)


def _tell_of_namespaces(looks: Iterable[Look]) -> None:
    for look in looks:
        if look.problem:
            log.error("policy: %s: not enforced: %s", look.who, look.problem)
        else:
            log.warning(
                "policy: %s: somebody removed %d elements and chains from its network namespace, and they "
                "are back",
                look.who,
                look.mended,
            )


def _give_back() -> None:
    """To the kernel, the memory that the C library holds for later: looking everything through takes more
    than is left of it.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library: its own arrangements
        ctypes.CDLL(None).malloc_trim(0)


def upkeep(roots: Roots, host: Namespace, memory: Memory | None = None) -> None:
    """Make the files hold, if they are right, and the kernel as it has to be; log what was wrong."""
    if not (roots.run / "policy" / "state.json").exists():
        return
    try:
        _upkeep(roots, host, memory or Memory())
    except CniError as error:
        log.error("policy: %s", error)


def _read(roots: Roots, memory: Memory) -> tuple[Policy, ...] | None:
    """The policies of the files; None when those are refused."""
    try:
        return tuple(read_directory(policy_state.directory(roots), memory.parsed))
    except Refused as error:
        for problem in error.problems:
            log.error("policy: %s", problem)
        log.error("policy: the files are refused; what was applied before holds on")
        return None


def _upkeep(roots: Roots, host: Namespace, memory: Memory) -> None:
    changed: State | None = None
    with policy_state.opened(roots, host, after(_SECONDS), memory) as store:
        # Under the lock: what was read before may not be put in the place of what is newer.
        policies = _read(roots, memory)
        if policies is not None and policies != store.state.policies:
            done = store.update(lambda state: replace(state, policies=policies, read=True))
            log.warning(
                "policy: %d policies applied to %d endpoints (%d elements added, %d removed)",
                len(policies),
                len(store.state.endpoints),
                done.added,
                done.removed,
            )
            changed = store.state
        mended = store.restore(all_of_them=False)
        _tell_of_namespaces(mended.inside)
        if mended.added or mended.removed or mended.new:
            _tell_of_the_gap(host, store.state, mended.added + mended.new)
    if changed is not None:
        for sentence in policy_flows.unsure(host, changed, _FLOWS).sentences:
            log.warning("policy: %s", sentence)


def _tell_of_the_gap(host: Namespace, state: State, missing: int) -> None:
    """What was tracked while the policy was not whole, and is refused now."""
    passes = policy_flows.judging(state)
    mine = {address for endpoint in state.endpoints for address in endpoint.addresses}
    with Nfnetlink(host) as socket:
        flows = (flow for flow in tracked.flows(socket) if flow.source in mine or flow.target in mine)
        refused = [
            f"{flow.source} to {flow.target} protocol {flow.protocol} port {flow.port}"
            for flow in islice(flows, _JUDGED)
            if not passes(Packet(flow.source, flow.target, flow.protocol, flow.port))
        ]
        rest = sum(1 for _ in flows)
    more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
    more += f"; {rest} more flows were not looked at" if rest else ""
    log.warning(
        "policy: somebody removed it from nf_tables (%d elements and chains), and it is back; flows that it "
        "refuses and that passed before it or meanwhile: %s%s",
        missing,
        "; ".join(refused[:_NAMED]) or "none",
        more,
    )
