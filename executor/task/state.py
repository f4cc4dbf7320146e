"""The states of a task and the one table of the steps between them.

A task is RECEIVED when its LAUNCH has come. Every other state but KILLING is told to the agent as a
status of its own; KILLING is told only to frameworks that know it. TASK_ERROR is for a master that refuses
a task: an agent does not count it when it comes from an executor (MESOS' slave.cpp logs "Unexpected
terminal task state"), so what cannot be run is FAILED, with its reason. RUNNING may follow RUNNING: that is a
health or check update. Nothing follows a terminal state, and so there is at most one terminal update for
each task.
"""

import enum

from mesos.v1 import mesos_pb2


class State(enum.Enum):
    """Where a task is; the value is the state that the agent is told."""

    RECEIVED = None
    STARTING = mesos_pb2.TASK_STARTING
    RUNNING = mesos_pb2.TASK_RUNNING
    KILLING = mesos_pb2.TASK_KILLING
    FINISHED = mesos_pb2.TASK_FINISHED
    FAILED = mesos_pb2.TASK_FAILED
    KILLED = mesos_pb2.TASK_KILLED

    @property
    def terminal(self) -> bool:
        """Whether the task is over."""
        return not STEPS[self]


STEPS: dict[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.STARTING, State.FAILED, State.KILLED}),
    State.STARTING: frozenset({State.RUNNING, State.FAILED, State.KILLED}),
    State.RUNNING: frozenset({State.RUNNING, State.KILLING, State.FINISHED, State.FAILED, State.KILLED}),
    State.KILLING: frozenset({State.KILLED, State.FAILED}),
    State.FINISHED: frozenset(),
    State.FAILED: frozenset(),
    State.KILLED: frozenset(),
}


class IllegalStepError(RuntimeError):
    """A step that the table does not have: a mistake of the caller's."""

    def __init__(self, task_id: str, before: State, after: State) -> None:
        super().__init__(f"task {task_id!r} cannot go from {before.name} to {after.name}")
