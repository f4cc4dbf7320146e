"""What the rules of others do to a flow that policy judges: on the host, and in the namespace of an end that
is judged there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft.base_chains import FORWARD, INPUT, OUTPUT, POSTROUTING, PREROUTING
from cni_plugins.policy.explain import Judgement, Packet, Place
from cni_plugins.policy.model import Endpoint
from cni_plugins.steps.policy_bridged import Bridging
from cni_plugins.view import foreign
from cni_plugins.view.foreign import Flow, Met

Judging = Callable[[Packet, Mapping[str, Place]], Judgement]
_COMING, _GOING = (PREROUTING, INPUT), (OUTPUT, POSTROUTING)


@dataclass(frozen=True, slots=True)
class Untracked:
    """How a packet is judged that nobody tracks; `inside`: the ends that are judged where they are."""

    judge: Judging
    inside: Mapping[str, Place]

    def judged(self, packet: Packet) -> Judgement:
        return self.judge(packet, self.inside)

    def answered(self, packet: Packet) -> Judgement:
        other = {"source": "target", "target": "source"}
        return self.judge(packet, {other[end]: place for end, place in self.inside.items()})


@dataclass(frozen=True, slots=True)
class Way:
    """Where a packet passes. An end of None is no endpoint; `inner`: a socket in an endpoint's namespace."""

    host: Nfnetlink
    inner: Callable[[Endpoint], Nfnetlink]
    source: Endpoint | None
    target: Endpoint | None
    bridging: Bridging

    @property
    def on_one_bridge(self) -> bool:
        one, other = self.source, self.target
        if one is None or other is None:
            return False
        return one.bridged and other.bridged and one.link == other.link

    @property
    def between_ports(self) -> bool:
        """Whether the bridge family judges what goes between both ends."""
        return self.on_one_bridge and self.bridging is Bridging.CONNTRACK

    def beside(
        self, packet: Packet, found: Judgement, untracked: Untracked | None, *, host: str = ""
    ) -> list[dict[str, Any]]:
        """The rules of others that matter, each with a sentence `about` it. What surely happens by them goes
        into `found`. `host`: the end that is the node itself, for which untracked packets are as others.
        """
        met = list(self._met(packet, host))
        said = []
        loose = foreign.untracked(met) if untracked is not None else None
        if loose is not None and untracked is not None:
            judged = untracked.judged(packet)
            if loose.surely:
                found.allowed, found.end, found.audited = judged.allowed, judged.end, False
                found.steps[:] = judged.steps
            said.append(_told(loose, _loosely(loose, "it", judged)))
        back = self._answers(packet, host) if untracked is not None else None
        if back is not None and untracked is not None:
            judged = untracked.answered(_turned(packet))
            if not judged.allowed and not (loose is not None and loose.surely and not found.allowed):
                other = {"source": "target", "target": "source"}.get(judged.end, "")
                judged = replace(judged, end=other)
                said.append(_told(back, _loosely(back, "its answers", judged)))
        drop = foreign.dropped(met)
        if drop is not None:
            if drop.surely and found.allowed:
                found.allowed, found.end = False, "others"
            if drop.does == "unread":
                said.append(_told(drop, f"{drop}: mesokit trace shows what they do"))
            else:
                said.append(_told(drop, f"{drop}: {'' if drop.surely else 'may '}drop{'s' * drop.surely} it"))
        return said

    def _answers(self, packet: Packet, host: str) -> Met | None:
        """What leaves the answers untracked."""
        if packet.protocol in (1, 58):
            return None
        turned = replace(self, source=self.target, target=self.source)
        other = {"source": "target", "target": "source"}.get(host, "")
        return foreign.untracked(list(turned._met(_turned(packet), other)))

    def _met(self, packet: Packet, host: str) -> Iterator[Met]:
        source, target = self.source, self.target
        if source is not None and source.inside:
            flow = Flow(packet, oif=source.ifname)
            yield from foreign.meets(self.inner(source), flow, _GOING, bridged=False, on_host=False)
        yield from self._on_host(packet, host)
        if target is not None and target.inside:
            flow = Flow(packet, iif=target.ifname)
            yield from foreign.meets(self.inner(target), flow, _COMING, bridged=False, on_host=False)

    def _on_host(self, packet: Packet, host: str) -> Iterator[Met]:
        source, target = self.source, self.target
        ends = [end for end in (source, target) if end is not None]
        if host != "" or not all(end.inside for end in ends):
            iif = source.link if source is not None and not source.inside else ""
            oif = target.link if target is not None and not target.inside else ""
            hooks = {"": (PREROUTING, FORWARD, POSTROUTING), "target": _COMING, "source": _GOING}[host]
            if not self.between_ports:
                yield from foreign.meets(self.host, Flow(packet, iif, oif), hooks, bridged=False)
        if self.on_one_bridge and source is not None and target is not None:
            flow = Flow(packet, source.port, target.port)
            yield from foreign.meets(self.host, flow, (PREROUTING, FORWARD), bridged=True)


def _turned(packet: Packet) -> Packet:
    return replace(
        packet, source=packet.target, target=packet.source, port=packet.from_port, from_port=packet.port
    )


def _loosely(met: Met, what: str, judged: Judgement) -> str:
    verb = "leaves" if met.surely else "may leave"
    if judged.allowed:
        return f"{met}: {verb} {what} untracked, which passes by untracked: both"
    return (
        f"{met}: {verb} {what} untracked, which the {judged.end}'s side refuses: no policy for it says "
        "untracked: both, or none of its rules allows it"
    )


def _told(met: Met, about: str) -> dict[str, Any]:
    return met.as_json() | {"about": about}
