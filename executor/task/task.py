"""One task as the executor knows it."""

from dataclasses import dataclass, field

from mesos.v1 import mesos_pb2

from executor.task.kill_policy import KillDeadline
from executor.task.state import STEPS, IllegalStepError, State


@dataclass(slots=True)
class Task:
    """A task. `group` is the number of its LAUNCH_GROUP, None for a task of its own."""

    info: mesos_pb2.TaskInfo
    group: int | None
    state: State = State.RECEIVED
    healthy: bool | None = None
    check_status: mesos_pb2.CheckStatusInfo | None = None
    kill: KillDeadline | None = None
    expired: bool = False
    """Whether max_completion_time is what ends it."""
    history: list[tuple[str, float]] = field(default_factory=list)
    """The states it went through and when, seconds since the epoch."""

    @property
    def id(self) -> str:
        """The task's id."""
        return self.info.task_id.value

    def step(self, state: State, timestamp: float) -> None:
        """Go to a state. Raises IllegalStepError when the table does not have this step."""
        if state not in STEPS[self.state]:
            raise IllegalStepError(self.id, self.state, state)
        if state is not self.state:
            self.history.append((state.name, timestamp))
        self.state = state
