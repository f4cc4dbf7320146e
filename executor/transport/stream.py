"""The event stream of one attempt: SUBSCRIBE, and the endless answer cut into events."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable

from executor.protocol import DecodeError, FramingError, RecordIODecoder, decode_event
from executor.transport.http1 import OK, HttpConnection, HttpError
from executor.transport.reports import EventReceived, Noise, Report, StreamLost, StreamOpened, StreamRefused
from executor.transport.target import MAX_ERROR_TEXT, Target

log = logging.getLogger(__name__)


class Stream:
    """A thread that lives as long as the stream does. `report` is called from it, last with the end."""

    def __init__(self, target: Target, attempt: int, body: bytes, report: Callable[[Report], None]) -> None:
        self._target = target
        self._attempt = attempt
        self._report = report
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._closed = False
        threading.Thread(target=self._run, args=(body,), name=f"stream-{attempt}", daemon=True).start()

    def close(self) -> None:
        """End the stream; may be called from any thread, any number of times."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                # Wakes the thread that reads; closing the descriptor under it would not.
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self, body: bytes) -> None:
        try:
            with contextlib.closing(self._target.dialler.dial()) as sock:
                with self._lock:
                    self._socket = sock
                    if self._closed:
                        return
                try:
                    end = self._converse(sock, body)
                finally:
                    with self._lock:
                        self._socket = None
        except (OSError, HttpError, ValueError) as error:
            end = StreamLost(self._attempt, str(error) or type(error).__name__)
        self._report(end)

    def _converse(self, sock: socket.socket, body: bytes) -> Report:
        connection = HttpConnection(sock)
        status = self._target.post(connection, body, subscribing=True)
        if status != OK:
            return StreamRefused(self._attempt, status, connection.read_text(MAX_ERROR_TEXT))
        address = None if sock.family == socket.AF_UNIX else sock.getsockname()[0]
        self._report(StreamOpened(self._attempt, address))
        return StreamLost(self._attempt, self._read_events(connection))

    def _read_events(self, connection: HttpConnection) -> str:
        """Report events until the stream ends; the reason for its end."""
        decoder = RecordIODecoder(self._target.max_record)
        while data := connection.read_some():
            try:
                records = decoder.feed(data)
            except FramingError as error:
                self._report_records(error.records)
                return f"the event stream cannot be read: {error}"
            self._report_records(records)
        return f"the agent closed the event stream{' inside a record' if decoder.inside_record else ''}"

    def _report_records(self, records: list[bytes]) -> None:
        for record in records:
            try:
                event = decode_event(record, self._target.encoding)
            except DecodeError as error:
                log.warning("ignoring a record of %d bytes that holds no event: %s", len(record), error)
                self._report(Noise(self._attempt))
            else:
                self._report(EventReceived(self._attempt, event))
