"""An agent as a master sees it, whose tasks do what a script says.

Updates are sent as a real agent sends them: one at a time for each task, again after a while until they are
acknowledged, ever more slowly, and again from the start when the agent registers anew.
"""

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mesos.v1 import mesos_pb2, offers_pb2

from executor.framework.fake_master.options import Options
from executor.framework.sdk.resources import Resources, parse

Status = mesos_pb2.TaskStatus

TERMINAL = frozenset(
    {
        mesos_pb2.TASK_FINISHED,
        mesos_pb2.TASK_FAILED,
        mesos_pb2.TASK_KILLED,
        mesos_pb2.TASK_LOST,
        mesos_pb2.TASK_ERROR,
        mesos_pb2.TASK_DROPPED,
        mesos_pb2.TASK_GONE,
        mesos_pb2.TASK_GONE_BY_OPERATOR,
    }
)


SANDBOXES = 1000


@dataclass(frozen=True, slots=True)
class Step:
    """`after` so many seconds a task reaches `state`."""

    after: float
    state: mesos_pb2.TaskState
    message: str = ""
    reason: mesos_pb2.TaskStatus.Reason | None = None
    healthy: bool | None = None


Script = Callable[[mesos_pb2.TaskInfo], Sequence[Step]]
"""What becomes of a task, from its launch on."""


def runs(_task: mesos_pb2.TaskInfo) -> Sequence[Step]:
    """STARTING, RUNNING, and nothing more."""
    return (Step(0.0, mesos_pb2.TASK_STARTING), Step(0.0, mesos_pb2.TASK_RUNNING))


@dataclass(slots=True)
class Task:
    """A task at its agent. `updates` wait for their acknowledgement, oldest first."""

    info: mesos_pb2.TaskInfo
    framework_id: str
    executor_id: str
    resources: Resources
    state: mesos_pb2.TaskState = mesos_pb2.TASK_STAGING
    last: Status | None = None
    updates: deque[Status] = field(default_factory=deque)
    resend_at: float = 0.0
    wait: float = 0.0
    steps: deque[tuple[float, Step]] = field(default_factory=deque)

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


@dataclass(slots=True)
class Executor:
    """An executor that lives at an agent, and what it was launched with."""

    info: mesos_pb2.ExecutorInfo
    framework_id: str
    resources: Resources


@dataclass(slots=True)
class Told:
    """An operation's outcome that the framework has not acknowledged."""

    framework_id: str
    status: offers_pb2.OperationStatus
    resend_at: float = 0.0


class Backend(Protocol):
    """What runs tasks for real, in place of a script; it reports through `FakeAgent.report`."""

    def launch(
        self, tasks: Sequence[mesos_pb2.TaskInfo], executor: mesos_pb2.ExecutorInfo | None
    ) -> None: ...

    def kill(self, task_id: str, policy: mesos_pb2.KillPolicy) -> None: ...

    def shutdown(self, executor_id: str) -> None: ...

    def destroy(self, persistence_id: str) -> None: ...


class FakeAgent:
    """`send` takes each update that goes to the master. `kill_takes`: seconds from a KILL to TASK_KILLED."""

    def __init__(
        self,
        info: mesos_pb2.AgentInfo,
        options: Options,
        *,
        script: Script = runs,
        kill_takes: float = 0.0,
    ) -> None:
        self.info = info
        self.total = parse(info.resources)
        self.script = script
        self.kill_takes = kill_takes
        self.ignores_kills = False
        self.backend: Backend | None = None
        self.tasks: dict[str, Task] = {}
        self.executors: dict[tuple[str, str], Executor] = {}
        self.taken, self.extra = Resources(), Resources()
        """What operations took of `total`, and what they made of it: an agent keeps both on its disk."""
        self.operations: dict[str, Told] = {}
        self.sandboxes: dict[tuple[str, str], str] = {}
        """The folders of the last executors, those that have ended too."""
        self.said: dict[str, list[str]] = {}
        """What scripted tasks print, by sandbox: a line for each state."""
        self.send: Callable[[FakeAgent, Task, Status], None] = lambda _agent, _task, _status: None
        self.ended: Callable[[FakeAgent, Executor], None] = lambda _agent, _executor: None
        self.tell_operation: Callable[[str, offers_pb2.OperationStatus], None] = lambda _id, _status: None
        self._options = options

    @property
    def id(self) -> str:
        return self.info.id.value

    def used(self) -> Resources:
        """What its tasks and executors hold."""
        total = Resources()
        for task in self.tasks.values():
            if not task.ended:
                total += task.resources
        for executor in self.executors.values():
            total += executor.resources
        return total

    # ---- what the master asks

    def launch(
        self,
        framework_id: str,
        tasks: Sequence[mesos_pb2.TaskInfo],
        executor: mesos_pb2.ExecutorInfo | None,
        now: float,
    ) -> None:
        """Start tasks, with the executor they name if it is not there yet."""
        executor_id = tasks[0].task_id.value if executor is None else executor.executor_id.value
        if executor is not None and (framework_id, executor_id) not in self.executors:
            self.executors[framework_id, executor_id] = Executor(
                executor, framework_id, parse(executor.resources)
            )
        if self.backend is None:
            self.has_sandbox(framework_id, executor_id, f"/pretended/{self.id}/{executor_id}")
        for info in tasks:
            task = Task(info, framework_id, executor_id, parse(info.resources))
            self.tasks[info.task_id.value] = task
            if self.backend is not None:
                continue
            due = now
            for step in self.script(info):
                due += step.after
                task.steps.append((due, step))
        if self.backend is not None:
            self.backend.launch(tasks, executor)

    def has_sandbox(self, framework_id: str, executor_id: str, folder: str) -> None:
        """An executor's sandbox is here."""
        self.sandboxes[framework_id, executor_id] = folder
        while len(self.sandboxes) > SANDBOXES:
            self.said.pop(self.sandboxes.pop(next(iter(self.sandboxes))), None)

    def kill(self, task_id: str, now: float, policy: mesos_pb2.KillPolicy | None = None) -> None:
        """Kill a task; one that is not there is none of this agent's business."""
        task = self.tasks.get(task_id)
        if task is None or task.ended or self.ignores_kills:
            return
        if self.backend is not None:
            self.backend.kill(task_id, policy or mesos_pb2.KillPolicy())
            return
        task.steps.clear()
        task.steps.append((now + self.kill_takes, Step(0.0, mesos_pb2.TASK_KILLED, "killed on request")))

    def shutdown(self, framework_id: str, executor_id: str, now: float) -> None:
        """Shut an executor down: its tasks are killed."""
        if self.backend is not None:
            self.backend.shutdown(executor_id)
            return
        for task in list(self.tasks.values()):
            if (task.framework_id, task.executor_id) == (framework_id, executor_id):
                self.kill(task.info.task_id.value, now)

    def acknowledge(self, task_id: str, update: bytes) -> bool:
        """Take the oldest update as told; False for one that nobody waits for. A task's last ends it."""
        task = self.tasks.get(task_id)
        if task is None or not task.updates or task.updates[0].uuid != update:
            return False
        task.updates.popleft()
        task.resend_at = task.wait = 0.0
        if task.ended and not task.updates:
            del self.tasks[task_id]
        return True

    def forget(self, framework_id: str) -> None:
        """The framework is gone: whatever it runs here ends unsaid."""
        for task_id in [name for name, task in self.tasks.items() if task.framework_id == framework_id]:
            del self.tasks[task_id]
        for key in [key for key in self.executors if key[0] == framework_id]:
            del self.executors[key]

    # ---- time

    def tick(self, now: float, *, connected: bool) -> None:
        """Take the steps that are due; send what is to be sent, if a master is there."""
        for task in list(self.tasks.values()):
            while task.steps and task.steps[0][0] <= now:
                self.become(task, task.steps.popleft()[1], now)
        if not connected:
            return
        for task in list(self.tasks.values()):
            self.say(task, now)
        for told in list(self.operations.values()):
            if now >= told.resend_at:
                told.resend_at = now + self._options.retry
                self.tell_operation(told.framework_id, told.status)

    def say(self, task: Task, now: float) -> None:
        """Send the oldest update of a task, if there is one and it is due."""
        if task.updates and now >= task.resend_at:
            options = self._options
            task.wait = min(task.wait * 2, options.longest_retry) if task.wait else options.retry
            task.resend_at = now + task.wait
            self.send(self, task, task.updates[0])

    def operated(self, framework_id: str, operation_id: str) -> None:
        """An operation with an id is done: that is told until it is acknowledged."""
        status = offers_pb2.OperationStatus(state=offers_pb2.OPERATION_FINISHED)
        status.operation_id.value = operation_id
        status.agent_id.value = self.id
        status.uuid.value = uuid.uuid4().bytes
        self.operations[operation_id] = Told(framework_id, status)

    def acknowledge_operation(self, operation_id: str, update: bytes) -> None:
        """Its outcome has been heard: nobody remembers it."""
        told = self.operations.get(operation_id)
        if told is not None and told.status.uuid.value == update:
            del self.operations[operation_id]

    def become(self, task: Task, step: Step, now: float) -> None:
        """A task reaches a state; an end ends its executor when it was the last."""
        if task.ended:
            return
        task.state = step.state
        status = Status(state=step.state, source=Status.SOURCE_EXECUTOR, timestamp=now)
        status.task_id.CopyFrom(task.info.task_id)
        status.agent_id.value = self.id
        status.executor_id.value = task.executor_id
        status.uuid = uuid.uuid4().bytes
        if step.message:
            status.message = step.message
        if step.reason is not None:
            status.reason = step.reason
        if step.healthy is not None:
            status.healthy = step.healthy
        task.last = status
        task.updates.append(status)
        folder = self.sandboxes.get((task.framework_id, task.executor_id))
        if folder is not None:
            state = mesos_pb2.TaskState.Name(step.state)
            self.said.setdefault(folder, []).append(f"{task.info.task_id.value} {state} {step.message}\n")
        if task.ended:
            task.steps.clear()
            self._end_executor(task)

    def report(self, given: Status) -> None:
        """A backend's update of a task."""
        task = self.tasks.get(given.task_id.value)
        if task is None or task.ended:
            return
        status = Status()
        status.CopyFrom(given)
        status.agent_id.value = self.id
        if not status.uuid:
            status.uuid = uuid.uuid4().bytes
        task.state, task.last = status.state, status
        task.updates.append(status)

    def executor_gone(self, framework_id: str, executor_id: str) -> None:
        """A backend's executor has ended."""
        executor = self.executors.pop((framework_id, executor_id), None)
        if executor is not None:
            self.ended(self, executor)

    def _end_executor(self, task: Task) -> None:
        key = (task.framework_id, task.executor_id)
        lives = any(
            (other.framework_id, other.executor_id) == key and not other.ended
            for other in self.tasks.values()
        )
        executor = None if lives else self.executors.pop(key, None)
        if executor is not None:
            self.ended(self, executor)

    def registered(self) -> None:
        """A master took it (again): waiting updates are sent from the start."""
        for task in self.tasks.values():
            task.resend_at = task.wait = 0.0

    def reboot(self) -> None:
        """All tasks are gone and nobody says so; the agent keeps its id."""
        self.tasks.clear()
        self.executors.clear()
