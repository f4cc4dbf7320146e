"""Following the packets of containers: traces in the host's namespace, or in a container's own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cni_plugins.kernel import links
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.kernel.nft.elements import TABLE
from cni_plugins.kernel.nft.trace import Match, Trace
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.view import ended
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.follow import Follower, Packet, Step
from cni_plugins.view.inside import inside_of
from cni_plugins.view.node import Node
from cni_plugins.view.rules import Rules

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Passed:
    """A step in words: `rule` is "" for the end of a base chain."""

    family: str
    table: str
    chain: str
    rule: str
    verdict: str
    whose: str


@dataclass(frozen=True, slots=True)
class Told:
    """A packet: `time` in seconds since the epoch, `about` and `became` its headers when it came and when it
    was last seen ("" when they are the same), `verdict` left, delivered, dropped or lost, `where` in words,
    `reasons` sentences.
    """

    time: float
    family: int
    source: str
    target: str
    about: str
    became: str
    bytes: int
    came_in: str
    went_out: str
    verdict: str
    where: str
    whose: str
    reasons: tuple[str, ...]
    steps: tuple[Passed, ...]


@dataclass(frozen=True, slots=True)
class _One:
    namespace: Namespace
    trace: Trace
    follower: Follower
    before: ended.Counted
    names: set[str]


class Tracing:
    """Traces of attachments, while the block runs. CniError 8 or 999."""

    def __init__(
        self,
        node: Node,
        roots: Roots,
        host: Namespace,
        matches: Mapping[Attachment, Sequence[Match]],
        rate: int,
    ) -> None:
        self._node, self._roots, self._host, self._rate = node, roots, host, rate
        self._matches = matches
        self._stack = ExitStack()
        self._ones: list[_One] = []
        self._rules = Rules()
        self._names: dict[tuple[int, int], str] = {}

    def __enter__(self) -> Self:
        try:
            on_host = {item: listed for item, listed in self._matches.items() if item.host_interface}
            if on_host:
                names = {name for item in on_host for name in (item.host_interface, item.parent) if name}
                self._place(self._host, [match for listed in on_host.values() for match in listed], names)
            for item in self._matches.keys() - on_host.keys():
                namespace = self._stack.enter_context(inside_of(item, self._host))
                self._place(namespace, self._matches[item], {item.ifname})
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _place(self, namespace: Namespace, matches: Sequence[Match], names: set[str]) -> None:
        before = ended.count(namespace)
        trace = self._stack.enter_context(Trace(namespace, matches, self._rate))
        self._ones.append(_One(namespace, trace, Follower(matches, trace.table), before, names))

    def descriptors(self) -> list[Trace]:
        """What is readable when there is something to hear."""
        return [one.trace for one in self._ones]

    @property
    def lost(self) -> int:
        """How often something could not be heard."""
        return sum(one.trace.lost + one.follower.overflow for one in self._ones)

    def over(self) -> Iterator[Told]:
        """Packets that came to an end, or went out of sight."""
        yield from self._over(0.0)

    def rest(self) -> Iterator[Told]:
        """All packets that are on their way, as far as they got."""
        yield from self._over(3600.0)

    def _over(self, later: float) -> Iterator[Told]:
        for one in self._ones:
            now = time.monotonic()
            one.follower.hear(one.trace.events(), now)
            for packet in one.follower.over(now + later):
                yield self._told(one, packet)

    def counted(self) -> list[str]:
        """What was counted since the block began, in sentences."""
        lines = []
        for one in self._ones:
            try:
                lines += ended.gained(one.before, ended.count(one.namespace), one.names)
            except CniError as error:
                lines.append(str(error))
        return lines

    def _told(self, one: _One, packet: Packet) -> Told:
        first, last = packet.first, packet.last
        inside = not one.namespace.same(self._host)
        came, went = (self._name(one.namespace, index) for index in (packet.iif, packet.oif))
        one.names.update(name for name in (came, went) if name)
        verdict, drop = packet.verdict, packet.drop
        whose, reasons = "", []
        if drop is not None:
            where, whose = self._place_of(drop), self._rules.whose(drop.family, drop.table, drop.chain)
            if drop.table == TABLE and not inside:
                reasons = ended.policies(packet, self._roots, self._host)
        elif verdict == "left":
            where = f"it left by {went}" + self._behind(went)
        elif verdict == "delivered":
            where = "it was handed to a program of the " + ("container" if inside else "host")
        else:
            where = (
                f"no rule dropped it, but it was not seen after {packet.hooks[-1] if packet.hooks else '-'}"
            )
            reasons = ended.lost(packet, one.namespace)
        return Told(
            time=round(time.time() - (time.monotonic() - packet.began), 3),
            family=first.source.version,
            source=str(first.source),
            target=str(first.target),
            about=str(first) + (f" (then {last})" if str(first) != str(last) else ""),
            became=str(last) if str(first) != str(last) else "",
            bytes=first.size,
            came_in=came,
            went_out=went,
            verdict=verdict,
            where=where,
            whose=whose,
            reasons=tuple(reasons),
            steps=tuple(self._passed(step, inside=inside) for step in packet.steps),
        )

    def _place_of(self, step: Step) -> str:
        rule = self._rules.text(step.family, step.table, step.chain, step.handle) or "policy drop"
        whose = self._rules.whose(step.family, step.table, step.chain)
        return f"table {step.family} {step.table}, chain {step.chain}, by {rule} ({whose})"

    def _passed(self, step: Step, *, inside: bool) -> Passed:
        names = (step.family, step.table, step.chain)
        rule = f"rule {step.handle}" if inside and step.handle else self._rules.text(*names, step.handle)
        whose = "the container's" if inside else self._rules.whose(*names)
        return Passed(*names, rule, step.verdict, whose)

    def _behind(self, name: str) -> str:
        for item in self._node.attachments:
            if item.host_interface == name and name:
                return f", to container {item.container_id}"
        return ""

    def _name(self, namespace: Namespace, index: int) -> str:
        if not index:
            return ""
        key = (namespace.inode, index)
        if key not in self._names:
            with Netlink(namespace, after(_SECONDS)) as netlink:
                link = links.find_index(netlink, index)
            self._names[key] = link.name if link is not None else f"link {index}"
        return self._names[key]
