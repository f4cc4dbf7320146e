"""A check at work: read from its message, run on a schedule, told when it changes.

Never two runs of a check at a time: the first starts `delay` after the start, each next one `interval` after
the previous has ended. A run that lasts longer than `timeout` is cancelled and counts as a failure. What is
asked, and how, is its type's (command.py, http.py, tcp.py); what it means for a task that is watched by it is
in health.py.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesos.v1 import mesos_pb2

from executor.checks import fields
from executor.checks.command import CommandCheck
from executor.checks.http import HttpCheck
from executor.checks.result import Probe, Result
from executor.checks.tcp import TcpCheck
from executor.eventloop import Loop, Timer
from executor.process.launch import Launch
from executor.process.supervisor import Supervisor

Check = CommandCheck | HttpCheck | TcpCheck


@dataclass(frozen=True, slots=True)
class Plan:
    """One check and when it is run. Seconds; `timeout` infinite where the message says 0."""

    check: Check
    delay: float
    interval: float
    timeout: float

    @classmethod
    def of(cls, field: str, message: mesos_pb2.HealthCheck | mesos_pb2.CheckInfo, check: Check) -> "Plan":
        """The times of a message. Raises InvalidCheckError."""
        timeout = fields.seconds(f"{field}.timeout_seconds", message.timeout_seconds)
        return cls(
            check,
            delay=fields.seconds(f"{field}.delay_seconds", message.delay_seconds),
            interval=fields.seconds(f"{field}.interval_seconds", message.interval_seconds),
            timeout=timeout or math.inf,
        )

    def probe(self, supervisor: Supervisor) -> Probe:
        """A new run."""
        return self.check.probe(supervisor)


def check_plan(message: mesos_pb2.CheckInfo, task: Launch) -> Plan:
    """Read TaskInfo.check. Raises InvalidCheckError."""
    kind = mesos_pb2.CheckInfo
    check: Check
    if message.type == kind.COMMAND and message.HasField("command"):
        check = CommandCheck.parse("check.command.command", message.command.command, task)
    elif message.type == kind.HTTP and message.HasField("http"):
        check = HttpCheck.of_check("check.http", message.http)
    elif message.type == kind.TCP and message.HasField("tcp"):
        check = TcpCheck.of_check("check.tcp", message.tcp)
    else:
        raise fields.unknown_type("check", message.type, message.HasField("type"))
    return Plan.of("check", message, check)


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


class Checker:
    """A CheckInfo at work. `status` belongs into every status update of its task, from the first on."""

    def __init__(
        self,
        loop: Loop,
        supervisor: Supervisor,
        plan: Plan,
        on_change: Callable[[mesos_pb2.CheckStatusInfo], None],
    ) -> None:
        self._check = plan.check
        self._on_change = on_change
        self._runner = Runner(loop, supervisor, plan, self._heard)
        self.status = plan.check.status(None)

    @property
    def history(self) -> Sequence[Run]:
        """The latest runs, oldest first."""
        return self._runner.history

    def start(self) -> None:
        """Begin; delays count from now, the task's launch."""
        self._runner.start()

    def pause(self) -> None:
        """No runs and no words from here on: the task is being killed or has ended."""
        self._runner.pause()

    def _heard(self, result: Result) -> None:
        if result.transient:
            return
        status = self._check.status(result)
        if status != self.status:
            self.status = status
            self._on_change(status)
