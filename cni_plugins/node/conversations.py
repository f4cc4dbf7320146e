"""Queries, from their first bytes to the last of their answers. Nothing here waits for anybody.

So many at once, so many bytes each, so long each: whoever asks slowly or does not listen is dropped and costs
the supervisor nothing but a descriptor for that time.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cni_plugins.node import wire

_SECONDS = 2.0
_AT_ONCE = 32
_LONGEST = 4096  # bytes of a query

#: The answer to a query; None when there is none to send. The connection is closed after it.
Answer = Callable[[socket.socket, bytes], bytes | None]


@dataclass(slots=True)
class _Conversation:
    connection: socket.socket
    local: bool
    deadline: float
    heard: bytes
    answer: memoryview | None = None


@dataclass(slots=True)
class Conversations:
    """`answer` is called with a query that is complete; it may raise OSError."""

    answer: Answer
    _open: dict[int, _Conversation] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, connection: socket.socket, heard: bytes, *, local: bool) -> None:
        """Take over a connection. One that is `local` is root's, by the socket of the service; the others
        come by TCP and may only ask.
        """
        connection.setblocking(False)
        if len(self._open) >= _AT_ONCE:
            self._end(next(iter(self._open)))
        fd = connection.fileno()
        self._open[fd] = _Conversation(connection, local, time.monotonic() + _SECONDS, heard)
        self._go_on(fd)

    def watched(self) -> list[tuple[int, int]]:
        """Descriptors with the events of poll(2) to wait for."""
        return [
            (fd, select.POLLIN if each.answer is None else select.POLLOUT) for fd, each in self._open.items()
        ]

    def patience(self) -> float | None:
        """Seconds until the next one is dropped."""
        soonest = min((each.deadline for each in self._open.values()), default=None)
        return None if soonest is None else max(0.0, soonest - time.monotonic())

    def turn(self, ready: set[int]) -> None:
        """Go on with those that are ready, and drop those whose time is over."""
        for fd in ready & set(self._open):
            self._go_on(fd)
        now = time.monotonic()
        for fd in [fd for fd, each in self._open.items() if each.deadline <= now]:
            self._end(fd)

    def close(self) -> None:
        for fd in list(self._open):
            self._end(fd)

    def _go_on(self, fd: int) -> None:
        talk = self._open[fd]
        try:
            if talk.answer is None and not self._listen(talk):
                return
            assert talk.answer is not None
            while talk.answer:
                talk.answer = talk.answer[talk.connection.send(talk.answer) :]
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end(fd)

    def _listen(self, talk: _Conversation) -> bool:
        """Whether the query is complete, and the answer there to be sent. OSError."""
        while not _complete(talk):
            chunk = talk.connection.recv(_LONGEST)
            talk.heard += chunk
            if not chunk:
                break
        talk.answer = memoryview(self.answer(talk.connection, talk.heard[:_LONGEST]) or b"")
        return True

    def _end(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            self._open.pop(fd).connection.close()


def _complete(talk: _Conversation) -> bool:
    heard = talk.heard
    if len(heard) >= _LONGEST or b"\r\n\r\n" in heard or b"\n\n" in heard:
        return True
    # People at the service's own socket are not asked for the empty line.
    return talk.local and (heard.startswith(wire.HANDOVER) or len(heard.split(b"\n", 1)[0].split()) > 2)
