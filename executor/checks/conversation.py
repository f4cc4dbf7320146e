"""Probes over sockets, as generators that yield what they wait for; the loop drives them, nothing blocks.

The loop has its turn before every receive, whatever has come already: a server that sends without end slows
down its own probe and nobody else. How much a probe reads in all is for its protocol to bound, how long it
lasts for the check's timeout.
"""

import errno
import os
import socket
import threading
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from executor.checks.result import Result
from executor.eventloop import READ, WRITE, Loop

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
#: Yields the descriptor and the events to wait for, or None to wait for a post; returns a T.
Wait = Generator[tuple[int, int] | None, None, T]
Steps = Wait[Result]

READ_SIZE = 64 * 1024
"""Bytes taken in one turn."""

MAX_LOOKUPS = 8
"""Names that are looked up at a time, in threads that cannot be stopped: a redirect may name a server that
never answers, at every run of every check."""

OUR_WANT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
"""Errors that tell of this machine's want and nothing of the task. Connecting gives no other EAGAIN."""

# Theirs is every executor's of this process: a thread that hangs outlives the check that made it.
_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)


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
            self._finish(failure(reason(error), error))
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


def failure(text: str, error: OSError, *, connected: bool | None = None) -> Result:
    """The result of a run that met this error: a failed one, or where the want is ours none that counts."""
    if error.errno in OUR_WANT:
        return Result(False, text, transient=True)
    return Result(False, text, connected=connected)


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


class Channel:
    """A connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, data: bytes) -> Wait[None]:
        """Send all of `data`."""
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                yield self._socket.fileno(), WRITE

    def receive(self) -> Wait[bytes]:
        """What comes next; empty at the end of the stream. The loop has its turn first."""
        while True:
            yield self._socket.fileno(), READ
            try:
                return self._socket.recv(READ_SIZE)
            except BlockingIOError:
                continue


class SecureChannel:
    """TLS over a channel. Bytes go through memory, so that OpenSSL never sees more than a turn's worth."""

    def __init__(self, channel: Channel, context: "ssl.SSLContext", host: str) -> None:
        import ssl  # noqa: PLC0415 (only tasks with an https check pay for OpenSSL)

        self._channel = channel
        self._want_read, self._at_end = ssl.SSLWantReadError, ssl.SSLEOFError
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)

    def shake_hands(self) -> Wait[None]:
        """The handshake. Raises ssl.SSLError (an OSError)."""
        yield from self._through(self._tls.do_handshake)

    def send(self, data: bytes) -> Wait[None]:
        """Send all of `data`."""
        yield from self._through(partial(self._tls.write, data))

    def receive(self) -> Wait[bytes]:
        """What comes next; empty at the end of the stream, announced or not."""
        try:
            return (yield from self._through(partial(self._tls.read, READ_SIZE)))
        except self._at_end:
            return b""

    def _through(self, operation: Callable[[], T]) -> Wait[T]:
        while True:
            try:
                result = operation()
            except self._want_read:
                yield from self._channel.send(self._out.read())
                data = yield from self._channel.receive()
                if data:
                    self._in.write(data)
                else:
                    self._in.write_eof()
            else:
                yield from self._channel.send(self._out.read())
                return result


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
            answers.append(OSError(0, f"cannot find the address of {host[:100]!r}: {error}"))
        finally:
            _lookups.release()
        talk.loop.post(talk.resume)

    if not _lookups.acquire(blocking=False):
        raise OSError(errno.EAGAIN, f"{MAX_LOOKUPS} names are being looked up already")
    try:
        threading.Thread(target=look_up, name="check-resolver", daemon=True).start()
    except RuntimeError:
        _lookups.release()
        raise OSError(errno.EAGAIN, "no thread to look up a name") from None
    while not answers:
        yield None
    answer = answers[0]
    if isinstance(answer, OSError):
        raise answer
    return answer
