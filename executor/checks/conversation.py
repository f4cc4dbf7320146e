"""Probes over sockets, as generators that yield what they wait for; the loop drives them, nothing blocks."""

import os
import socket
import threading
from collections.abc import Callable, Generator
from functools import partial
from typing import TypeVar

from executor.checks.result import Result
from executor.eventloop import READ, WRITE, Loop

T = TypeVar("T")
#: Yields the descriptor and the events to wait for, or None to wait for a post; returns a T.
Wait = Generator[tuple[int, int] | None, None, T]
Steps = Wait[Result]

# TLS may want to read in order to write. By name, because importing ssl costs 2 MB.
_TLS_WAITS = {"SSLWantReadError": READ, "SSLWantWriteError": WRITE}


class Talk:
    """What the steps of one conversation have in hand."""

    __slots__ = ("loop", "resume", "socket")

    def __init__(self, loop: Loop, resume: Callable[[], None]) -> None:
        self.loop = loop
        self.resume = resume
        self.socket: socket.socket | None = None

    def close(self) -> None:
        """Close the socket, if there is one."""
        if self.socket is not None:
            self.loop.unwatch(self.socket.fileno())
            self.socket.close()
            self.socket = None


class SocketProbe:
    """A Probe whose run is a generator made by `steps`."""

    def __init__(self, steps: Callable[[Talk], Steps]) -> None:
        self._make = steps
        self._steps: Steps | None = None
        self._talk: Talk | None = None
        self._done: Callable[[Result], None] | None = None

    def start(self, loop: Loop, done: Callable[[Result], None]) -> None:
        self._done = done
        self._talk = Talk(loop, self._advance)
        self._steps = self._make(self._talk)
        self._advance()

    def cancel(self) -> None:
        self._done = None
        if self._steps is not None:
            self._steps.close()
        if self._talk is not None:
            self._talk.close()

    def _advance(self) -> None:
        if self._done is None or self._steps is None or self._talk is None:
            return  # cancelled while an answer was on its way
        try:
            wanted = next(self._steps)
        except StopIteration as end:
            self._finish(end.value)
        except OSError as error:
            self._finish(Result(False, reason(error)))
        else:
            if wanted is not None:
                self._talk.loop.watch(*wanted, self._advance)

    def _finish(self, result: Result) -> None:
        done = self._done
        self.cancel()
        if done is not None:
            done(result)


def reason(error: OSError) -> str:
    """The error in words, without the number that str() adds."""
    return error.strerror or str(error) or type(error).__name__


def connect(talk: Talk, host: str, port: int) -> Wait[socket.socket]:
    """Connect to an address or a name. Raises OSError when it is refused or cannot be reached."""
    talk.close()
    family, address = yield from _resolve(talk, host, port)
    connection = socket.socket(family, socket.SOCK_STREAM)
    talk.socket = connection
    connection.setblocking(False)
    try:
        connection.connect(address)
    except BlockingIOError:
        yield connection.fileno(), WRITE
        number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number)) from None
    return connection


def patiently(connection: socket.socket, events: int, operation: Callable[[], T]) -> Wait[T]:
    """Repeat an operation of a non-blocking socket, plain or TLS, until it need not wait."""
    while True:
        try:
            return operation()
        except BlockingIOError:
            yield connection.fileno(), events
        except OSError as error:
            if type(error).__name__ not in _TLS_WAITS:
                raise
            yield connection.fileno(), _TLS_WAITS[type(error).__name__]


def send(connection: socket.socket, data: bytes) -> Wait[None]:
    """Send all of `data`."""
    while data:
        data = data[(yield from patiently(connection, WRITE, partial(connection.send, data))) :]


def receive(connection: socket.socket) -> Wait[bytes]:
    """What has come next; empty at the end of the stream."""
    return (yield from patiently(connection, READ, partial(connection.recv, 65536)))


_Address = tuple[str, int] | tuple[str, int, int, int]


def _resolve(talk: Talk, host: str, port: int) -> Wait[tuple[socket.AddressFamily, _Address]]:
    """The first address of a host. Names (only redirects have any) are looked up in a thread, as that may
    block.
    """
    if host == "localhost":
        host = "127.0.0.1"
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family, (host, port) if family == socket.AF_INET else (host, port, 0, 0)
    answers: list[tuple[socket.AddressFamily, _Address] | OSError] = []

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.append((found[0][0], found[0][4]))  # type: ignore[arg-type]
        except (OSError, UnicodeError) as error:
            answers.append(OSError(0, f"cannot find the address of {host!r}: {error}"))
        talk.loop.post(talk.resume)

    threading.Thread(target=look_up, name="check-resolver", daemon=True).start()
    while not answers:
        yield None
    answer = answers[0]
    if isinstance(answer, OSError):
        raise answer
    return answer
