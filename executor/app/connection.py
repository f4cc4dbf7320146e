"""The connection with the agent: the session's decisions carried out by the link, on the owner thread.

Threads of the link post what they read to the loop. Every report goes through the session, and what the
session asks for is done at once and in order: calls by the link, the rest by the `handler`. The session's
next deadline is a timer of the loop.
"""

from collections.abc import Callable, Sequence

from mesos.v1 import mesos_pb2

from executor.config.settings import Settings
from executor.eventloop import SelectorLoop, Timer
from executor.protocol import Action, Drop, Policy, Send, Session, Subscribe, encode_call
from executor.transport import (
    CallAnswered,
    EventReceived,
    Link,
    Noise,
    Report,
    StreamLost,
    StreamOpened,
    StreamRefused,
    Target,
)


class Connection:
    """Set `handler` before the loop runs: it gets what is not for the link. `address` is our own end's, None
    where there is none.
    """

    def __init__(self, settings: Settings, loop: SelectorLoop, target: Target) -> None:
        self._encoding = settings.encoding
        self._loop = loop
        self._link = Link(target, loop.post, self._hear)
        self._alarm: tuple[float, Timer] | None = None
        self.session = Session(settings.framework_id, settings.executor_id, policy_of(settings))
        self.handler: Callable[[Action], None] = _unhandled
        self.address: str | None = None

    def open(self) -> None:
        """Send the first SUBSCRIBE."""
        self._perform(self.session.start(self._loop.now()))

    def close(self) -> None:
        """Let the link's threads end."""
        self._link.close()

    def update(self, status: mesos_pb2.TaskStatus) -> None:
        """Have a status update delivered."""
        self._perform(self.session.update(status, self._loop.now()))

    def message(self, data: bytes) -> None:
        """Send a framework message, if that is possible now."""
        self._perform(self.session.message(data))

    def drain(self) -> None:
        """Ask for Drained when nothing is left to be acknowledged."""
        self._perform(self.session.drain(self._loop.now()))

    def _hear(self, report: Report) -> None:
        now = self._loop.now()
        match report:
            case EventReceived(attempt, event):
                self._perform(self.session.receive(attempt, event, now))
            case CallAnswered(attempt, uuid, status, body):
                self._perform(self.session.sent(attempt, uuid, status, body, now))
            case StreamLost(attempt, reason):
                self._perform(self.session.lost(attempt, reason, now))
            case StreamRefused(attempt, status, body):
                self._perform(self.session.refused(attempt, status, body, now))
            case StreamOpened(_, address):
                self.address = address
            case Noise(attempt):
                self.session.heard(attempt, now)

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Subscribe(attempt, call):
                    self._link.subscribe(attempt, encode_call(call, self._encoding))
                case Send(attempt, call, uuid):
                    self._link.send(attempt, uuid, encode_call(call, self._encoding))
                case Drop():
                    self._link.drop()
                case _:
                    self.handler(action)
        self._set_alarm()

    def _set_alarm(self) -> None:
        deadline = self.session.next_deadline()
        if self._alarm is not None:
            if self._alarm[0] == deadline:
                return
            self._alarm[1].cancel()
        self._alarm = None if deadline is None else (deadline, self._loop.call_at(deadline, self._ring))

    def _ring(self) -> None:
        self._alarm = None
        self._perform(self.session.timer(self._loop.now()))


def policy_of(settings: Settings) -> Policy:
    """The session's clocks."""
    return Policy(
        checkpoint=settings.checkpoint,
        recovery_timeout=settings.recovery_timeout,
        backoff_max=settings.backoff_max,
        registration_timeout=settings.registration_timeout,
        subscribe_timeout=settings.subscribe_timeout,
        ack_timeout=settings.ack_timeout,
        watchdog=settings.watchdog,
        heartbeat_interval=settings.heartbeat_interval,
    )


def _unhandled(action: Action) -> None:
    raise RuntimeError(f"nobody handles {action!r} yet")
