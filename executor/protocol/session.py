"""The subscription of one executor with its agent: what is sent when, and what must survive a lost
connection.

Theory of operation. There is one *attempt* at a time, numbered; everything that the link reports carries
its number, and whatever belongs to an older one is ignored, so a stale stream can do no harm. An attempt
is SUBSCRIBING until the agent says SUBSCRIBED. Without one the session is WAITING for its next try, or
CLOSED for good. What every input means in every phase is one table, `TABLE`; an input that has no entry
in a phase means nothing there.

Updates are kept, in order, from before they are sent until they are acknowledged. There is no retry by
timer on a live connection: SUBSCRIBE carries what is not acknowledged, and so a call that could not be
posted makes the session subscribe anew. An update that the agent refuses for good (400) is kept, since it
was never acknowledged, but neither sent again nor waited for. Tasks are kept until any of their updates is
acknowledged: an agent that restarts declares a task lost that it had sent and that no SUBSCRIBE names.

An executor that checkpoints gets one recovery timer when the subscription is lost. Only SUBSCRIBED stops
it; an agent that accepts connections and answers 503 for ever does not. Without checkpointing a lost
stream ends the executor, for the agent that comes back would not know it.
"""

import logging
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol.actions import Acknowledged, Action, Deliver, Drop, Send, Shutdown, Subscribe
from executor.protocol.session_input import LEAST_DELAY, Input, Phase, Policy

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
        self.told_to_leave = False
        """Whether the agent has asked to shut down."""
        self.changed_at = -math.inf
        """When an update was last made or acknowledged."""
        self._framework_id = framework_id
        self._executor_id = executor_id
        self._policy = policy
        self._jitter = jitter or _random
        self._attempt = 0
        self._tasks: dict[str, mesos_pb2.TaskInfo] = {}
        self._updates: dict[bytes, mesos_pb2.TaskStatus] = {}
        self._refusals: dict[bytes, mesos_pb2.TaskStatus] = {}
        self._taken: set[bytes] = set()
        """The kept updates that this attempt's SUBSCRIBE or a call of it has brought to the agent."""
        self._taken_at = -math.inf
        self._ever_subscribed = False
        self._closing = False
        self._denials = 0
        self._subscribed_at = 0.0
        self._retry_at: float | None = None
        self._register_by: float | None = None
        self._recover_by: float | None = None
        self._hear_by: float | None = None
        self._heartbeat_at: float | None = None

    @property
    def attempts(self) -> int:
        """SUBSCRIBE calls made so far."""
        return self._attempt

    @property
    def unacknowledged(self) -> tuple[mesos_pb2.TaskStatus, ...]:
        """The updates that the agent has not acknowledged, oldest first; those that it refused come last."""
        return (*self._updates.values(), *self._refusals.values())

    @property
    def refused_updates(self) -> int:
        """How many updates the agent has refused for good."""
        return len(self._refusals)

    def wait_until(self) -> float:
        """Until when an executor without tasks should wait for acknowledgements: -inf when there is nothing
        to wait for.
        """
        if self.phase is Phase.CLOSED or not self._updates:
            return -math.inf
        if self.told_to_leave and self._taken.issuperset(self._updates):
            return self._taken_at + self._policy.farewell
        return self.changed_at + self._policy.ack_timeout

    def start(self, now: float) -> list[Action]:
        """Begin with the first attempt."""
        self._register_by = now + self._policy.registration_timeout
        return self._put(Input.RETRY, now)

    def track(self, task: mesos_pb2.TaskInfo) -> None:
        """A task was received and is ours: name it to the agent until one of its updates is acknowledged."""
        self._tasks[task.task_id.value] = task

    def update(self, status: mesos_pb2.TaskStatus, now: float) -> list[Action]:
        """Keep an update (its uuid set) and send it, or let the next subscription carry it."""
        self._updates[status.uuid] = status
        self.changed_at = now
        return self._put(Input.UPDATE, now, status)

    def message(self, data: bytes) -> list[Action]:
        """A framework message; without a subscription it is lost, as the API has it."""
        return self._put(Input.MESSAGE, 0.0, data)

    def receive(self, attempt: int, event: executor_pb2.Event, now: float) -> list[Action]:
        """An event has come on the stream of `attempt`."""
        if attempt != self._attempt or self.phase not in (Phase.SUBSCRIBING, Phase.SUBSCRIBED):
            log.info("ignoring an event of an older stream")
            return []
        self.heard(attempt, now)
        return self._put(
            _INPUTS.get(event.type, Input.NOTICE) if _complete(event) else Input.NOTICE, now, event
        )

    def heard(self, attempt: int, now: float) -> None:
        """Something came on the stream, be it unreadable: the agent is alive."""
        if attempt == self._attempt and self._policy.watchdog and self.phase is Phase.SUBSCRIBED:
            self._hear_by = now + self._policy.watchdog

    def refused(self, attempt: int, status: int, body: str, now: float) -> list[Action]:
        """SUBSCRIBE was answered with an HTTP status other than 200."""
        return self._put(Input.REFUSED, now, (status, body)) if attempt == self._attempt else []

    def lost(self, attempt: int, reason: str, now: float) -> list[Action]:
        """The connection could not be made, or the stream has ended."""
        return self._put(Input.LOST, now, reason) if attempt == self._attempt else []

    def sent(
        self, attempt: int, uuid: bytes | None, status: int | None, body: str, now: float
    ) -> list[Action]:
        """A call was answered with an HTTP status, or with None could not be posted even on a new
        connection."""
        if status is not None and 200 <= status < 300:
            if uuid in self._updates and attempt == self._attempt:
                self._taken.add(uuid)
                self._taken_at = now
            return []
        what = f"a call {f'was answered with {status}' if status else 'could not be posted'}: {body}"
        log.warning("%s", what)
        if uuid is None:
            return []
        if status == 400:
            # The same bytes would be refused again, here and in every SUBSCRIBE that carried them.
            if (refused := self._updates.pop(uuid, None)) is not None:
                log.error("an update of task %r is refused for good", refused.task_id.value)
                self._refusals[uuid] = refused
                self.changed_at = now
            return []
        return self._put(Input.UNDELIVERED, now, what) if attempt == self._attempt else []

    def next_deadline(self) -> float | None:
        """When `timer` wants to be called."""
        deadlines = (
            self._retry_at,
            self._register_by,
            self._recover_by,
            self._hear_by,
            self._heartbeat_at,
        )
        return min((at for at in deadlines if at is not None), default=None)

    def timer(self, now: float) -> list[Action]:
        """Do what has become due."""
        actions: list[Action] = []
        if _due(self._register_by, now):
            limit = self._policy.registration_timeout
            actions += self._put(Input.GIVEN_UP, now, f"the agent could not be reached within {limit:g} s")
        if _due(self._recover_by, now):
            limit = self._policy.recovery_timeout
            actions += self._put(Input.GIVEN_UP, now, f"the agent has not come back within {limit:g} s")
        if _due(self._retry_at, now):
            actions += self._put(Input.RETRY, now)
        if _due(self._hear_by, now):
            actions += self._put(Input.SILENT, now)
        if _due(self._heartbeat_at, now):
            actions += self._put(Input.HEARTBEAT, now)
        return actions

    def _put(self, given: Input, now: float, what: Any = None) -> list[Action]:
        """Look up what an input means in this phase, and do it."""
        handler = TABLE[self.phase].get(given)
        return handler(self, now, what) if handler is not None else []

    def _call(self, kind: Any) -> executor_pb2.Call:
        return _Call(
            type=kind,
            framework_id=mesos_pb2.FrameworkID(value=self._framework_id),
            executor_id=mesos_pb2.ExecutorID(value=self._executor_id),
        )

    def _backoff(self) -> float:
        """Never so short that a broken agent is met with a loop, never longer than the agent's own limit."""
        return max(LEAST_DELAY, self._policy.backoff_max * (0.1 + 0.9 * self._jitter()))

    def _subscribe(self, now: float, _: object) -> list[Action]:
        self._attempt += 1
        self.phase = Phase.SUBSCRIBING
        self._retry_at = None
        self._hear_by = now + self._policy.subscribe_timeout
        self._taken = set(self._updates)
        call = self._call(_Call.SUBSCRIBE)
        call.subscribe.SetInParent()
        call.subscribe.unacknowledged_tasks.extend(self._tasks.values())
        for status in self._updates.values():
            call.subscribe.unacknowledged_updates.add().status.CopyFrom(status)
        return [Subscribe(self._attempt, call)]

    def _subscribed(self, now: float, event: executor_pb2.Event) -> list[Action]:
        self._ever_subscribed = True
        self._denials = 0
        self._recover_by = None
        return [*self._open(now), Deliver(event)]

    def _open(self, now: float) -> list[Action]:
        """Calls may be sent from here on, first the updates that have come up since SUBSCRIBE was
        written."""
        self.phase = Phase.SUBSCRIBED
        self._subscribed_at = self._taken_at = now
        self._register_by = None
        self._hear_by = now + self._policy.watchdog if self._policy.watchdog else None
        self._heartbeat_at = (
            now + self._policy.heartbeat_interval if self._policy.heartbeat_interval else None
        )
        return [
            action
            for uuid, status in self._updates.items()
            if uuid not in self._taken
            for action in self._send_update(now, status)
        ]

    def _acknowledged(self, now: float, event: executor_pb2.Event) -> list[Action]:
        task_id, uuid = event.acknowledged.task_id.value, event.acknowledged.uuid
        kept = self._updates if uuid in self._updates else self._refusals
        status = kept.get(uuid)
        if status is None or status.task_id.value != task_id:
            log.info("ignoring an acknowledgement of no update of ours: task %s", task_id)
            return []
        del kept[uuid]
        self._taken.discard(uuid)
        self._tasks.pop(task_id, None)
        self.changed_at = now
        return [Acknowledged(task_id, uuid)]

    def _shut_down_at_once(self, now: float, _: object) -> list[Action]:
        """SHUTDOWN in the place of SUBSCRIBED: calls are taken all the same, once."""
        if self.told_to_leave:
            return self._close(now, "the agent asks again to shut down", 0)
        return [*self._open(now), *self._shut_down(now, None)]

    def _shut_down(self, _now: float, _: object) -> list[Action]:
        self.told_to_leave = self._closing = True
        self._recover_by = None
        return [Shutdown("the agent asks to shut down", 0)]

    def _deliver(self, _now: float, event: executor_pb2.Event) -> list[Action]:
        return [Deliver(event)]

    def _note(self, _now: float, event: executor_pb2.Event) -> list[Action]:
        if not _complete(event):
            log.warning("ignoring a %s event without its body", _Event.Type.Name(event.type))
        elif event.type == _Event.ERROR:
            log.error("the agent reports: %s", event.error.message)
        elif event.type != _Event.HEARTBEAT:
            log.warning("ignoring an event of a type unknown here")
        return []

    def _subscribe_refused(self, now: float, answer: tuple[int, str]) -> list[Action]:
        status, body = answer
        what = f"the agent answers SUBSCRIBE with {status}{': ' + body if body else ''}"
        if status in (401, 403):
            self._denials += 1
            if self._denials >= MAX_DENIALS:
                return self._close(now, what, 1)
        elif status == 400 or (status < 500 and status != 404 and not self._ever_subscribed):
            # Who took SUBSCRIBE before knows how it is written: anything but "unknown" is said by somebody in
            # the agent's place, or on the way to it, and the tasks run on as when it is away.
            return self._close(now, what, 1)
        log.warning("%s", what)
        return self._disconnected(what, self._policy.busy_delay, now)

    def _not_subscribed(self, now: float, reason: str | None) -> list[Action]:
        reason = reason or "the agent does not answer SUBSCRIBE"
        log.warning("no subscription: %s", reason)
        return self._disconnected(reason, self._backoff(), now)

    def _stream_lost(self, now: float, reason: str) -> list[Action]:
        log.warning("no subscription: %s", reason)
        stable = now - self._subscribed_at >= STABLE_AFTER
        return self._disconnected(reason, 0.0 if stable else self._backoff(), now)

    def _too_quiet(self, now: float, _: object) -> list[Action]:
        silence = f"nothing heard for {self._policy.watchdog:g} s"
        log.warning("no subscription: %s", silence)
        return self._disconnected(silence, 0.0, now, chosen=True)

    def _undelivered(self, now: float, what: str) -> list[Action]:
        return self._disconnected(what, self._policy.busy_delay, now, chosen=True)

    def _send_update(self, _now: float, status: mesos_pb2.TaskStatus) -> list[Action]:
        call = self._call(_Call.UPDATE)
        call.update.status.CopyFrom(status)
        return [Send(self._attempt, call, status.uuid)]

    def _send_message(self, _now: float, data: bytes) -> list[Action]:
        call = self._call(_Call.MESSAGE)
        call.message.data = data
        return [Send(self._attempt, call, None)]

    def _lose_message(self, _now: float, data: bytes) -> list[Action]:
        log.info("a framework message of %d bytes is lost: not subscribed", len(data))
        return []

    def _send_heartbeat(self, now: float, _: object) -> list[Action]:
        self._heartbeat_at = now + self._policy.heartbeat_interval
        return [Send(self._attempt, self._call(_Call.HEARTBEAT), None)]

    def _disconnected(self, reason: str, delay: float, now: float, *, chosen: bool = False) -> list[Action]:
        """There is no subscription any more: decide whether there may be another, and when.

        `chosen` says that it was us who gave it up, which tells nothing about the agent.
        """
        was, self.phase = self.phase, Phase.WAITING
        self._hear_by = self._heartbeat_at = None
        self._taken.clear()
        may_return = self._policy.checkpoint or chosen
        if self._closing and (was is Phase.SUBSCRIBING or not may_return):
            return self._close(now, reason, 0)
        if self._ever_subscribed and not may_return:
            reason = f"the agent is gone and this framework does not checkpoint: {reason}"
            return self._close(now, reason, 0)
        if self._ever_subscribed and self._recover_by is None and not self._closing:
            self._recover_by = now + self._policy.recovery_timeout
        self._retry_at = now + delay
        return [Drop(self._attempt)]

    def _give_up(self, now: float, reason: str) -> list[Action]:
        return self._close(now, reason, 1)

    def _close(self, _now: float, reason: str, status: int) -> list[Action]:
        """No further attempt. The tasks have to go, unless they are going already."""
        self.phase = Phase.CLOSED
        self._retry_at = self._register_by = self._recover_by = None
        self._hear_by = self._heartbeat_at = None
        stop: list[Action] = [] if self._closing and status == 0 else [Shutdown(reason, status)]
        self._closing = True
        return [Drop(self._attempt), *stop]


Handler = Callable[[Session, float, Any], list[Action]]

_INPUTS: dict[Any, Input] = {
    _Event.SUBSCRIBED: Input.SUBSCRIBED,
    _Event.ACKNOWLEDGED: Input.ACKNOWLEDGED,
    _Event.SHUTDOWN: Input.SHUTDOWN,
    _Event.LAUNCH: Input.TASKS,
    _Event.LAUNCH_GROUP: Input.TASKS,
    _Event.KILL: Input.TASKS,
    _Event.MESSAGE: Input.TASKS,
}

TABLE: Mapping[Phase, Mapping[Input, Handler]] = {
    Phase.WAITING: {
        Input.MESSAGE: Session._lose_message,
        Input.RETRY: Session._subscribe,
        Input.GIVEN_UP: Session._give_up,
    },
    Phase.SUBSCRIBING: {
        Input.SUBSCRIBED: Session._subscribed,
        Input.ACKNOWLEDGED: Session._acknowledged,
        Input.SHUTDOWN: Session._shut_down_at_once,
        Input.TASKS: Session._deliver,
        Input.NOTICE: Session._note,
        Input.REFUSED: Session._subscribe_refused,
        Input.LOST: Session._not_subscribed,
        Input.SILENT: Session._not_subscribed,
        Input.MESSAGE: Session._lose_message,
        Input.GIVEN_UP: Session._give_up,
    },
    Phase.SUBSCRIBED: {
        Input.SUBSCRIBED: Session._deliver,
        Input.ACKNOWLEDGED: Session._acknowledged,
        Input.SHUTDOWN: Session._shut_down,
        Input.TASKS: Session._deliver,
        Input.NOTICE: Session._note,
        Input.LOST: Session._stream_lost,
        Input.UNDELIVERED: Session._undelivered,
        Input.SILENT: Session._too_quiet,
        Input.UPDATE: Session._send_update,
        Input.MESSAGE: Session._send_message,
        Input.HEARTBEAT: Session._send_heartbeat,
    },
    Phase.CLOSED: {
        Input.MESSAGE: Session._lose_message,
    },
}
"""What an input means in each phase. UPDATE without an entry is kept for the next subscription; everything
else without one is late news of something that is over."""


def _random() -> float:
    return int.from_bytes(os.urandom(4), "big") / 2**32


def _complete(event: executor_pb2.Event) -> bool:
    body = _BODIES.get(event.type)
    return body is None or event.HasField(body)


def _due(at: float | None, now: float) -> bool:
    return at is not None and at <= now
