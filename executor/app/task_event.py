"""What can happen to a task, where it is meanwhile, and what it has to say.

These are the words that the task manager and a TaskRun speak with each other.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from mesos.v1 import mesos_pb2

from executor.output.progress_reporter import Progress
from executor.task.state import State


class Stage(enum.Enum):
    """Where a task is in this executor; see the module."""

    RECEIVED = "received"
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    LINGERING = "lingering"
    SWEEPING = "sweeping"
    DRAINING = "draining"
    OVER = "over"


class Event(enum.Enum):
    """What can happen to a task, and what comes with it."""

    ACCEPTED = enum.auto()
    """Its description makes sense: a LaunchSpec."""
    REFUSED = enum.auto()
    """It does not, or it comes too late: an End."""
    TURN = enum.auto()
    """Its turn to start."""
    STARTED = enum.auto()
    """Its program runs: a Process."""
    NOT_STARTED = enum.auto()
    """It does not: a LaunchError."""
    KILL = enum.auto()
    """A Kill."""
    DEADLINE = enum.auto()
    """The grace of a kill is over, or SIGKILL is due again."""
    ENDED = enum.auto()
    """Its own process has ended: an Exit."""
    LEFT = enum.auto()
    """One of those that its process left behind has ended."""
    SURVIVORS = enum.auto()
    """Who of the task lives: Stats."""
    SWEPT = enum.auto()
    """SIGKILL was sent to whatever was left."""
    DRAINED = enum.auto()
    """The last of its output is in place."""
    EXPIRED = enum.auto()
    """max_completion_time is over."""
    HEALTH = enum.auto()
    """News of its health check: a Health."""
    CHECK = enum.auto()
    """News of its check: a CheckStatusInfo."""
    PROGRESS = enum.auto()
    """How far it says it is: a Progress."""


@dataclass(frozen=True, slots=True)
class Kill:
    """An order to end a task within `grace` seconds. `told` says whether the agent hears of it at once."""

    grace: float
    why: str
    told: bool = True


@dataclass(frozen=True, slots=True)
class End:
    """How a task ends, or that it does not begin."""

    state: State
    message: str
    reason: mesos_pb2.TaskStatus.Reason | None = None
    facts: Mapping[str, object] | None = None
    begun: bool = False
    """Whether STARTING comes before it, where that has not been told."""


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
