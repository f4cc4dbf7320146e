"""The link of an executor with its agent: a stream connection and a call connection, as the API wants them.

Theory of operation. Each connection has a thread, made with the first subscription and kept to the end, for
a task may later leave no room for one. What they read is handed to the owner thread by `post`, the loop's;
the owner's `hear` gets it. A connection belongs to an attempt; when a new one begins, the old connections are
aborted, whatever they wait for.

Nothing of the agent's is waited for without end or kept without bound. A call has one deadline, from before
it dials to the head of its answer; the stream has one for the head of its own, and then none, since it is
silent for half an hour at a time (the session's watchdog is for that). Events that the owner has not come to
are held up to MAX_WAITING bytes, then the stream is not read: TCP tells the agent.

How calls are posted is told in calls.py.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from mesos.v1.executor import executor_pb2

from executor.http1 import HttpError
from executor.protocol import DecodeError, FramingError, RecordIODecoder, decode_repaired
from executor.transport.calls import BODY_PATIENCE, MAX_ERROR_TEXT, Call, Calls
from executor.transport.connection import OK, HttpConnection
from executor.transport.dial import AbortedError
from executor.transport.reports import (
    EventReceived,
    Noise,
    Report,
    StreamLost,
    StreamOpened,
    StreamRefused,
    Target,
)

log = logging.getLogger(__name__)

MAX_WAITING = 256 * 1024
"""Bytes of records, and of a little more for each, that may wait for the owner thread; one record is always
let through, whatever its size."""

RECORD_COST = 512
"""Bytes that an event costs beside those of its record, roughly."""

MAX_COMPLAINTS = 100
"""Records without an event that are logged."""


class Link:
    """Used by the owner thread. `post` runs a function on it soon, and may be called from any thread; `hear`
    gets the reports there."""

    def __init__(
        self,
        target: Target,
        post: Callable[[Callable[[], None]], None],
        hear: Callable[[Report], None],
    ) -> None:
        self._target = target
        self._post = post
        self._hear = hear
        self._threads: tuple[_Stream, Calls] | None = None

    def subscribe(self, attempt: int, body: bytes) -> None:
        """Open the stream of a new attempt; what belongs to an older one is dropped. Raises RuntimeError
        where there is no room for the threads; it may be tried again.
        """
        if self._threads is None:
            calls = Calls(self._target, self._tell)
            try:
                self._threads = _Stream(self._target, self._post, self._hear), calls
            except BaseException:
                calls.close()
                raise
        stream, calls = self._threads
        calls.begin(attempt)
        stream.begin(attempt, body)

    def send(self, attempt: int, uuid: bytes | None, body: bytes, task: str | None = None) -> None:
        """Post a call of the current attempt, after those before it. `task`: whose update it is."""
        if self._threads is not None:
            self._threads[1].send(Call(attempt, uuid, body, task))

    def drop(self) -> None:
        """Close the current attempt's connections; calls that wait are forgotten."""
        if self._threads is not None:
            stream, calls = self._threads
            stream.begin(0, b"")
            calls.begin(0)

    def close(self) -> None:
        """Close everything and let the threads end."""
        if self._threads is not None:
            stream, calls = self._threads
            self._threads = None
            stream.close()
            calls.close()

    def _tell(self, report: Report) -> None:
        self._post(partial(self._hear, report))


class _Stream:
    """The event streams, one after the other: SUBSCRIBE, and the endless answer cut into events."""

    def __init__(
        self,
        target: Target,
        post: Callable[[Callable[[], None]], None],
        hear: Callable[[Report], None],
    ) -> None:
        self._target = target
        self._post = post
        self._hear = hear
        self._changed = threading.Condition()
        self._attempt = 0
        self._body: bytes | None = None
        self._connection: HttpConnection | None = None
        self._waiting = 0
        self._complaints = 0
        self._closed = False
        threading.Thread(target=self._run, name="stream", daemon=True).start()

    def begin(self, attempt: int, body: bytes) -> None:
        """Give up the stream there is, and open one for this attempt (0: none)."""
        with self._changed:
            self._attempt = attempt
            self._body = body if attempt else None
            if self._connection is not None:
                self._connection.abort()
            self._changed.notify_all()

    def close(self) -> None:
        """Give up the stream and end the thread."""
        with self._changed:
            self._closed = True
            self.begin(0, b"")

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._body is None and not self._closed:
                    self._changed.wait()
                if self._body is None:
                    return
                attempt, body, self._body = self._attempt, self._body, None
                connection = self._connection = HttpConnection.to(self._target.dialler)
            try:
                end = self._converse(connection, attempt, body)
            except (OSError, HttpError, ValueError) as error:
                end = StreamLost(attempt, str(error) or type(error).__name__)
            except Exception as error:
                log.exception("a defect ends the event stream")
                end = StreamLost(attempt, f"a defect: {type(error).__name__}")
            with self._changed:
                self._connection = None
            connection.close()
            self._report(end, 0)

    def _converse(self, connection: HttpConnection, attempt: int, body: bytes) -> Report:
        connection.open()
        deadline = time.monotonic() + self._target.timeout
        status = self._target.post(connection, body, deadline, subscribing=True)
        if status != OK:
            text = ""
            with contextlib.suppress(OSError, HttpError):
                text = connection.read_text(MAX_ERROR_TEXT, time.monotonic() + BODY_PATIENCE)
            return StreamRefused(attempt, status, text)
        self._report(StreamOpened(attempt, connection.address), 0)
        return StreamLost(attempt, self._read_events(connection, attempt))

    def _read_events(self, connection: HttpConnection, attempt: int) -> str:
        """Report events until the stream ends; the reason for its end."""
        decoder = RecordIODecoder(self._target.max_record)
        while data := connection.read_some(None):
            try:
                records = decoder.feed(data)
            except FramingError as error:
                self._report_records(error.records, attempt)
                return f"the event stream cannot be read: {error}"
            self._report_records(records, attempt)
        return f"the agent closed the event stream{' inside a record' if decoder.inside_record else ''}"

    def _report_records(self, records: list[bytes], attempt: int) -> None:
        for record in records:
            report: Report
            try:
                event, damaged = decode_repaired(record, executor_pb2.Event(), self._target.encoding)
                if damaged:
                    self._complain(f"an event has fields that are not UTF-8: {', '.join(damaged[:5])}")
                report = EventReceived(attempt, event, damaged)
            except DecodeError as error:
                self._complain(f"ignoring a record of {len(record)} bytes that holds no event: {error}")
                report = Noise(attempt)
            except Exception as error:
                # The next record may be a KILL: it must not pay for this one.
                self._complain(f"a defect: a record of {len(record)} bytes is lost: {error!r}")
                report = Noise(attempt)
            self._report(report, len(record) + RECORD_COST)

    def _complain(self, text: str) -> None:
        self._complaints += 1
        if self._complaints < MAX_COMPLAINTS:
            log.warning("%s", text)
        elif self._complaints == MAX_COMPLAINTS:
            log.warning("%s; there were %d, and no further ones are told", text, MAX_COMPLAINTS)

    def _report(self, report: Report, cost: int) -> None:
        """Hand on a report, when there is room for it. Raises AbortedError if its attempt ends before."""
        with self._changed:
            while cost and self._waiting and self._waiting + cost > MAX_WAITING:
                if self._closed or report.attempt != self._attempt:
                    raise AbortedError("the stream was given up")
                self._changed.wait()
            self._waiting += cost
        self._post(partial(self._deliver, report, cost))

    def _deliver(self, report: Report, cost: int) -> None:
        """On the owner thread."""
        try:
            self._hear(report)
        finally:
            with self._changed:
                self._waiting -= cost
                self._changed.notify_all()
