"""The executor's state as the inspect endpoint tells it. It reads, and changes nothing."""

import os
import time
from collections.abc import Mapping

from executor.app.task_manager import TaskManager
from executor.app.task_run import TaskRun
from executor.config.settings import Settings
from executor.monitoring.snapshot import (
    ConnectionView,
    ExecutorView,
    StateChange,
    TaskView,
    UpdateView,
    check_runs,
)
from executor.monitoring.usage import Sampler, Usage
from executor.process.supervisor import Supervisor
from executor.protocol import Session
from executor.task.state import State


def view(
    settings: Settings,
    session: Session,
    keeper: TaskManager,
    supervisor: Supervisor,
    sampler: Sampler,
    *,
    started_at: float,
    now: float,
    shutting_down: bool,
    container_id: str | None,
) -> ExecutorView:
    """Everything, as it is. `now` is on the loop's clock, `started_at` seconds since the epoch."""
    living = keeper.living
    processes = [kept.started for kept in living if kept.started is not None]
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
            _task(kept, usage, [entry.pid for entry in members.get(_cookie(kept), [])], epoch - now)
            for kept in living
        ],
        unacknowledged=[
            UpdateView(
                update.task_id.value, State(update.state).name, bytes(update.uuid).hex(), update.timestamp
            )
            for update in session.unacknowledged
        ],
        container=sampler.container(container_id),
        ended_by_state=dict(keeper.ended_by_state),
    )


def _cookie(kept: TaskRun) -> str:
    return kept.started.cookie if kept.started is not None else ""


def _task(kept: TaskRun, usage: Mapping[str, Usage], pids: list[int], to_epoch: float) -> TaskView:
    task = kept.task
    return TaskView(
        id=task.id,
        name=task.info.name,
        state=task.state.name,
        history=[StateChange(state, at) for state, at in task.history],
        pid=kept.process.pid if kept.process is not None else None,
        pids=pids,
        healthy=task.healthy,
        kill_at=task.kill.at + to_epoch if task.kill is not None else None,
        health_checks=check_runs(kept.health.history) if kept.health is not None else (),
        checks=check_runs(kept.checker.history) if kept.checker is not None else (),
        usage=usage.get(task.id),
        progress=kept.progress.latest if kept.progress is not None else None,
        output_problem=kept.output.problem if kept.output is not None else "",
    )
