"""When a worker is replaced by a fresh fork of the supervisor, so that the service is small after busy times.

Workers share with the supervisor what was imported, until they write it: reference counts of what they run
are enough. What a thousand attachments took of memory stays theirs, too, in pages that hold a little of
something. A fresh fork has neither. So one is made in place of a worker that has grown, and, when nobody has
called for a while, of all but the one that did most: the next calls meet a worker that has written what they
need.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

REST_SECONDS = 60.0
_CALLS = 1000  # a look at a worker's memory takes a millisecond
_OWN_BYTES = 12_000_000  # twice what calls of every kind write


class Worn(Protocol):
    """A worker process, with the calls that it has done."""

    pid: int
    calls: int
    looked: int


W = TypeVar("W", bound=Worn)


@dataclass(slots=True)
class Wear:
    """Of the workers of one supervisor: `rest_seconds` without a call are a rest, after which nobody is
    woken.
    """

    rest_seconds: float = REST_SECONDS
    _resting: bool = True
    _last: float = field(default_factory=time.monotonic)

    def note(self, worker: Worn, calls: int) -> None:
        """A worker has told of so many calls, or that one is in work."""
        worker.calls += calls
        self._resting, self._last = False, time.monotonic()

    def patience(self) -> float | None:
        """Seconds until there is something to look for; None when there is nothing until the next call."""
        return None if self._resting else max(0.0, self._last + self.rest_seconds - time.monotonic())

    def worn(self, workers: Sequence[W], *, busy: bool) -> list[W]:
        """The workers to be replaced now."""
        found: list[W] = []
        for worker in workers:
            if worker.calls >= worker.looked + _CALLS:
                worker.looked = worker.calls
                if _own(worker.pid) > _OWN_BYTES:
                    found.append(worker)
        if self._resting or self.patience():
            return found
        if busy:
            self._last = time.monotonic()
            return found
        self._resting = True
        most = max(workers, key=lambda worker: worker.calls, default=None)
        return [
            worker
            for worker in workers
            if worker in found or (worker.calls and (worker is not most or _own(worker.pid) > _OWN_BYTES))
        ]


def _own(pid: int) -> int:
    """Bytes that a process shares with no other; 0 when that cannot be told."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
