"""The subscription of one executor with its agent: what is sent when, and what must survive a lost
connection.

Theory of operation. There is one *attempt* at a time, numbered; everything that the link reports carries
its number, and whatever belongs to an older one is ignored, so a stale stream can do no harm. An attempt
is SUBSCRIBING until the agent says SUBSCRIBED. Without one the session is WAITING for its next try, or
CLOSED for good.

Updates are kept, in order, from before they are sent until they are acknowledged. There is no retry by
timer on a live connection: SUBSCRIBE carries what is not acknowledged, and so a call that could not be
posted makes the session subscribe anew. Tasks are kept until any of their updates is acknowledged: an
agent that restarts declares a task lost that it had sent and that no SUBSCRIBE names.

An executor that checkpoints gets one recovery timer when the subscription is lost. Only SUBSCRIBED stops
it; an agent that accepts connections and answers 503 for ever does not. Without checkpointing a lost
stream ends the executor, for the agent that comes back would not know it.
"""

import enum
import logging
import os
from collections.abc import Callable
from typing import Any

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol.actions import (
    Acknowledged,
    Action,
    Deliver,
    Drained,
    Drop,
    Send,
    Shutdown,
    Subscribe,
)
from executor.protocol.policy import MIN_DELAY, Policy

log = logging.getLogger(__name__)

MAX_DENIALS = 3
"""SUBSCRIBE answered 401 or 403 this often in a row is final: an agent may be changing its key, but not
for long."""

STABLE_AFTER = 1.0
"""Seconds after which a subscription counts as one, and its loss is answered at once instead of after a
delay."""

_Event = executor_pb2.Event
_Call = executor_pb2.Call

_BODIES: dict[Any, str] = {
    _Event.SUBSCRIBED: "subscribed",
    _Event.LAUNCH: "launch",
    _Event.LAUNCH_GROUP: "launch_group",
    _Event.KILL: "kill",
    _Event.ACKNOWLEDGED: "acknowledged",
    _Event.MESSAGE: "message",
    _Event.ERROR: "error",
}


class Phase(enum.Enum):
    """Where the session is."""

    WAITING = "waiting"
    SUBSCRIBING = "subscribing"
    SUBSCRIBED = "subscribed"
    CLOSED = "closed"


class Session:
    """`now` is a monotonic clock in seconds throughout. `jitter` gives numbers from 0 to 1, random ones
    if it is None.
    """

    def __init__(
        self,
        framework_id: str,
        executor_id: str,
        policy: Policy,
        jitter: Callable[[], float] | None = None,
    ) -> None:
        self.phase = Phase.WAITING
        self._framework_id = framework_id
        self._executor_id = executor_id
        self._policy = policy
        self._jitter = jitter or _random
        self._attempt = 0
        self._tasks: dict[str, mesos_pb2.TaskInfo] = {}
        self._updates: dict[bytes, mesos_pb2.TaskStatus] = {}
        self._carried: frozenset[bytes] = frozenset()
        self._ever_subscribed = False
        self._leaving = False
        self._denials = 0
        self._subscribed_at = 0.0
        self._retry_at: float | None = None
        self._register_by: float | None = None
        self._recover_by: float | None = None
        self._answer_by: float | None = None
        self._hear_by: float | None = None
        self._heartbeat_at: float | None = None
        self._drain_by: float | None = None

    @property
    def attempts(self) -> int:
        """SUBSCRIBE calls made so far."""
        return self._attempt

    @property
    def unacknowledged(self) -> tuple[mesos_pb2.TaskStatus, ...]:
        """The updates that the agent has not acknowledged, oldest first."""
        return tuple(self._updates.values())

    def start(self, now: float) -> list[Action]:
        """Begin with the first attempt."""
        self._register_by = now + self._policy.registration_timeout
        return self._subscribe(now)

    def track(self, task: mesos_pb2.TaskInfo) -> None:
        """A task was received and is ours: name it to the agent until one of its updates is acknowledged."""
        self._tasks[task.task_id.value] = task

    def update(self, status: mesos_pb2.TaskStatus, now: float) -> list[Action]:
        """Keep an update (its uuid set) and send it, or let the next subscription carry it."""
        self._updates[status.uuid] = status
        if self._drain_by is not None:
            self._drain_by = now + self._policy.ack_timeout
        if self.phase is not Phase.SUBSCRIBED:
            return []
        return [self._send_update(status)]

    def message(self, data: bytes) -> list[Action]:
        """A framework message; without a subscription it is lost, as the API has it."""
        if self.phase is not Phase.SUBSCRIBED:
            log.info("a framework message of %d bytes is lost: not subscribed", len(data))
            return []
        call = self._call(_Call.MESSAGE)
        call.message.data = data
        return [Send(self._attempt, call, None)]

    def drain(self, now: float) -> list[Action]:
        """No task is left: say Drained once every update is acknowledged, or after the longest wait."""
        self._drain_by = now + self._policy.ack_timeout
        return self._drained()

    def resume(self) -> None:
        """There is a task again: undo `drain`."""
        self._drain_by = None

    def receive(self, attempt: int, event: executor_pb2.Event, now: float) -> list[Action]:
        """An event has come on the stream of `attempt`."""
        if attempt != self._attempt or self.phase not in (Phase.SUBSCRIBING, Phase.SUBSCRIBED):
            log.info("ignoring an event of an older stream")
            return []
        self.heard(attempt, now)
        match event.type if _complete(event) else None:
            case _Event.SUBSCRIBED:
                return [*self._subscribed(now), Deliver(event)]
            case _Event.ACKNOWLEDGED:
                return self._acknowledged(event.acknowledged.task_id.value, event.acknowledged.uuid)
            case _Event.SHUTDOWN:
                return self._told_to_leave(now)
            case _Event.LAUNCH | _Event.LAUNCH_GROUP | _Event.KILL | _Event.MESSAGE:
                return [Deliver(event)]
            case _:
                _note(event)
                return []

    def heard(self, attempt: int, now: float) -> None:
        """Something came on the stream, be it unreadable: the agent is alive."""
        if attempt == self._attempt and self._policy.watchdog and self._hear_by is not None:
            self._hear_by = now + self._policy.watchdog

    def refused(self, attempt: int, status: int, body: str, now: float) -> list[Action]:
        """SUBSCRIBE was answered with an HTTP status other than 200."""
        if attempt != self._attempt or self.phase is not Phase.SUBSCRIBING:
            return []
        what = f"the agent answers SUBSCRIBE with {status}{': ' + body if body else ''}"
        if status in (401, 403):
            self._denials += 1
            if self._denials >= MAX_DENIALS:
                return self._close(what, 1)
        elif status < 500 and status != 404:
            return self._close(what, 1)
        log.warning("%s", what)
        return self._disconnected(what, self._policy.busy_delay, now)

    def lost(self, attempt: int, reason: str, now: float) -> list[Action]:
        """The connection could not be made, or the stream has ended."""
        if attempt != self._attempt or self.phase not in (Phase.SUBSCRIBING, Phase.SUBSCRIBED):
            return []
        log.warning("no subscription: %s", reason)
        stable = self.phase is Phase.SUBSCRIBED and now - self._subscribed_at >= STABLE_AFTER
        return self._disconnected(reason, 0.0 if stable else self._backoff(), now)

    def sent(
        self, attempt: int, uuid: bytes | None, status: int | None, body: str, now: float
    ) -> list[Action]:
        """A call was answered with an HTTP status, or with None could not be posted even on a new
        connection."""
        if status is not None and 200 <= status < 300:
            return []
        what = f"a call {f'was answered with {status}' if status else 'could not be posted'}: {body}"
        log.warning("%s", what)
        if uuid is None:
            return []
        if status == 400:
            # The same bytes would be refused again, here and in every SUBSCRIBE that carried them.
            refused = self._updates.get(uuid)
            return [] if refused is None else self._acknowledged(refused.task_id.value, uuid)
        if attempt != self._attempt or self.phase is not Phase.SUBSCRIBED:
            return []
        return self._disconnected(what, self._policy.busy_delay, now, chosen=True)

    def next_deadline(self) -> float | None:
        """When `timer` wants to be called."""
        return min((at for at in self._deadlines() if at is not None), default=None)

    def timer(self, now: float) -> list[Action]:
        """Do what has become due."""
        actions: list[Action] = []
        if _due(self._drain_by, now):
            actions += self._drained(expired=True)
        if _due(self._register_by, now):
            limit = self._policy.registration_timeout
            actions += self._close(f"the agent could not be reached within {limit:g} s", 1)
        if _due(self._recover_by, now):
            limit = self._policy.recovery_timeout
            actions += self._close(f"the agent has not come back within {limit:g} s", 1)
        if _due(self._retry_at, now):
            actions += self._subscribe(now)
        if _due(self._answer_by, now):
            actions += self.lost(self._attempt, "the agent does not answer SUBSCRIBE", now)
        if _due(self._hear_by, now):
            silence = f"nothing heard for {self._policy.watchdog:g} s"
            log.warning("no subscription: %s", silence)
            actions += self._disconnected(silence, 0.0, now, chosen=True)
        if _due(self._heartbeat_at, now):
            self._heartbeat_at = now + self._policy.heartbeat_interval
            actions.append(Send(self._attempt, self._call(_Call.HEARTBEAT), None))
        return actions

    def _deadlines(self) -> tuple[float | None, ...]:
        return (
            self._retry_at,
            self._register_by,
            self._recover_by,
            self._answer_by,
            self._hear_by,
            self._heartbeat_at,
            self._drain_by,
        )

    def _call(self, kind: Any) -> executor_pb2.Call:
        return _Call(
            type=kind,
            framework_id=mesos_pb2.FrameworkID(value=self._framework_id),
            executor_id=mesos_pb2.ExecutorID(value=self._executor_id),
        )

    def _send_update(self, status: mesos_pb2.TaskStatus) -> Send:
        call = self._call(_Call.UPDATE)
        call.update.status.CopyFrom(status)
        return Send(self._attempt, call, status.uuid)

    def _backoff(self) -> float:
        """Never so short that a broken agent is met with a loop, never longer than the agent's own limit
        where that is possible."""
        return max(MIN_DELAY, self._policy.backoff_max * (0.1 + 0.9 * self._jitter()))

    def _subscribe(self, now: float) -> list[Action]:
        self._attempt += 1
        self.phase = Phase.SUBSCRIBING
        self._retry_at = None
        self._answer_by = now + self._policy.subscribe_timeout
        self._carried = frozenset(self._updates)
        call = self._call(_Call.SUBSCRIBE)
        call.subscribe.SetInParent()
        call.subscribe.unacknowledged_tasks.extend(self._tasks.values())
        for status in self._updates.values():
            call.subscribe.unacknowledged_updates.add().status.CopyFrom(status)
        return [Subscribe(self._attempt, call)]

    def _subscribed(self, now: float) -> list[Action]:
        if self.phase is Phase.SUBSCRIBED:
            return []
        self.phase = Phase.SUBSCRIBED
        self._ever_subscribed = True
        self._denials = 0
        self._subscribed_at = now
        self._recover_by = None
        return self._open(now)

    def _open(self, now: float) -> list[Action]:
        """Calls may be sent from here on, first the updates that have come up since SUBSCRIBE was
        written."""
        self._register_by = self._answer_by = None
        self._hear_by = now + self._policy.watchdog if self._policy.watchdog else None
        self._heartbeat_at = (
            now + self._policy.heartbeat_interval if self._policy.heartbeat_interval else None
        )
        return [
            self._send_update(status) for uuid, status in self._updates.items() if uuid not in self._carried
        ]

    def _acknowledged(self, task_id: str, uuid: bytes) -> list[Action]:
        status = self._updates.get(uuid)
        if status is None or status.task_id.value != task_id:
            log.info("ignoring an acknowledgement of no update of ours: task %s", task_id)
            return []
        del self._updates[uuid]
        self._tasks.pop(task_id, None)
        return [Acknowledged(task_id, uuid), *self._drained()]

    def _told_to_leave(self, now: float) -> list[Action]:
        if self._leaving and self.phase is Phase.SUBSCRIBING:
            return self._close("the agent asks again to shut down", 0)
        first = self.phase is Phase.SUBSCRIBING
        self._leaving = True
        self._recover_by = None
        if first:
            self.phase = Phase.SUBSCRIBED
            self._subscribed_at = now
        opened = self._open(now) if first else []
        return [*opened, Shutdown("the agent asks to shut down", 0)]

    def _disconnected(self, reason: str, delay: float, now: float, *, chosen: bool = False) -> list[Action]:
        """There is no subscription any more: decide whether there may be another, and when.

        `chosen` says that it was us who gave it up, which tells nothing about the agent.
        """
        was, self.phase = self.phase, Phase.WAITING
        self._answer_by = self._hear_by = self._heartbeat_at = None
        may_return = self._policy.checkpoint or chosen
        if self._leaving and (was is Phase.SUBSCRIBING or not may_return):
            return self._close(reason, 0)
        if self._ever_subscribed and not may_return:
            return self._close(f"the agent is gone and this framework does not checkpoint: {reason}", 0)
        if self._ever_subscribed and self._recover_by is None and not self._leaving:
            self._recover_by = now + self._policy.recovery_timeout
        self._retry_at = now + delay
        return [Drop(self._attempt)]

    def _close(self, reason: str, status: int) -> list[Action]:
        """No further attempt. The tasks have to go, unless they are going already."""
        self.phase = Phase.CLOSED
        self._retry_at = self._register_by = self._recover_by = None
        self._answer_by = self._hear_by = self._heartbeat_at = None
        stop: list[Action] = [] if self._leaving and status == 0 else [Shutdown(reason, status)]
        self._leaving = True
        return [Drop(self._attempt), *stop, *self._drained()]

    def _drained(self, *, expired: bool = False) -> list[Action]:
        if self._drain_by is None or (self._updates and not expired and self.phase is not Phase.CLOSED):
            return []
        self._drain_by = None
        return [Drained(len(self._updates))]


def _random() -> float:
    return int.from_bytes(os.urandom(4), "big") / 2**32


def _complete(event: executor_pb2.Event) -> bool:
    body = _BODIES.get(event.type)
    return body is None or event.HasField(body)


def _note(event: executor_pb2.Event) -> None:
    if not _complete(event):
        log.warning("ignoring a %s event without its body", _Event.Type.Name(event.type))
    elif event.type == _Event.ERROR:
        log.error("the agent reports: %s", event.error.message)
    elif event.type != _Event.HEARTBEAT:
        log.warning("ignoring an event of a type unknown here")


def _due(at: float | None, now: float) -> bool:
    return at is not None and at <= now
