"""The keeper of tasks: starts them, sees them end, kills them, and tells of every step.

What happens to a task, in order: LAUNCH is checked and answered with STARTING; the start itself waits for
its turn, so that a KILL that is already here is heard first. RUNNING is told when the
program runs, not before. How its processes end is the reaper's matter (reaper.py); the end is told when
nothing of the task lives and the last of its output is in place.
"""

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from mesos.v1 import mesos_pb2

from executor.app.equipment import Equipment
from executor.app.launch_spec import Surroundings, prepare
from executor.app.reaper import Reaper
from executor.app.task_run import TaskRun
from executor.checks.check import Checker, empty_status
from executor.checks.health import Health, HealthChecker
from executor.checks.plan import InvalidCheckError, check_plan, health_plan
from executor.eventloop import Loop
from executor.output.progress_reporter import Progress
from executor.process.identity import UnknownUserError
from executor.process.launch import LaunchError
from executor.process.supervisor import Supervisor
from executor.task.command import InvalidTaskError
from executor.task.kill_policy import grace_of
from executor.task.state import State
from executor.task.status import make_status
from executor.task.task import Task

log = logging.getLogger(__name__)

REMEMBERED = 10_000
"""Ended tasks whose ids are remembered, so that a repeated LAUNCH does not run them again."""

Reason = mesos_pb2.TaskStatus.Reason


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """A status to be told."""

    status: mesos_pb2.TaskStatus


@dataclass(frozen=True, slots=True)
class ProgressMade:
    """How far a task says it is."""

    task_id: str
    progress: Progress


Said = StatusUpdate | ProgressMade


class TaskManager:
    """All tasks. What they say waits until it is taken."""

    def __init__(
        self,
        loop: Loop,
        supervisor: Supervisor,
        around: Surroundings,
        equipment: Equipment,
    ) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._around = around
        self._equipment = equipment
        self._said: deque[Said] = deque()
        self._reaper = Reaper(loop, supervisor, self._gone)
        self._runs: dict[str, TaskRun] = {}
        self._ended: OrderedDict[str, State] = OrderedDict()
        self._waiting: deque[TaskRun] = deque()
        self._groups = 0
        self.executor_info = mesos_pb2.ExecutorInfo()
        self.address: str | None = None
        self.tells_killing = False
        self.received = False
        self.ended_by_state: Counter[str] = Counter()

    def take(self) -> Said | None:
        """The next of what the tasks have said."""
        return self._said.popleft() if self._said else None

    @property
    def living(self) -> tuple[TaskRun, ...]:
        """The tasks that have not ended."""
        return tuple(self._runs.values())

    def knows(self, task_id: str) -> bool:
        """Whether a task of this id lives or has ended here."""
        return task_id in self._runs or task_id in self._ended

    def launch(self, infos: Iterable[mesos_pb2.TaskInfo], *, grouped: bool) -> None:
        """Start tasks, as one group or each by itself. Ids that are known already are left alone."""
        self._groups += 1
        self.received = True
        added = [
            self._keep(Task(info, self._groups if grouped else None))
            for info in infos
            if not self._repeated(info.task_id.value)
        ]
        for kept in added:
            # One that cannot run takes the rest of its group with it before they begin.
            if kept.task.state is State.RECEIVED:
                self._begin(kept)
        if added and not self._waiting:
            self._loop.post(self._start_next)
        self._waiting.extend(added)

    def refuse(self, infos: Iterable[mesos_pb2.TaskInfo], why: str) -> None:
        """Answer tasks that come too late with KILLED."""
        for info in infos:
            if not self._repeated(info.task_id.value):
                self._over(self._keep(Task(info, None)), State.KILLED, why)

    def kill(self, task_id: str, policy: mesos_pb2.KillPolicy) -> None:
        """A KILL: its own policy counts before the task's, and that before the executor's default."""
        kept = self._runs.get(task_id)
        if kept is None:
            log.info("ignoring a KILL of task %r: it is not here", task_id)
            return
        default = self._around.settings.kill_grace
        grace = grace_of([policy, kept.task.info.kill_policy], default)
        self._kill(kept, grace, "killed on request")

    def kill_all(self, grace: float, why: str) -> None:
        """Kill everything within `grace` seconds; a task's own policy may only ask for less."""
        for kept in self.living:
            self._kill(kept, min(grace_of([kept.task.info.kill_policy], grace), grace), why)

    def _repeated(self, task_id: str) -> bool:
        if self.knows(task_id):
            log.warning("ignoring another LAUNCH of task %r", task_id)
            return True
        return False

    def _keep(self, task: Task) -> TaskRun:
        kept = self._runs[task.id] = TaskRun(task)
        return kept

    def _begin(self, kept: TaskRun) -> None:
        """Check what is asked for; STARTING, or the end already."""
        info = kept.task.info
        try:
            kept.launch = prepare(info, self.executor_info, self._around, self.address)
            if info.HasField("health_check"):
                health_plan(info.health_check, kept.launch)
            if info.HasField("check"):
                kept.task.check_status = empty_status(check_plan(info.check, kept.launch))
        except (InvalidTaskError, InvalidCheckError) as error:
            self._over(kept, State.FAILED, str(error), Reason.REASON_TASK_INVALID)
        except UnknownUserError as error:
            self._step(kept, State.STARTING)
            self._over(kept, State.FAILED, str(error), Reason.REASON_CONTAINER_LAUNCH_FAILED)
        except (OSError, MemoryError) as error:
            text = f"cannot prepare the task: {error or type(error).__name__}"
            self._over(kept, State.FAILED, text, Reason.REASON_CONTAINER_LAUNCH_FAILED)
        except Exception as error:
            # What one task's description does to us is that task's matter alone.
            log.exception("a defect met in preparing task %r", kept.task.id)
            text = f"the executor cannot make sense of the task: {error!r}"
            self._over(kept, State.FAILED, text, Reason.REASON_TASK_INVALID)
        else:
            self._step(kept, State.STARTING)

    def _start_next(self) -> None:
        """Start one task; the next has its own turn, so that whatever else comes in is not kept waiting."""
        kept = self._waiting.popleft()
        if self._waiting:
            self._loop.post(self._start_next)
        self._start(kept)

    def _start(self, kept: TaskRun) -> None:
        if kept.task.state is not State.STARTING or kept.launch is None:
            return
        try:
            launch = self._equipment.equip(kept, kept.launch, partial(self._tell_progress, kept.task.id))
            process = self._supervisor.start(launch)
        except LaunchError as error:
            self._over(kept, State.FAILED, error.text, Reason.REASON_CONTAINER_LAUNCH_FAILED)
            return
        except (OSError, ValueError, RuntimeError) as error:  # the last where there is no room for a thread
            text = f"cannot prepare the task: {error}"
            self._over(kept, State.FAILED, text, Reason.REASON_CONTAINER_LAUNCH_FAILED)
            return
        finally:
            if kept.output is not None:
                kept.output.started()
        self._reaper.watch(kept, process)
        self._step(kept, State.RUNNING)
        info = kept.task.info
        if info.HasField("max_completion_time"):
            limit = max(info.max_completion_time.nanoseconds, 0) / 1e9
            kept.completion = self._loop.call_at(self._loop.now() + limit, partial(self._expire, kept))
        self._start_checks(kept)

    def _start_checks(self, kept: TaskRun) -> None:
        info, launch = kept.task.info, kept.launch
        assert launch is not None
        if info.HasField("health_check"):
            plan = health_plan(info.health_check, launch)
            kept.health = HealthChecker(self._loop, self._supervisor, plan, partial(self._health_news, kept))
            kept.health.start()
        if info.HasField("check"):
            kept.checker = Checker(
                self._loop, self._supervisor, check_plan(info.check, launch), partial(self._check_news, kept)
            )
            kept.checker.start()

    def _health_news(self, kept: TaskRun, news: Health) -> None:
        if kept.task.state is not State.RUNNING:
            return
        kept.task.healthy = news.healthy
        self._step(kept, State.RUNNING, news.text, Reason.REASON_TASK_HEALTH_CHECK_STATUS_UPDATED)
        if news.kill:
            grace = grace_of([kept.task.info.kill_policy], self._around.settings.kill_grace)
            self._kill(kept, grace, f"killed after {news.failures} failed health checks: {news.text}")

    def _check_news(self, kept: TaskRun, status: mesos_pb2.CheckStatusInfo) -> None:
        if kept.task.state is State.RUNNING:
            kept.task.check_status = status
            self._step(kept, State.RUNNING, "", Reason.REASON_TASK_CHECK_STATUS_UPDATED)

    def _expire(self, kept: TaskRun) -> None:
        if kept.task.state is State.RUNNING:
            kept.task.expired = True
            self._kill(kept, 0.0, "max_completion_time reached", told=False)

    def _kill(self, kept: TaskRun, grace: float, why: str, *, told: bool = True) -> None:
        task = kept.task
        if kept.draining or task.id not in self._runs:
            log.info("task %r has ended already", task.id)
            return
        if kept.started is None:
            self._over(kept, State.KILLED, f"{why} before it was started")
            return
        if task.kill is None:
            log.info("killing task %r, %g s of grace: %s", task.id, grace, why)
            kept.silence()
            if kept.completion is not None:
                kept.completion.cancel()
            if told and self.tells_killing:
                self._step(kept, State.KILLING, why)
            else:
                task.step(State.KILLING, time.time())
        self._reaper.kill(kept, grace)

    def _gone(self, kept: TaskRun) -> None:
        """The task's process has ended and nothing is left of it: collect its last words."""
        assert kept.output is not None
        kept.output.drain(self._loop, partial(self._tell_ending, kept))

    def _tell_ending(self, kept: TaskRun) -> None:
        """Say how a task has ended."""
        if kept.progress is not None:
            kept.progress.finish()
        ending, task = kept.ending, kept.task
        assert ending is not None
        facts: dict[str, object] = {**ending.facts}
        if kept.progress is not None and kept.progress.latest is not None:
            facts["progress"] = kept.progress.latest.percent
            facts["progress_message"] = kept.progress.latest.message
        if kept.output is not None and kept.output.problem:
            log.warning("task %r: %s", task.id, kept.output.problem)
        if task.expired:
            text = f"Task exceeded its max_completion_time. {ending.text}"
            self._over(kept, State.FAILED, text, Reason.REASON_MAX_COMPLETION_TIME_REACHED, facts)
        elif task.kill is not None:
            self._over(kept, State.KILLED, ending.text, None, facts)
        else:
            self._over(kept, State.FINISHED if ending.code == 0 else State.FAILED, ending.text, None, facts)

    def _over(
        self,
        kept: TaskRun,
        state: State,
        message: str,
        reason: mesos_pb2.TaskStatus.Reason | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """The one place where a task ends."""
        kept.silence()
        if kept.output is not None:
            kept.output.close()
        if kept.progress is not None:
            kept.progress.finish()
        for timer in (kept.escalation, kept.completion):
            if timer is not None:
                timer.cancel()
        self._step(kept, state, message, reason, facts)
        del self._runs[kept.task.id]
        self._ended[kept.task.id] = state
        self.ended_by_state[state.name] += 1
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        if state is not State.FINISHED and kept.task.group is not None:
            self._kill_group(kept)

    def _kill_group(self, cause: TaskRun) -> None:
        """A member that did not finish takes the others with it, as in the default executor."""
        why = f"killed because task {cause.task.id!r} of its group ended with {cause.task.state.name}"
        for kept in self.living:
            if kept.task.group == cause.task.group and kept.task.kill is None:
                grace = grace_of([kept.task.info.kill_policy], self._around.settings.kill_grace)
                self._kill(kept, grace, why)

    def _step(
        self,
        kept: TaskRun,
        state: State,
        message: str = "",
        reason: mesos_pb2.TaskStatus.Reason | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> None:
        """Go to a state and tell of it."""
        now = time.time()
        kept.task.step(state, now)
        log.info("task %r: %s%s", kept.task.id, state.name, f": {message}" if message else "")
        status = make_status(
            kept.task, self._around.settings.executor_id, now, message=message, reason=reason, facts=facts
        )
        self._said.append(StatusUpdate(status))

    def _tell_progress(self, task_id: str, progress: Progress) -> None:
        self._said.append(ProgressMade(task_id, progress))
