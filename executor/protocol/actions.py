"""What the session asks of its caller. Each is carried out in the order given."""

from dataclasses import dataclass

from mesos.v1.executor import executor_pb2


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Open a new event stream with this SUBSCRIBE; whatever comes of it is reported under `attempt`."""

    attempt: int
    call: executor_pb2.Call


@dataclass(frozen=True, slots=True)
class Drop:
    """Close the stream of this attempt and forget the calls that still wait to be sent under it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Send:
    """Post a call, after those before it. `uuid` names the update in it, if it is one."""

    attempt: int
    call: executor_pb2.Call
    uuid: bytes | None


@dataclass(frozen=True, slots=True)
class Deliver:
    """An event that concerns tasks: SUBSCRIBED, LAUNCH, LAUNCH_GROUP, KILL or MESSAGE, its body present."""

    event: executor_pb2.Event


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The agent has taken this update; it is not kept any more."""

    task_id: str
    uuid: bytes


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Stop every task, then leave with this exit status."""

    reason: str
    status: int


Action = Subscribe | Drop | Send | Deliver | Acknowledged | Shutdown
