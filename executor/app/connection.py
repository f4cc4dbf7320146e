"""The connection with the agent: what the session decides, carried out by the link, on the owner thread.

Threads of the link post what they read to the loop. Every report goes through the session, and what the
session asks of the link is done at once and in order; the rest waits for the executor, which takes it at
the end of each turn. The session's next deadline is a timer of the loop.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.app.launch_spec import unlaunchable
from executor.config.settings import Settings
from executor.eventloop import Loop, Timer
from executor.protocol import (
    Acknowledged,
    Action,
    Deliver,
    Drop,
    Policy,
    Send,
    Session,
    Shutdown,
    Subscribe,
    encode_call,
)
from executor.transport import (
    CallAnswered,
    EventReceived,
    Noise,
    Report,
    StreamLost,
    StreamOpened,
    StreamRefused,
)

log = logging.getLogger(__name__)

News = Deliver | Acknowledged | Shutdown
"""What concerns the executor and not the link."""

_SCARCE = (MemoryError, RuntimeError, OSError)
"""What want of our own resources raises: memory, threads, descriptors."""


class Transport(Protocol):
    """The link, as far as the connection needs it. What becomes of a call is reported."""

    def subscribe(self, attempt: int, body: bytes) -> None:
        """Open the stream of a new attempt."""

    def send(self, attempt: int, uuid: bytes | None, body: bytes, task: str | None = None) -> None:
        """Post a call of the current attempt, after those before it. `task`: whose update it is."""

    def drop(self) -> None:
        """Close the current attempt's connections."""

    def close(self) -> None:
        """Close everything."""


class Connection:
    """`make_link` gets the loop's `post`, and what reports go to on the owner thread. `address` is our own
    end's, None where there is none.
    """

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        make_link: Callable[[Callable[[Callable[[], None]], None], Callable[[Report], None]], Transport],
    ) -> None:
        self._encoding = settings.encoding
        self._loop = loop
        self._link = make_link(loop.post, self._hear)
        self._alarm: tuple[float, Timer] | None = None
        self._news: deque[News] = deque()
        self.session = Session(settings.framework_id, settings.executor_id, policy_of(settings))
        self.address: str | None = None
        self.unlaunchable: dict[str, str] = {}
        """Tasks, by id, of which something cannot be run as it was meant, and what."""

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

    def take(self) -> News | None:
        """The next of what has come for the executor."""
        return self._news.popleft() if self._news else None

    def put_back(self, news: News) -> None:
        """It could not be attended to now."""
        self._news.appendleft(news)

    def _hear(self, report: Report) -> None:
        now = self._loop.now()
        match report:
            case EventReceived(attempt, event, damaged):
                if damaged:
                    self.unlaunchable |= unlaunchable(event, damaged)
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

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Subscribe(attempt, call):
                    self._subscribe(attempt, call)
                case Send(attempt, call, uuid):
                    self._send(attempt, uuid, call)
                case Drop():
                    self._link.drop()
                case _:
                    self._news.append(action)
        self._set_alarm()

    # A call that the link cannot even take for want of memory, threads or descriptors is one that failed: the
    # session hears of it like of any other, and tries again when its time has come.

    def _subscribe(self, attempt: int, call: executor_pb2.Call) -> None:
        try:
            self._link.subscribe(attempt, encode_call(call, self._encoding))
        except _SCARCE as error:
            self._hear_soon(StreamLost(attempt, f"cannot open the event stream: {error!r}"))

    def _send(self, attempt: int, uuid: bytes | None, call: executor_pb2.Call) -> None:
        try:
            task = call.update.status.task_id.value if uuid is not None else None
            self._link.send(attempt, uuid, encode_call(call, self._encoding), task)
        except _SCARCE as error:
            self._hear_soon(CallAnswered(attempt, uuid, None, f"cannot send: {error!r}"))

    def _hear_soon(self, report: Report) -> None:
        self._loop.post(partial(self._hear, report))

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
        # Within what `kill_grace` of executor.py leaves of the grace period.
        farewell=min(0.5, 0.2 * settings.shutdown_grace),
    )
