"""Readings become reports: numbered, no more often than allowed, the last one always told.

A reading that comes too early waits for its time; a later one takes its place. The same reading twice is
told once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from executor.eventloop import Loop, Timer
from executor.output.progress import Reading


@dataclass(frozen=True, slots=True)
class Progress:
    """`sequence` grows by one with each report of a task, from 1."""

    sequence: int
    percent: int
    message: str


class Reporter:
    """The reports of one task. `latest` is the last one told."""

    def __init__(self, loop: Loop, interval: float, tell: Callable[[Progress], None]) -> None:
        self._loop = loop
        self._interval = max(interval, 0.1)
        self._tell = tell
        self._waiting: Reading | None = None
        self._timer: Timer | None = None
        self._not_before = 0.0
        self._closed = False
        self.latest: Progress | None = None

    def read(self, reading: Reading) -> None:
        """Take a reading, on the loop."""
        if self._closed or (self.latest and (self.latest.percent, self.latest.message) == _key(reading)):
            self._waiting = None
            return
        self._waiting = reading
        if self._timer is None:
            self._timer = self._loop.call_at(max(self._not_before, self._loop.now()), self._due)

    def finish(self) -> None:
        """Tell what waits, at once, and nothing afterwards: the task's end is about to be told."""
        if self._timer is not None:
            self._timer.cancel()
        self._due()
        self._closed = True

    def _due(self) -> None:
        self._timer = None
        reading, self._waiting = self._waiting, None
        if reading is not None:
            self._not_before = self._loop.now() + self._interval
            sequence = self.latest.sequence + 1 if self.latest else 1
            self.latest = Progress(sequence, reading.percent, reading.message)
            self._tell(self.latest)


def _key(reading: Reading) -> tuple[int, str]:
    return reading.percent, reading.message
