"""The call connection: one call after the other, in order.

A connection belongs to an attempt, like everything else. A call whose kept connection breaks is posted
once more on a new one, which is safe: an agent recognises an update by its uuid. When an update cannot be
delivered, those behind it are not sent either, lest they overtake it: the session subscribes anew and
they travel in SUBSCRIBE.
"""

import contextlib
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from executor.transport.http1 import HttpConnection, HttpError
from executor.transport.reports import CallAnswered, Report
from executor.transport.target import MAX_ERROR_TEXT, Target


@dataclass(frozen=True, slots=True)
class _Call:
    attempt: int
    uuid: bytes | None
    body: bytes


class Calls:
    """A thread that posts calls. `report` is called from it."""

    def __init__(self, target: Target, report: Callable[[Report], None]) -> None:
        self._target = target
        self._report = report
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._attempt = 0
        self._socket: socket.socket | None = None
        self._connection: HttpConnection | None = None
        threading.Thread(target=self._run, name="calls", daemon=True).start()

    def begin(self, attempt: int) -> None:
        """From now on only calls of this attempt are posted (0: none at all), on a connection of its own."""
        with self._lock:
            self._attempt = attempt
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def send(self, attempt: int, uuid: bytes | None, body: bytes) -> None:
        """Post a call after those before it."""
        self._queue.put(_Call(attempt, uuid, body))

    def close(self) -> None:
        """End the thread."""
        self.begin(0)
        self._queue.put(None)

    def _run(self) -> None:
        owner = blocked = 0
        while (call := self._queue.get()) is not None:
            if call.attempt == self._attempt and call.attempt != blocked:
                if owner != call.attempt:
                    self._hang_up()
                    owner = call.attempt
                answer = self._post(call)
                if call.uuid is not None and (answer.status is None or answer.status > 400):
                    blocked = call.attempt
                self._report(answer)
        self._hang_up()

    def _post(self, call: _Call) -> CallAnswered:
        kept = self._connection is not None
        try:
            try:
                return self._converse(call)
            except TimeoutError:
                raise
            except (OSError, HttpError):
                self._hang_up()
                if not kept or call.attempt != self._attempt:
                    raise
                return self._converse(call)
        except TimeoutError:
            failure = f"the agent did not answer within {self._target.timeout:g} s"
        except (OSError, HttpError, ValueError) as error:
            failure = str(error) or type(error).__name__
        self._hang_up()
        return CallAnswered(call.attempt, call.uuid, None, failure)

    def _converse(self, call: _Call) -> CallAnswered:
        if self._connection is None:
            sock = self._target.dialler.dial()
            sock.settimeout(self._target.timeout)
            self._connection = HttpConnection(sock)
            with self._lock:
                self._socket = sock
        status = self._target.post(self._connection, call.body, subscribing=False)
        text = self._connection.read_text(MAX_ERROR_TEXT)
        if not self._connection.reusable:
            self._hang_up()
        return CallAnswered(call.attempt, call.uuid, status, text)

    def _hang_up(self) -> None:
        with self._lock:
            self._socket = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
