"""What the inspect endpoint tells, as types; the JSON has the same names. Times are seconds since the
epoch.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from executor.checks.runner import Run
from executor.monitoring.cgroup import GroupUsage
from executor.monitoring.usage import Usage
from executor.output.progress_reporter import Progress


@dataclass(frozen=True, slots=True)
class StateChange:
    """A state that a task went to."""

    state: str
    at: float


@dataclass(frozen=True, slots=True)
class CheckRun:
    """One run of a check. Durations are seconds."""

    at: float
    duration: float
    ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task. `pid` is its own process, `pids` the whole tree; `kill_at` is when SIGKILL is due, if it
    is.
    """

    id: str
    name: str
    state: str
    history: Sequence[StateChange]
    pid: int | None = None
    pids: Sequence[int] = ()
    healthy: bool | None = None
    kill_at: float | None = None
    health_checks: Sequence[CheckRun] = ()
    checks: Sequence[CheckRun] = ()
    usage: Usage | None = None
    progress: Progress | None = None
    output_problem: str = ""


@dataclass(frozen=True, slots=True)
class UpdateView:
    """A status update that the agent has not acknowledged; `uuid` in hexadecimal digits."""

    task_id: str
    state: str
    uuid: str
    at: float


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """The subscription: `phase` is waiting, subscribing, subscribed or closed; `attempts` counts SUBSCRIBE
    calls.
    """

    phase: str
    endpoint: str
    attempts: int


@dataclass(frozen=True, slots=True)
class ExecutorView:
    """Everything that is told."""

    framework_id: str
    executor_id: str
    agent_id: str | None
    pid: int
    warden_pid: int
    started_at: float
    now: float
    connection: ConnectionView
    shutting_down: bool = False
    tasks: Sequence[TaskView] = ()
    unacknowledged: Sequence[UpdateView] = ()
    container: GroupUsage | None = None
    ended_by_state: dict[str, int] = field(default_factory=dict)


def check_runs(history: Sequence[Run]) -> tuple[CheckRun, ...]:
    """The runs of a check as they are told."""
    return tuple(CheckRun(run.at, run.duration, run.result.ok, run.result.text) for run in history)


def to_json(view: ExecutorView) -> bytes:
    """The document as JSON, one line."""
    return json.dumps(dataclasses.asdict(view), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
