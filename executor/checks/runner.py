"""Run and schedule: one check, again and again, never two runs at a time.

The first run starts `delay` after the start, each next one `interval` after the previous has ended. A run
that lasts longer than `timeout` is cancelled and counts as a failure.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from executor.checks.plan import Plan
from executor.checks.result import Probe, Result
from executor.eventloop import Loop, Timer
from executor.process.supervisor import Supervisor

_HISTORY = 20


@dataclass(frozen=True, slots=True)
class Run:
    """One run that is over: when it began (seconds since the epoch), how long it took (seconds), what came
    of it.
    """

    at: float
    duration: float
    result: Result


class Runner:
    """The schedule of one check. `history` has the latest runs, oldest first."""

    def __init__(
        self, loop: Loop, supervisor: Supervisor, plan: Plan, on_result: Callable[[Result], None]
    ) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._plan = plan
        self._on_result = on_result
        self._next: Timer | None = None
        self._limit: Timer | None = None
        self._probe: Probe | None = None
        self._began = (0.0, 0.0)
        self.history: deque[Run] = deque(maxlen=_HISTORY)

    def start(self) -> None:
        """Schedule the first run."""
        self._schedule(self._plan.delay)

    def pause(self) -> None:
        """Cancel what runs and what is scheduled, until `resume`. Also the way to stop for good."""
        for timer in (self._next, self._limit):
            if timer is not None:
                timer.cancel()
        self._next = self._limit = None
        probe, self._probe = self._probe, None
        if probe is not None:
            probe.cancel()

    def resume(self) -> None:
        """Go on after a pause with a run in `interval`; nothing if not paused."""
        if self._next is None and self._probe is None:
            self._schedule(self._plan.interval)

    def _schedule(self, after: float) -> None:
        self._next = self._loop.call_at(self._loop.now() + after, self._run)

    def _run(self) -> None:
        self._next = None
        self._began = (time.time(), self._loop.now())
        if not math.isinf(self._plan.timeout):
            self._limit = self._loop.call_at(self._began[1] + self._plan.timeout, self._timed_out)
        probe = self._probe = self._plan.probe(self._supervisor)
        probe.start(self._loop, self._finished)

    def _timed_out(self) -> None:
        self._limit = None
        if self._probe is not None:
            self._probe.cancel()
            self._finished(Result(False, f"timed out after {self._plan.timeout:g} s"))

    def _finished(self, result: Result) -> None:
        self._probe = None
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        at, began = self._began
        self.history.append(Run(at, self._loop.now() - began, result))
        # Scheduled before it is told, so that the listener can pause or stop.
        self._schedule(self._plan.interval)
        self._on_result(result)
