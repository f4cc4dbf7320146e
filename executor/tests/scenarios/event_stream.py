"""The response to one SUBSCRIBE, written byte by byte as a scenario wants it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable

from mesos.v1.executor import executor_pb2

from executor.protocol import Encoding, encode_event, frame
from executor.tests.scenarios.http_wire import chunk


class EventStream:
    """Events to one subscription.

    `send` writes each event as an agent does, one record in one chunk. `chunks` decides where HTTP chunks
    end, `segments` where TCP segments end, `raw` writes bytes below HTTP. A stream that is gone swallows what
    is sent, as a dead pipe of an agent does: there is no queue for an executor that is away.
    """

    def __init__(
        self,
        number: int,
        connection: int,
        peer: socket.socket,
        encoding: Encoding,
        end: Callable[[bool], None],
    ) -> None:
        self.number = number
        self.connection = connection
        self.left = threading.Event()
        self._socket = peer
        self._encoding = encoding
        self._end = end
        self._lock = threading.RLock()

    def records(self, events: Iterable[executor_pb2.Event]) -> bytes:
        """The RecordIO bytes of some events."""
        return b"".join(frame(encode_event(event, self._encoding)) for event in events)

    def send(self, *events: executor_pb2.Event) -> bool:
        """Each event in a chunk of its own; false when the connection is gone."""
        return self.raw(b"".join(chunk(self.records([event])) for event in events))

    def chunks(self, pieces: Iterable[bytes]) -> bool:
        """Each piece of body bytes in a chunk, and in a TCP segment, of its own."""
        return self.segments(chunk(piece) for piece in pieces)

    def segments(self, pieces: Iterable[bytes], pause: float = 0.0) -> bool:
        """Each piece of connection bytes in a segment of its own, with `pause` seconds between two.

        Nothing else is written meanwhile: an acknowledgement must not land inside a record.
        """
        with self._lock:
            for piece in pieces:
                if not self.raw(piece):
                    return False
                if pause:
                    time.sleep(pause)
        return True

    def raw(self, data: bytes) -> bool:
        """Bytes of the connection itself; false when it is gone."""
        with self._lock:
            if self.left.is_set():
                return False
            try:
                self._socket.sendall(data)
            except OSError:
                return False
        return True

    def bound_buffer(self, size: int) -> None:
        """Let the kernel hold no more bytes that the executor has no room for."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def end(self) -> None:
        """The orderly end: the last chunk, then FIN."""
        self.raw(b"0\r\n\r\n")
        self._end(False)

    def cut(self) -> None:
        """FIN in the middle of the body, as when the agent dies."""
        self._end(False)

    def cut_after(self, data: bytes) -> None:
        """`data` in a chunk, then FIN, and nothing between: another event might complete a record."""
        with self._lock:
            self.raw(chunk(data))
            self.left.set()
        self._end(False)

    def reset(self) -> None:
        """RST."""
        self._end(True)
