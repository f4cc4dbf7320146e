"""Interpret: what a TaskInfo.health_check means for its task.

Mesos' rules. Failures within the grace period, counted from the start, are forgiven until the first success
ends it. After that every failure is told; the first success and each recovery are told, further successes
are not. So many failures in a row as the check allows are told with `kill`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesos.v1 import mesos_pb2

from executor.checks import fields
from executor.checks.check import Check, Plan, Run, Runner
from executor.checks.command import CommandCheck
from executor.checks.http import HttpCheck
from executor.checks.result import Result
from executor.checks.tcp import TcpCheck
from executor.eventloop import Loop
from executor.process.launch import Launch
from executor.process.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class HealthPlan:
    """A check by which a task lives: `failures` in a row end it; failures in the first `grace` seconds are
    forgiven.
    """

    plan: Plan
    failures: int
    grace: float


def health_plan(message: mesos_pb2.HealthCheck, task: Launch) -> HealthPlan:
    """Read TaskInfo.health_check. Raises InvalidCheckError."""
    kind = mesos_pb2.HealthCheck
    check: Check
    if message.type == kind.COMMAND and message.HasField("command"):
        check = CommandCheck.parse("health_check.command", message.command, task)
    elif message.type == kind.HTTP and message.HasField("http"):
        check = HttpCheck.of_health("health_check.http", message.http)
    elif message.type == kind.TCP and message.HasField("tcp"):
        check = TcpCheck.of_health("health_check.tcp", message.tcp)
    else:
        raise fields.unknown_type("health_check", message.type, message.HasField("type"))
    grace = fields.seconds("health_check.grace_period_seconds", message.grace_period_seconds)
    return HealthPlan(Plan.of("health_check", message, check), message.consecutive_failures, grace)


@dataclass(frozen=True, slots=True)
class Health:
    """News of a task's health. `kill` asks for its end; `text` says what the check saw."""

    healthy: bool
    kill: bool
    failures: int
    text: str


class HealthJudge:
    """The rules alone: results and times in, news out."""

    def __init__(self, failures: int, grace: float, started: float) -> None:
        self._limit = failures
        self._grace_end = started + grace
        self._initial = True
        self._failures = 0

    def judge(self, result: Result, now: float) -> Health | None:
        """What to tell about a result that came at `now`; None for nothing."""
        if result.transient:
            return None
        if result.ok:
            told = self._initial or self._failures > 0
            self._initial, self._failures = False, 0
            return Health(True, False, 0, result.text) if told else None
        if self._initial and now < self._grace_end:
            return None
        self._failures += 1
        return Health(False, self._failures >= self._limit, self._failures, result.text)


class HealthChecker:
    """A HealthCheck at work."""

    def __init__(
        self, loop: Loop, supervisor: Supervisor, plan: HealthPlan, on_news: Callable[[Health], None]
    ) -> None:
        self._loop = loop
        self._on_news = on_news
        self._judge = HealthJudge(plan.failures, plan.grace, loop.now())
        self._runner = Runner(loop, supervisor, plan.plan, self._heard)
        self.healthy: bool | None = None

    @property
    def history(self) -> Sequence[Run]:
        """The latest runs, oldest first."""
        return self._runner.history

    def start(self) -> None:
        """Begin; delays and the grace period count from the making of this object, the task's launch."""
        self._runner.start()

    def pause(self) -> None:
        """No runs and no words from here on: the task is being killed or has ended."""
        self._runner.pause()

    def _heard(self, result: Result) -> None:
        news = self._judge.judge(result, self._loop.now())
        if news is not None:
            self.healthy = news.healthy
            self._on_news(news)
