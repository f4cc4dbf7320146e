"""Sessions, events and updates made by hand, for the tests of this folder."""

from typing import Any

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol import (
    Action,
    Policy,
    Session,
    Subscribe,
)

POLICY = Policy(
    checkpoint=True,
    recovery_timeout=900.0,
    backoff_max=2.0,
    registration_timeout=60.0,
    subscribe_timeout=15.0,
    ack_timeout=60.0,
    watchdog=3900.0,
    heartbeat_interval=1800.0,
)
Event = executor_pb2.Event


def event(kind: Any, **fields: Any) -> executor_pb2.Event:
    return Event(type=kind, **fields)


def subscribed() -> executor_pb2.Event:
    made = event(Event.SUBSCRIBED)
    made.subscribed.executor_info.executor_id.value = "E"
    made.subscribed.framework_info.user = made.subscribed.framework_info.name = "x"
    made.subscribed.agent_info.hostname = "h"
    return made


def acknowledged(status: mesos_pb2.TaskStatus) -> executor_pb2.Event:
    return event(
        Event.ACKNOWLEDGED,
        acknowledged=Event.Acknowledged(task_id=status.task_id, uuid=status.uuid),
    )


def update(task_id: str, number: int, state: Any = mesos_pb2.TASK_RUNNING) -> mesos_pb2.TaskStatus:
    return mesos_pb2.TaskStatus(
        task_id=mesos_pb2.TaskID(value=task_id), state=state, uuid=number.to_bytes(16, "big")
    )


def task(task_id: str) -> mesos_pb2.TaskInfo:
    info = mesos_pb2.TaskInfo(name=task_id)
    info.task_id.value = task_id
    info.agent_id.value = "A"
    return info


def make(policy: Policy = POLICY, jitter: float = 0.5) -> Session:
    return Session("F", "E", policy, lambda: jitter)


def join(session: Session, now: float = 0.0) -> list[Action]:
    """Take the running attempt to SUBSCRIBED."""
    return session.receive(session.attempts, subscribed(), now)


def only(actions: list[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def carried(actions: list[Action]) -> tuple[list[str], list[bytes]]:
    """The tasks and updates in the one SUBSCRIBE among these."""
    (subscribe,) = only(actions, Subscribe)
    call = subscribe.call.subscribe
    return (
        [info.task_id.value for info in call.unacknowledged_tasks],
        [update.status.uuid for update in call.unacknowledged_updates],
    )


def retry(session: Session, now: float) -> list[Action]:
    """Let the retry timer come due."""
    at = session.next_deadline()
    assert at is not None
    return session.timer(max(at, now))
