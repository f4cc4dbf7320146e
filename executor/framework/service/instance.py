"""One instance of an app: one attempt to run it somewhere, never repeated under its id.

An instance is stored before the ACCEPT that launches it and after each update, before that is acknowledged.
It ends once: whatever comes later for it is acknowledged and nothing more, except that one that was thought
lost may return. A new attempt is a new instance.
"""

import enum
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mesos.v1 import mesos_pb2

TaskStatus = mesos_pb2.TaskStatus


class State(enum.Enum):
    """Where an instance stands. LAUNCHING: the intent is stored, nobody has confirmed it."""

    LAUNCHING = "launching"
    STARTING = "starting"
    RUNNING = "running"
    KILLING = "killing"
    UNREACHABLE = "unreachable"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"
    LOST = "lost"

    @property
    def ended(self) -> bool:
        """Whether nothing runs any more. LOST may prove wrong."""
        return self in _ENDED


_ENDED = frozenset({State.FINISHED, State.FAILED, State.KILLED, State.LOST})

_OF_TASK: Mapping[int, State] = {
    mesos_pb2.TASK_STAGING: State.LAUNCHING,
    mesos_pb2.TASK_STARTING: State.STARTING,
    mesos_pb2.TASK_RUNNING: State.RUNNING,
    mesos_pb2.TASK_KILLING: State.KILLING,
    mesos_pb2.TASK_UNREACHABLE: State.UNREACHABLE,
    mesos_pb2.TASK_FINISHED: State.FINISHED,
    mesos_pb2.TASK_FAILED: State.FAILED,
    mesos_pb2.TASK_ERROR: State.FAILED,
    mesos_pb2.TASK_KILLED: State.KILLED,
    mesos_pb2.TASK_LOST: State.LOST,
    mesos_pb2.TASK_DROPPED: State.LOST,
    mesos_pb2.TASK_GONE: State.LOST,
    mesos_pb2.TASK_GONE_BY_OPERATOR: State.LOST,
    mesos_pb2.TASK_UNKNOWN: State.LOST,
}

_ORDER = (State.LAUNCHING, State.STARTING, State.UNREACHABLE, State.KILLING, State.RUNNING)

NOT_ITS_FAULT = frozenset(
    {
        TaskStatus.REASON_AGENT_DRAINING,
        TaskStatus.REASON_AGENT_REMOVED_BY_OPERATOR,
        TaskStatus.REASON_AGENT_REMOVED,
        TaskStatus.REASON_AGENT_RESTARTED,
        TaskStatus.REASON_AGENT_DISCONNECTED,
        TaskStatus.REASON_INVALID_OFFERS,
        TaskStatus.REASON_EXECUTOR_TERMINATED,
        TaskStatus.REASON_GC_ERROR,
        TaskStatus.REASON_RESOURCES_UNKNOWN,
        TaskStatus.REASON_RECONCILIATION,
    }
)
"""Reasons of a LOST instance that count for no back-off: the machine's or the master's affair."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """One task of an instance."""

    name: str
    state: State = State.LAUNCHING
    healthy: bool | None = None
    message: str = ""
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """See the module. `place` are the agent's fields as constraints see them; `killed_for` says why we kill
    it, "" while we do not; `wall_*` are seconds of the epoch, for people; `claim` has its volumes.
    """

    id: str
    app: str
    version: str
    agent_id: str
    hostname: str
    executor_id: str
    tasks: tuple[TaskState, ...]
    place: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[tuple[str, int], ...] = ()
    wall_launched: float = 0.0
    wall_ended: float = 0.0
    killed_for: str = ""
    replaced: bool = False
    claim: str = ""

    @property
    def state(self) -> State:
        """All its tasks together: the least far while one lives, the worst end after that."""
        states = [task.state for task in self.tasks]
        living = [state for state in states if not state.ended]
        if living:
            return min(living, key=_ORDER.index)
        for end in (State.FAILED, State.LOST, State.KILLED):
            if end in states:
                return end
        return State.FINISHED

    @property
    def healthy(self) -> bool:
        """Whether every task that has a health check passed it last."""
        return all(task.healthy is not False for task in self.tasks)

    @property
    def checked(self) -> bool:
        """Whether some task's health is known."""
        return any(task.healthy is not None for task in self.tasks)

    @property
    def message(self) -> str:
        """What was last said of a task that did not end well, or of any."""
        texts = [task.message for task in self.tasks if task.message]
        return texts[-1] if texts else ""

    def task_id(self, name: str) -> str:
        """The id that Mesos knows a task by."""
        return f"{self.id}.{name}"

    @property
    def task_ids(self) -> tuple[str, ...]:
        return tuple(self.task_id(task.name) for task in self.tasks)

    @property
    def living_tasks(self) -> tuple[str, ...]:
        """Ids of the tasks that have not ended."""
        return tuple(self.task_id(task.name) for task in self.tasks if not task.state.ended)


def new_id(app: str) -> str:
    """An id that no attempt ever had."""
    return f"{app}.{secrets.token_hex(8)}"


def instance_of(task_id: str) -> str:
    """The instance that a task's id belongs to; the id itself where it has not the form of ours."""
    instance, dot, _ = task_id.rpartition(".")
    if not dot:
        return task_id
    # A task's name may have dots; an instance ends in sixteen hexadecimal digits.
    parts = task_id.split(".")
    for place in range(1, len(parts)):
        if len(parts[place]) == 16 and not set(parts[place]) - set("0123456789abcdef"):
            return ".".join(parts[: place + 1])
    return instance


def after_update(instance: Instance, task_name: str, status: TaskStatus, wall: float) -> Instance:
    """The instance after an update of one of its tasks. An end is for good, except that what was lost
    returns.
    """
    tasks = tuple(_task_after(task, status) if task.name == task_name else task for task in instance.tasks)
    if tasks == instance.tasks:
        return instance
    changed = replace(instance, tasks=tasks)
    if changed.state.ended and not instance.state.ended:
        return replace(changed, wall_ended=wall)
    if not changed.state.ended and instance.state.ended:
        return replace(changed, wall_ended=0.0)
    return changed


def _task_after(task: TaskState, status: TaskStatus) -> TaskState:
    state = _OF_TASK.get(status.state)
    if state is None or (task.state.ended and task.state is not State.LOST):
        return task
    if task.state is State.LOST and state.ended:
        return task
    if state is State.LAUNCHING or (task.state is State.RUNNING and state is State.STARTING):
        state = task.state  # an older word of a master that has just heard of it
    ips = tuple(
        address.ip_address
        for info in status.container_status.network_infos
        for address in info.ip_addresses
        if address.ip_address
    )
    healthy = status.healthy if status.HasField("healthy") else task.healthy
    message = status.message or (task.message if state is task.state else "")
    return replace(task, state=state, healthy=healthy, message=message[:500], ips=ips or task.ips)


def state_of(status: TaskStatus) -> State:
    """What a status says of its task; LOST for a state that we do not know."""
    return _OF_TASK.get(status.state, State.LOST)


def encode(instance: Instance) -> bytes:
    """For the store."""
    document: dict[str, Any] = {
        "id": instance.id,
        "app": instance.app,
        "version": instance.version,
        "agent_id": instance.agent_id,
        "hostname": instance.hostname,
        "executor_id": instance.executor_id,
        "tasks": [
            {
                "name": task.name,
                "state": task.state.value,
                "healthy": task.healthy,
                "message": task.message,
                "ips": list(task.ips),
            }
            for task in instance.tasks
        ],
        "place": dict(instance.place),
        "ports": [list(item) for item in instance.ports],
        "wall_launched": instance.wall_launched,
        "wall_ended": instance.wall_ended,
        "killed_for": instance.killed_for,
        "replaced": instance.replaced,
        **({"claim": instance.claim} if instance.claim else {}),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode(data: bytes) -> Instance:
    """From the store. Raises ValueError, KeyError or TypeError for what is no instance."""
    document = json.loads(data)
    tasks = tuple(
        TaskState(
            task["name"], State(task["state"]), task["healthy"], task["message"], tuple(task.get("ips", ()))
        )
        for task in document["tasks"]
    )
    return Instance(
        document["id"],
        document["app"],
        document["version"],
        document["agent_id"],
        document["hostname"],
        document["executor_id"],
        tasks,
        document["place"],
        tuple((name, number) for name, number in document["ports"]),
        document["wall_launched"],
        document["wall_ended"],
        document["killed_for"],
        document["replaced"],
        document.get("claim", ""),
    )
