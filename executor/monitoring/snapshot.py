"""What the inspect endpoint tells, as types; the JSON has the same names. Times are seconds since the
epoch.
"""

import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from executor.checks.check import Run
from executor.monitoring.cgroup import GroupUsage
from executor.monitoring.usage import Usage
from executor.output.progress_reporter import Progress
from executor.task.state import State

if TYPE_CHECKING:  # who only reads documents, as `mesokit ps` does, needs none of the executor
    from executor.app.task_manager import TaskManager
    from executor.app.task_run import TaskRun
    from executor.config.settings import Settings
    from executor.monitoring.usage import Sampler
    from executor.process.supervisor import Supervisor
    from executor.protocol import Session


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


def view(
    settings: "Settings",
    session: "Session",
    tasks: "TaskManager",
    supervisor: "Supervisor",
    sampler: "Sampler",
    *,
    started_at: float,
    now: float,
    shutting_down: bool,
    container_id: str | None,
) -> ExecutorView:
    """Everything, as it is. `now` is on the loop's clock, `started_at` seconds since the epoch."""
    living = tasks.living
    processes = [run.started for run in living if run.started is not None]
    usage = sampler.sample(processes)
    members = supervisor.members(processes)
    epoch = time.time()
    endpoint = settings.endpoint
    return ExecutorView(
        framework_id=settings.framework_id,
        executor_id=settings.executor_id,
        agent_id=settings.agent_id,
        pid=os.getpid(),
        warden_pid=supervisor.warden_pid,
        started_at=started_at,
        now=epoch,
        connection=ConnectionView(
            phase=session.phase.value,
            endpoint=str(endpoint.socket) if endpoint.socket is not None else endpoint.authority,
            attempts=session.attempts,
        ),
        shutting_down=shutting_down,
        tasks=[
            _task(run, usage, [entry.pid for entry in members.get(_cookie(run), [])], epoch - now)
            for run in living
        ],
        unacknowledged=[
            UpdateView(
                update.task_id.value, State(update.state).name, bytes(update.uuid).hex(), update.timestamp
            )
            for update in session.unacknowledged
        ],
        container=sampler.container(container_id),
        ended_by_state=dict(tasks.ended_by_state),
    )


def _cookie(run: "TaskRun") -> str:
    return run.started.cookie if run.started is not None else ""


def _task(run: "TaskRun", usage: Mapping[str, Usage], pids: list[int], to_epoch: float) -> TaskView:
    task = run.task
    return TaskView(
        id=task.id,
        name=task.info.name,
        state=task.state.name,
        history=[StateChange(state, at) for state, at in task.history],
        pid=run.process.pid if run.process is not None else None,
        pids=pids,
        healthy=task.healthy,
        kill_at=task.kill.at + to_epoch if task.kill is not None else None,
        health_checks=check_runs(run.health.history) if run.health is not None else (),
        checks=check_runs(run.checker.history) if run.checker is not None else (),
        usage=usage.get(task.id),
        progress=run.progress,
        output_problem=run.output.problem if run.output is not None else "",
    )


def to_json(view: ExecutorView) -> bytes:
    """The document as JSON, one line."""
    return json.dumps(dataclasses.asdict(view), ensure_ascii=False).encode("utf-8", "replace") + b"\n"
