"""All tasks: which there are, which have been, whose turn to start it is, and what one's end means to its
group.

What happens to a single task is the matter of its TaskRun. Everything that happens to any of them comes in by
one door, `_feed`: one event after the other, each guarded, so that a defect met by one task ends that task
and nothing else. What tasks have to say waits until it is taken.
"""

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from typing import Any

from mesos.v1 import mesos_pb2

from executor.app.launch_spec import Surroundings, specify
from executor.app.task_event import End, Event, Kill, Said, Stage
from executor.app.task_run import Services, TaskRun
from executor.checks.fields import InvalidCheckError
from executor.process.identity import UnknownUserError
from executor.task.command import InvalidTaskError
from executor.task.kill_policy import grace_of
from executor.task.state import State
from executor.task.task import Task

log = logging.getLogger(__name__)

REMEMBERED = 10_000
"""Ended tasks whose ids are remembered, so that a repeated LAUNCH does not run them again."""

TRY_AGAIN = 0.5
"""Seconds until a task that met a defect, and another when it was to be ended, is ended once more."""

Reason = mesos_pb2.TaskStatus.Reason


class TaskManager:
    """See the module."""

    def __init__(self, services: Services, around: Surroundings) -> None:
        self._services = services
        self._around = around
        self._runs: dict[str, TaskRun] = {}
        self._ended: OrderedDict[str, State] = OrderedDict()
        self._waiting: deque[TaskRun] = deque()
        self._events: deque[tuple[TaskRun, Event, Any]] = deque()
        self._feeding = False
        self._said: deque[Said] = deque()
        self._groups = 0
        self.executor_info = mesos_pb2.ExecutorInfo()
        self.address: str | None = None
        self.received = False
        self.ended_by_state: Counter[str] = Counter()

    def take(self) -> Said | None:
        """The next of what the tasks have said."""
        return self._said.popleft() if self._said else None

    def put_back(self, said: Said) -> None:
        """It could not be told now."""
        self._said.appendleft(said)

    @property
    def living(self) -> tuple[TaskRun, ...]:
        """The tasks that have not ended."""
        return tuple(self._runs.values())

    def tell_killing(self, wanted: bool) -> None:
        """Whether the framework wants to hear of TASK_KILLING."""
        self._services.tells_killing = wanted

    def knows(self, task_id: str) -> bool:
        """Whether a task of this id lives or has ended here."""
        return task_id in self._runs or task_id in self._ended

    def launch(
        self,
        infos: Iterable[mesos_pb2.TaskInfo],
        *,
        grouped: bool,
        unlaunchable: Mapping[str, str] | None = None,
    ) -> None:
        """Start tasks, as one group or each by itself. Ids that are known already are left alone.
        `unlaunchable` says of some, by id, why not.
        """
        self._groups += 1
        self.received = True
        group = self._groups if grouped else None
        added: list[TaskRun] = []
        try:
            added.extend(self._add(info, group) for info in infos if not self._repeated(info.task_id.value))
            if added and not self._waiting:
                self._services.loop.post(self._start_next)
        except MemoryError:
            # All or nothing: it will be tried again.
            for run in added:
                del self._runs[run.task.id]
            raise
        self._waiting.extend(added)
        for run in added:
            if why := (unlaunchable or {}).get(run.task.id):
                self._feed(run, Event.REFUSED, End(State.FAILED, why, Reason.REASON_TASK_INVALID))
        for run in added:
            # One that cannot run takes the rest of its group with it before they begin.
            if run.stage is Stage.RECEIVED:
                self._begin(run)

    def refuse(self, infos: Iterable[mesos_pb2.TaskInfo], why: str) -> None:
        """Answer tasks that come too late with KILLED."""
        for info in infos:
            if not self._repeated(info.task_id.value):
                self._feed(self._add(info, None), Event.REFUSED, End(State.KILLED, why))

    def kill(self, task_id: str, policy: mesos_pb2.KillPolicy) -> None:
        """A KILL: its own policy counts before the task's, and that before the executor's default."""
        run = self._runs.get(task_id)
        if run is None:
            log.info("ignoring a KILL of task %r: it is not here", task_id)
            return
        grace = grace_of([policy, run.task.info.kill_policy], self._services.settings.kill_grace)
        self._feed(run, Event.KILL, Kill(grace, "killed on request"))

    def kill_all(self, grace: float, why: str) -> None:
        """Kill everything within `grace` seconds; a task's own policy may only ask for less."""
        for run in self.living:
            own = min(grace_of([run.task.info.kill_policy], grace), grace)
            self._feed(run, Event.KILL, Kill(own, why))

    def _repeated(self, task_id: str) -> bool:
        if self.knows(task_id):
            log.warning("ignoring another LAUNCH of task %r", task_id)
            return True
        return False

    def _add(self, info: mesos_pb2.TaskInfo, group: int | None) -> TaskRun:
        run = TaskRun(Task(info, group), self._services, self._feed)
        self._runs[run.task.id] = run
        return run

    def _begin(self, run: TaskRun) -> None:
        """Check what is asked for; STARTING, or the end already."""
        info = run.task.info
        try:
            spec = specify(info, self.executor_info, self._around, self.address)
        except (InvalidTaskError, InvalidCheckError) as error:
            end = End(State.FAILED, str(error), Reason.REASON_TASK_INVALID)
        except UnknownUserError as error:
            end = End(State.FAILED, str(error), Reason.REASON_CONTAINER_LAUNCH_FAILED, begun=True)
        except (OSError, MemoryError) as error:
            text = f"cannot prepare the task: {str(error) or type(error).__name__}"
            end = End(State.FAILED, text, Reason.REASON_CONTAINER_LAUNCH_FAILED)
        except Exception as error:
            # What one task's description does to us is that task's matter alone.
            log.exception("a defect met in preparing task %r", run.task.id)
            text = f"the executor cannot make sense of the task: {error!r}"
            end = End(State.FAILED, text, Reason.REASON_TASK_INVALID)
        else:
            self._feed(run, Event.ACCEPTED, spec)
            return
        self._feed(run, Event.REFUSED, end)

    def _start_next(self) -> None:
        """Start one task; the next has its own turn, so that whatever else comes in is not kept waiting."""
        run = self._waiting.popleft()
        if self._waiting:
            self._services.loop.post(self._start_next)
        if run.stage is Stage.RECEIVED:
            self._begin(run)
        self._feed(run, Event.TURN)

    def _feed(self, run: TaskRun, event: Event, what: Any = None) -> None:
        """Let an event have its effect, after those before it: a handler may cause others."""
        self._events.append((run, event, what))
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._events:
                self._handle(*self._events.popleft())
        finally:
            self._feeding = False

    def _handle(self, run: TaskRun, event: Event, what: Any) -> None:
        try:
            self._said.extend(run.handle(event, what))
        except Exception as error:
            log.exception("a defect met by task %r: the task is ended", run.task.id)
            self._break_down(run, f"a defect of the executor: {error!r}")
        if run.stage is Stage.OVER and run.task.id in self._runs:
            self._retire(run)

    def _break_down(self, run: TaskRun, why: str) -> None:
        try:
            self._said.extend(run.break_down(why))
        except Exception:
            log.exception("another in ending task %r", run.task.id)
            loop = self._services.loop
            loop.call_at(loop.now() + TRY_AGAIN, lambda: self._break_down_again(run, why))

    def _break_down_again(self, run: TaskRun, why: str) -> None:
        if run.task.id in self._runs:
            self._break_down(run, why)
            if run.stage is Stage.OVER:
                self._retire(run)

    def _retire(self, run: TaskRun) -> None:
        state = run.task.state
        del self._runs[run.task.id]
        self._ended[run.task.id] = state
        self.ended_by_state[state.name] += 1
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        if state is not State.FINISHED and run.task.group is not None:
            self._kill_group(run)

    def _kill_group(self, cause: TaskRun) -> None:
        """A member that did not finish takes the others with it, as in the default executor."""
        why = f"killed because task {cause.task.id!r} of its group ended with {cause.task.state.name}"
        for run in self.living:
            if run.task.group == cause.task.group and run.task.kill is None:
                grace = grace_of([run.task.info.kill_policy], self._services.settings.kill_grace)
                self._feed(run, Event.KILL, Kill(grace, why))
