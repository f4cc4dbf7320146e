"""Calls: posted in order by a thread of their own, on one connection.

One that fails on a connection that was kept from the call before it is posted once more on a new one: always
where nothing of it was sent; where it may have been taken only if it is an update, which an agent recognises
by its uuid. When an update cannot be delivered, those behind it are not sent either, lest they overtake it:
the session subscribes anew and they travel in SUBSCRIBE.

Updates that wait for each other are sent in one go, ahead of the answers to those before, once the agent has
answered one as agents do: without a body, the connection left open. An agent takes requests of one connection
in order and answers them so. They are of different tasks: should it turn down one and take the next, what it
hears of each task still comes in order. Where such a connection ends, those without an answer are posted one
by one on a new one. So they are where it answers the first and is silent then, as who reads one request and
drops what came behind it; nothing is sent ahead to that one any more.
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from executor.http1 import HttpError
from executor.transport.connection import HttpConnection
from executor.transport.dial import AbortedError
from executor.transport.reports import CallAnswered, Report, Target

log = logging.getLogger(__name__)

MAX_ERROR_TEXT = 500
"""Bytes of an error answer's body that are kept for the log."""

BODY_PATIENCE = 1.0
"""Seconds for the rest of an answer whose status is known; the connection is given up after them."""

MAX_REST = 64 * 1024
"""Bytes of such a rest that are read for the sake of the connection."""

TOGETHER = 16
"""Updates that are sent in one go."""

AHEAD_PATIENCE = 1.0
"""Seconds for the answer to an update that was sent ahead, after the one before it."""

MAX_TOGETHER = 32 * 1024
"""Bytes of updates to which another is added: no more than sockets hold while nobody reads answers."""


@dataclass(frozen=True, slots=True)
class Call:
    """`uuid` names the update in it, and `task` is whose it is; None: it is none, or goes by itself."""

    attempt: int
    uuid: bytes | None
    body: bytes
    task: str | None = None


class Calls:
    """The thread. `report` is called from it."""

    def __init__(self, target: Target, report: Callable[[Report], None]) -> None:
        self._target = target
        self._report = report
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._taken: deque[Call | None] = deque()
        """What was taken out of the queue before its turn."""
        self._lock = threading.Lock()
        self._attempt = 0
        self._connection: HttpConnection | None = None
        self._one_by_one = False
        """What was sent ahead was lost once."""
        threading.Thread(target=self._run, name="calls", daemon=True).start()

    def begin(self, attempt: int) -> None:
        """From now on only calls of this attempt are posted (0: none at all), on a connection of its own."""
        with self._lock:
            self._attempt = attempt
            if self._connection is not None:
                self._connection.abort()

    def send(self, call: Call) -> None:
        """Post a call after those before it."""
        self._queue.put(call)

    def close(self) -> None:
        """End the thread."""
        self.begin(0)
        self._queue.put(None)

    def _run(self) -> None:
        owner = blocked = 0
        while (call := self._taken.popleft() if self._taken else self._queue.get()) is not None:
            if call.attempt != self._attempt or call.attempt == blocked:
                continue
            if owner != call.attempt:
                self._hang_up()
                owner = call.attempt
            for answer in self._answers([call, *self._company(call)]):
                self._report(answer)
                if answer.uuid is not None and (answer.status is None or answer.status > 400):
                    blocked = owner
                    self._hang_up()  # there may be answers that nobody wants any more
                    break
        self._hang_up()

    def _company(self, first: Call) -> Iterator[Call]:
        """The updates that wait behind this one and may be sent with it."""
        if first.task is None or self._connection is None or self._one_by_one:
            return
        tasks, size = {first.task}, len(first.body)
        while len(tasks) < TOGETHER and size < MAX_TOGETHER:
            try:
                call = self._taken.popleft() if self._taken else self._queue.get_nowait()
            except queue.Empty:
                return
            if call is None or call.attempt != first.attempt or call.task is None or call.task in tasks:
                self._taken.appendleft(call)
                return
            tasks.add(call.task)
            size += len(call.body)
            yield call

    def _answers(self, calls: list[Call]) -> Iterator[CallAnswered]:
        """Post calls, as many together as may be."""
        done = 0
        kept = self._kept() if len(calls) > 1 else None
        if kept is not None:
            for answer in self._post_together(kept, calls):
                done += 1
                yield answer
        for call in calls[done:]:
            if call.attempt == self._attempt:
                yield self._post_guarded(call)

    def _post_together(self, connection: HttpConnection, calls: list[Call]) -> Iterator[CallAnswered]:
        """The answers as they come. Those that do not come, because this is not an agent to be spoken to so,
        are not told of.
        """
        call = calls[0]
        try:
            deadline = time.monotonic() + self._target.timeout
            sent = self._target.post_together(connection, [call.body for call in calls], deadline)
            for call in calls[:sent]:
                if call is not calls[0]:
                    self._target.follow(connection, call.body)
                    deadline = time.monotonic() + min(self._target.timeout, AHEAD_PATIENCE)
                status = connection.read_head(deadline)
                answer = CallAnswered(call.attempt, call.uuid, status, self._rest(connection, deadline))
                if not (connection.reusable if call is calls[sent - 1] else connection.keeps_open):
                    self._hang_up()
                    yield answer
                    return
                yield answer
        except TimeoutError:
            self._hang_up()
            if call is calls[0]:
                # Whoever has not answered in that time is not asked once more.
                yield CallAnswered(call.attempt, call.uuid, None, self._late)
            else:
                log.info("no answer to an update that was sent ahead: from now on they are posted one by one")
                self._one_by_one = True
        except (OSError, HttpError, ValueError) as error:
            log.info("updates that were sent together are posted one by one: %s", error)
            self._hang_up()
        except Exception:
            log.exception("a defect: updates that were sent together are posted one by one")
            self._hang_up()

    def _post_guarded(self, call: Call) -> CallAnswered:
        try:
            return self._post(call)
        except Exception as error:
            log.exception("a defect: a call is lost")
            self._hang_up()
            return CallAnswered(call.attempt, call.uuid, None, f"a defect: {type(error).__name__}")

    def _post(self, call: Call) -> CallAnswered:
        deadline = time.monotonic() + self._target.timeout
        kept = self._kept()
        try:
            try:
                return self._converse(kept or self._dial(call, deadline), call, deadline)
            except (TimeoutError, AbortedError):
                raise
            except (OSError, HttpError):
                taken = call.uuid is None and kept is not None and kept.sent
                self._hang_up()
                if kept is None or taken or call.attempt != self._attempt:
                    raise
                return self._converse(self._dial(call, deadline), call, deadline)
        except TimeoutError:
            failure = self._late
        except (OSError, HttpError, ValueError) as error:
            failure = str(error) or type(error).__name__
        self._hang_up()
        return CallAnswered(call.attempt, call.uuid, None, failure)

    @property
    def _late(self) -> str:
        return f"the agent did not answer within {self._target.timeout:g} s"

    def _kept(self) -> HttpConnection | None:
        """The connection of the call before, if it is as it was left."""
        if self._connection is not None and not self._connection.quiet:
            self._hang_up()
        return self._connection

    def _dial(self, call: Call, deadline: float) -> HttpConnection:
        connection = HttpConnection.to(self._target.dialler)
        with self._lock:
            if call.attempt != self._attempt:
                raise AbortedError("the attempt was given up")
            self._connection = connection
        connection.open(deadline)
        return connection

    def _converse(self, connection: HttpConnection, call: Call, deadline: float) -> CallAnswered:
        status = self._target.post(connection, call.body, deadline, subscribing=False)
        text = self._rest(connection, deadline)
        if not connection.reusable:
            self._hang_up()
        return CallAnswered(call.attempt, call.uuid, status, text)

    def _rest(self, connection: HttpConnection, deadline: float) -> str:
        """The beginning of an answer's body as text; the rest is read for the sake of the connection."""
        text = ""
        try:
            rest = min(deadline, time.monotonic() + BODY_PATIENCE)
            text = connection.read_text(MAX_ERROR_TEXT, rest)
            length = len(text)
            while length < MAX_REST and (data := connection.read_some(rest)):
                length += len(data)
        except (OSError, HttpError) as error:
            # The call is answered; what cannot be read is only the connection's end.
            log.debug("the rest of an answer: %s", error)
        return text

    def _hang_up(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
