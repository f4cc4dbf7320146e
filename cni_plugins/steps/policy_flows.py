"""Flows that policy does not judge as it would if it had seen them begin, for whoever applies it.

Policy asks conntrack who opened a flow (kernel/nft/policy.py). It knows that of every flow since the first
container came under policy. But where something kept a flow from being tracked (a rule of others with
`notrack`, a ruleset that somebody flushed, an emptied table of flows), conntrack takes for the opener whoever
sends next.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from cni_plugins.kernel import sysctl, tracked
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.tracked import Flow
from cni_plugins.policy.compile import Compiler
from cni_plugins.policy.explain import Packet, judge
from cni_plugins.policy.profile import Entry
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip
from cni_plugins.steps.policy_file import State

_NAMED = 10
_JUDGED = 200  # whoever sends packets can make a great many flows
_NAMES = {6: "tcp", 17: "udp"}


@dataclass(frozen=True, slots=True)
class Told:
    """A flow, and what there is to say of it. `passes`: as if its source had opened it."""

    flow: Flow
    passes: bool
    says: str

    def __str__(self) -> str:
        source, target = _end(self.flow.source, self.flow.own_port), _end(self.flow.target, self.flow.port)
        verdict = "passes" if self.passes else "is refused"
        return f"{_name(self.flow)} from {source} to {target} {verdict}: {self.says}"

    def as_json(self) -> dict[str, Any]:
        return {
            "protocol": _name(self.flow),
            "source": str(self.flow.source),
            "sourcePort": self.flow.own_port,
            "target": str(self.flow.target),
            "targetPort": self.flow.port,
            "passes": self.passes,
        }


@dataclass(frozen=True, slots=True)
class Flows:
    """The first of them, how many `more` there may be, and how many were `unread` because they are too many
    for the asker.
    """

    flows: tuple[Told, ...] = ()
    more: int = 0
    unread: int = 0

    @property
    def sentences(self) -> Iterator[str]:
        yield from map(str, self.flows)
        if self.more:
            yield f"and up to {self.more} more flows of that kind"
        if self.unread:
            yield (
                f"{self.unread} flows are tracked, and were not looked at for those whose beginning was not: "
                "mesokit policy apply does"
            )

    def as_json(self) -> dict[str, Any]:
        return {"flows": [each.as_json() for each in self.flows], "more": self.more}


def _name(flow: Flow) -> str:
    return _NAMES.get(flow.protocol, str(flow.protocol))


def _end(address: Ip, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def unsure(host: Namespace, state: State, most: int | None = None) -> Flows:
    """Flows that the host's rules judge by who seems to have opened them, and would judge otherwise if the
    other end had: nobody saw. Nothing is looked at if there are more than `most`. CniError 999.
    """
    mine = {address for item in state.endpoints if not item.inside for address in item.addresses}
    count = int(sysctl.read(host, "netfilter/nf_conntrack_count") or 0)
    if not mine or not count or (most is not None and count > most):
        return Flows(unread=count if mine else 0)
    with Nfnetlink(host) as socket:
        meant = (flow for flow in tracked.unsure(socket) if flow.source in mine or flow.target in mine)
        listed = list(islice(meant, _JUDGED))
        rest = sum(1 for _ in meant)
    found = list(_judged(state, listed)) if listed else []
    return Flows(tuple(found[:_NAMED]), rest + max(0, len(found) - _NAMED))


def unjudged(host: Namespace, state: State, addresses: Collection[Ip]) -> Flows:
    """Flows of containers outside policy, with `addresses`, to whoever is outside it too. CniError 999."""
    mine = {address for item in state.endpoints for address in item.addresses}
    if not addresses:
        return Flows()
    with Nfnetlink(host) as socket:
        meant = (
            flow for flow in tracked.of(socket, addresses) if mine.isdisjoint((flow.source, flow.target))
        )
        told = "no policy judges either end of it"
        found = tuple(Told(flow, True, told) for flow in islice(meant, _NAMED))
        return Flows(found, sum(1 for _ in meant))


def judging(state: State) -> Callable[[Packet], bool]:
    """What tells whether a state's rules of the host let a flow's first packet pass."""
    compiler = Compiler(state.policies, names=state.names)
    held: dict[str, list[Entry]] = {}
    for entry in compiler.compile(state.endpoints).entries:
        held.setdefault(entry.set, []).append(entry)
    return lambda packet: judge(lambda name: held.get(name, []), compiler.profiles, packet).allowed


def _judged(state: State, flows: list[Flow]) -> Iterator[Told]:
    passes = judging(state)
    for flow in flows:
        forth = passes(Packet(flow.source, flow.target, flow.protocol, flow.port))
        back = passes(Packet(flow.target, flow.source, flow.protocol, flow.own_port))
        if forth != back:
            other = "allowed" if back else "refused"
            yield Told(
                flow,
                forth,
                f"its beginning was not tracked, and if {_end(flow.target, flow.port)} opened it, it should "
                f"be {other}; once it has ended, what is opened anew is judged rightly",
            )
