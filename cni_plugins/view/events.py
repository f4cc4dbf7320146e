"""What happened on the node, and what happens: failed calls from disk, the rest from looks that differ."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.store import failures
from cni_plugins.store.failures import Failure
from cni_plugins.view import load
from cni_plugins.view.attachments import State
from cni_plugins.view.differences import Differences
from cni_plugins.view.node import Difference, Node

_MOST = 10_000  # failures; more are not on disk
FAILURES_HIDDEN = "only root may see the calls that failed"


@dataclass(frozen=True, slots=True)
class Event:
    """`kind`: attached, detached, state, failed, flushed, differs (from its network's file), agrees (with it
    again). `time` is in seconds since the epoch.
    """

    time: float
    kind: str
    network: str
    container: str
    interface: str
    about: str


def past(found: Node, roots: Roots, start: float) -> list[Event]:
    """What is known of since `start` (seconds since the epoch), oldest first. PermissionError where failures
    may not be read.
    """
    told = (*failed(roots, start), *attached(found, start), *differing(found, start))
    return sorted(told, key=lambda item: item.time)


def failed(roots: Roots, start: float) -> list[Event]:
    """Calls that failed after `start`. PermissionError."""
    return [_of_failure(item) for item in failures.last(roots.run, _MOST) if item.time > start]


def _of_failure(item: Failure) -> Event:
    took = f"{item.seconds * 1000:.0f} ms, {item.by}"
    about = f"{item.verb} {item.plugin}: code {item.code}: {item.message} ({took})"
    return Event(item.time, "failed", item.network, item.container, item.interface, about)


def attached(found: Node, start: float) -> Iterator[Event]:
    """What is attached since `start` and still is."""
    for item in found.attachments:
        if item.since > start:
            yield _event("attached", item.identity, ", ".join(e.ip for e in item.addresses), item.since)


def differing(found: Node, start: float) -> Iterator[Event]:
    """What is not as its network's file says, since that was edited."""
    for identity, item in found.differences.items():
        if item.time > start:
            yield _event("differs", identity, _difference(item), item.time)


def _difference(item: Difference) -> str:
    return f"{item} ({item.file})" + (f": {item.command}" if item.command else "")


def _event(kind: str, identity: Identity, about: str, moment: float = 0.0) -> Event:
    when = moment or time.time()
    return Event(round(when, 3), kind, identity.network, identity.container_id, identity.ifname, about)


@dataclass(slots=True)
class Watch:
    """Looks that follow one another; `look` says what happened between the last one and it.

    What this user may not see (failures, rules) is left out.
    """

    roots: Roots
    host: Namespace
    tasks: bool = False
    _last: float = field(default_factory=time.time)
    _before: Mapping[Identity, State] | None = None
    _generation: int = -1
    _flushed: frozenset[str] = frozenset()
    _differed: Mapping[Identity, Difference] | None = None
    _differences: Differences = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._differences = Differences(self.roots)

    def begin(self, found: Node, told: list[Event]) -> None:
        """Go on from a look and what was told of it (`past`), so that nothing is lost and nothing twice."""
        self._before = {item.identity: found.state(item) for item in found.attachments}
        self._differed = dict(found.differences)
        self._last = max((item.time for item in told if item.kind == "failed"), default=self._last)

    def look(self) -> tuple[Node, list[Event]]:
        """The node as it is now. CniError 999 when the kernel does not answer."""
        now = self._differences.look(load.node(self.roots, self.host, tasks=self.tasks))
        found = self._failed()
        states = {item.identity: now.state(item) for item in now.attachments}
        before, self._before = self._before, states
        if before is not None:  # the first look is awaited, and rules take the longest
            found += changes(before, states, now)
            found += edits(self._differed or {}, now)
            found += self._rules(now)
        self._differed = dict(now.differences)
        return now, found

    def _failed(self) -> list[Event]:
        try:
            found = failed(self.roots, self._last)
        except OSError:
            return []
        self._last = max((item.time for item in found), default=self._last)
        return found

    def _rules(self, now: Node) -> Iterator[Event]:
        # For those that go on: it costs as much as all else that `mesokit events` does.
        from cni_plugins.view import flushed  # noqa: PLC0415

        try:
            rules = flushed.generation(self.host)
            if rules == self._generation:  # nobody has changed any
                return
            self._generation = rules
            gone = flushed.gone(now, self.roots, self.host)
        except (CniError, PermissionError):
            return
        for about in gone.keys() - self._flushed:
            yield Event(round(time.time(), 3), "flushed", "", gone[about], "", about)
        self._flushed = frozenset(gone)


def changes(before: Mapping[Identity, State], now: Mapping[Identity, State], found: Node) -> Iterator[Event]:
    """What two looks differ in."""
    addresses = {item.identity: ", ".join(entry.ip for entry in item.addresses) for item in found.attachments}
    for identity in now.keys() - before.keys():
        yield _event("attached", identity, addresses[identity])
    for identity in before.keys() - now.keys():
        yield _event("detached", identity, "")
    for identity in now.keys() & before.keys():
        if now[identity] is not before[identity]:
            yield _event("state", identity, f"{before[identity].value} -> {now[identity].value}")


def edits(before: Mapping[Identity, Difference], found: Node) -> Iterator[Event]:
    """What two looks differ in as to networks' files."""
    now = found.differences
    for identity, item in now.items():
        if identity not in before or str(before[identity]) != str(item):
            yield _event("differs", identity, _difference(item))
    there = {item.identity for item in found.attachments}
    for identity in (before.keys() - now.keys()) & there:
        yield _event("agrees", identity, f"it is as {before[identity].file} says")
