"""Packets on their way through the ruleset, put together from what a trace hears.

The kernel numbers a packet anew where it goes up from a bridge, and each copy where one is flooded; and it
gives numbers again. So what has the headers of a packet that is on its way is that packet, unless it comes to
a first chain where that one has been: then it is the next one. A packet is over when nothing more is heard of
it for a moment. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cni_plugins.kernel.nft.trace import PREFIX, Event, Match
from cni_plugins.spec.values import Ip
from cni_plugins.view.packet import Headers, headers

_QUIET = 0.25  # seconds
_MOST = 2000  # packets on their way
_BEGINNING = ("mark-prerouting", "mark-output")


@dataclass(frozen=True, slots=True)
class Step:
    """A rule that matched, or the end of a base chain (`handle` 0), in somebody's table."""

    family: str
    table: str
    chain: str
    handle: int
    verdict: str


@dataclass(slots=True)
class Packet:
    """`first` are its headers when it was first seen, `last` when it was last (translated, perhaps). `iif`
    and `oif` are the first and the last link, by index, 0 for none, `bridged` whether the last one is a port;
    `routed_iif` is that by which it came up to the host's routes. `hooks` are the places that it came by,
    such as `bridge forward`.
    """

    first: Headers
    last: Headers
    began: float
    heard: float
    iif: int = 0
    routed_iif: int = 0
    oif: int = 0
    bridged: bool = False
    steps: list[Step] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)

    @property
    def drop(self) -> Step | None:
        return next((step for step in reversed(self.steps) if step.verdict == "drop"), None)

    @property
    def verdict(self) -> str:
        """dropped (by a rule or a policy), left (by `oif`), delivered (to the host itself), or lost (between
        two hooks: no rule did it).
        """
        if self.drop is not None:
            return "dropped"
        last = self.hooks[-1] if self.hooks else ""
        if last == "bridge input":  # up from a bridge, and not seen by the host's routes
            return "lost"
        return {"postrouting": "left", "input": "delivered"}.get(last.rpartition(" ")[2], "lost")


class Follower:
    """Packets that match, from the events of one trace (`table` is its table)."""

    __slots__ = ("_by_mark", "_by_number", "_matches", "_open", "_table", "overflow")

    def __init__(self, matches: Sequence[Match], table: str) -> None:
        self._matches = matches
        self._table = table
        self._open: list[Packet] = []
        self._by_number: dict[int, Packet] = {}
        self._by_mark: dict[bytes, Packet] = {}
        self.overflow = 0  # packets that there was no room for

    def hear(self, events: Iterable[Event], now: float) -> None:
        """Take in events; `now` is on any clock that only goes forward, in seconds."""
        for event in events:
            packet = self._packet(event, now)
            if packet is None:
                continue
            packet.heard = now
            packet.iif = packet.iif or event.iif
            if event.oif and (event.family == "bridge" or not packet.bridged):
                packet.oif, packet.bridged = event.oif, event.family == "bridge"
            if event.family != "bridge" and event.iif:
                packet.routed_iif = event.iif
            if event.table == self._table:
                hook = _hook(event)
                if not packet.hooks or packet.hooks[-1] != hook:
                    packet.hooks.append(hook)
            elif not event.table.startswith(PREFIX) and (event.handle or event.kind == "policy"):
                verdict = f"{event.verdict} {event.target}".strip()
                packet.steps.append(Step(event.family, event.table, event.chain, event.handle, verdict))

    def _packet(self, event: Event, now: float) -> Packet | None:
        known = self._by_number.get(event.packet)
        found = headers(event.network, event.transport)
        if found is None:
            return known
        begins = event.table == self._table and event.chain in _BEGINNING
        here = _hook(event)
        for packet in (known, self._by_mark.get(found.mark)):
            if packet is None or (begins and (here in packet.hooks or found.mark != packet.last.mark)):
                continue
            break
        else:
            packet = self._new(found, now)
            if packet is None:
                return None
        packet.last = found
        self._by_number[event.packet] = packet
        return packet

    def _new(self, found: Headers, now: float) -> Packet | None:
        if not any(_matches(item, found) for item in self._matches):
            return None
        if len(self._open) >= _MOST:
            self.overflow += 1
            return None
        packet = Packet(found, found, now, now)
        self._open.append(packet)
        self._by_mark[found.mark] = packet
        return packet

    def over(self, now: float) -> Iterator[Packet]:
        """Packets that nothing more is heard of, in the order in which they came."""
        done = [packet for packet in self._open if now - packet.heard >= _QUIET]
        if not done:
            return
        gone = {id(packet) for packet in done}
        self._open = [packet for packet in self._open if id(packet) not in gone]
        self._by_number = {n: packet for n, packet in self._by_number.items() if id(packet) not in gone}
        self._by_mark = {m: packet for m, packet in self._by_mark.items() if id(packet) not in gone}
        yield from done


def _hook(event: Event) -> str:
    """Of an event of our own table."""
    return f"{event.family} {event.chain.removeprefix('mark-')}"


def _matches(wanted: Match, found: Headers) -> bool:
    ends: tuple[tuple[Ip, Ip], ...] = ((found.source, found.target), (found.target, found.source))
    return (
        any(one == wanted.one and wanted.other in {None, other} for one, other in ends)
        and wanted.protocol in {0, found.protocol}
        and wanted.port in {0, found.source_port, found.target_port}
    )
