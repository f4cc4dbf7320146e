"""Connections to the agent, whatever lies between: TCP, TLS or a Unix socket.

A `Wire` belongs to the thread that opened it; another may `abort` it at any moment. Every wait of it has a
deadline, that of the whole call: bytes that come one at a time buy nobody more time. `abort` closes the
socket's ends below TLS and leaves the TLS object to its thread: `SSLSocket.shutdown` takes the object away
first, and a send that is on its way in another thread would then go on in clear.

A Unix socket's path is opened at every dial, because an agent that restarts binds a new socket at the
same path. A path of 108 bytes or more does not fit into sockaddr_un; it is reached through a descriptor
of its directory.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from executor.config.settings import Endpoint
from executor.config.tls import TlsSettings

if TYPE_CHECKING:
    import ssl

    from executor.transport.tls import Context

T = TypeVar("T")

MAX_UNIX_PATH = 107
"""Bytes of a path in sockaddr_un, its terminating zero not counted."""

KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 10
KEEPALIVE_PROBES = 6
"""Seconds of silence, seconds between probes, and probes, after which a half-open connection counts as
lost."""

READ_SIZE = 64 * 1024
RECEIVE_BUFFER = 256 * 1024
"""Bytes that the kernel takes for us before we do: a KILL waits behind them all."""

FULL_QUEUE_PAUSE = 0.02
"""Seconds until the next look at a Unix socket whose queue of connections is full: nothing tells of its
end."""

# TLS may want to read in order to write. By name, because importing ssl costs 2 MB.
_TLS_WAITS = {"SSLWantReadError": select.POLLIN, "SSLWantWriteError": select.POLLOUT}


class DialError(OSError):
    """No connection; says to where and why."""


class AbortedError(OSError):
    """The connection was given up by our own side."""


@dataclass(frozen=True, slots=True)
class Dialler:
    """Makes connections to one endpoint. `timeout` (seconds) bounds connecting and the TLS handshake."""

    endpoint: Endpoint
    context: "Context | None"
    timeout: float

    @classmethod
    def of(cls, endpoint: Endpoint, settings: TlsSettings | None, timeout: float) -> "Dialler":
        """A dialler with its TLS context made. Raises ConfigError when a certificate or key cannot be
        used."""
        if settings is None or endpoint.socket is not None:
            return cls(endpoint, None, timeout)
        from executor.transport.tls import make_context  # noqa: PLC0415 (plain connections do without)

        return cls(endpoint, make_context(settings), timeout)


class Wire:
    """One connection, opened at most once. Times are on the monotonic clock; None is no deadline."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._aborted = False
        self.sent = False
        """Whether any byte of what was sent last may have reached the other end."""

    def open(self, deadline: float | None = None) -> None:
        """Connect, and shake hands where that is asked for. Raises DialError and AbortedError."""
        limit = time.monotonic() + self._dialler.timeout
        until = limit if deadline is None else min(limit, deadline)
        try:
            if self._dialler.endpoint.socket is not None:
                self._connect_unix(until)
            else:
                self._connect_tcp(until)
        except AbortedError:
            self.close()
            raise
        except OSError as error:
            self.close()
            reason = error.strerror or str(error)
            raise DialError(f"cannot connect to {self._dialler.endpoint.authority}: {reason}") from None

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it. Raises TimeoutError, AbortedError and OSError."""
        self.sent = False
        rest = memoryview(data)
        while rest:
            count = self._patiently(lambda sock, rest=rest: sock.send(rest), select.POLLOUT, deadline)  # type: ignore[misc]
            self.sent = True
            rest = rest[count:]

    def receive(self, deadline: float | None) -> bytes:
        """What has come next; empty at the end. Raises TimeoutError, AbortedError and OSError."""
        return self._patiently(lambda sock: sock.recv(READ_SIZE), select.POLLIN, deadline)

    @property
    def quiet(self) -> bool:
        """Whether nothing came and the other end is still there, as far as is known here."""
        if self._aborted:
            return False
        if not _ready(self._connected(), select.POLLIN, 0.0):
            return True
        try:
            self._connected().recv(1)
        except OSError as error:
            # A TLS record that held nothing for us, such as a session ticket.
            return isinstance(error, BlockingIOError) or type(error).__name__ in _TLS_WAITS
        return False

    @property
    def address(self) -> str | None:
        """The IP address of our own end; None on a Unix socket."""
        sock = self._connected()
        return None if sock.family == socket.AF_UNIX else str(sock.getsockname()[0])

    def abort(self) -> None:
        """End every wait, now and later, with AbortedError. From any thread, any number of times."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                # The method of the plain socket, also where this is one of TLS: see the module.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket. From the thread that opened it."""
        with self._lock:
            sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise AbortedError("the connection is closed")
        return self._socket

    def _own(self, sock: socket.socket) -> None:
        """From here on `abort` and `close` reach it."""
        with self._lock:
            self._socket = sock
            if self._aborted:
                raise AbortedError("the connection was given up")

    def _connect_tcp(self, until: float) -> None:
        endpoint = self._dialler.endpoint
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        for position, (family, kind, protocol, _, address) in enumerate(addresses, 1):
            try:
                sock = socket.socket(family, kind, protocol)
                self._own(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
                self._connect(sock, address, until)
                break
            except AbortedError:
                raise
            except OSError:
                self.close()
                if position == len(addresses):
                    raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        if self._dialler.context is not None:
            self._secure(sock, self._dialler.context, until)

    def _secure(self, sock: socket.socket, context: "Context", until: float) -> None:
        """Everything below is TLS from here on; nothing of a request is sent before the handshake."""
        with self._lock:
            secure: ssl.SSLSocket = context.wrap(sock, self._dialler.endpoint.host)
            self._socket = secure
        self._patiently(lambda _: secure.do_handshake(), select.POLLIN, until)
        context.verify(secure, self._dialler.endpoint.host)

    def _connect_unix(self, until: float) -> None:
        path = self._dialler.endpoint.socket
        assert path is not None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._own(sock)
        if len(os.fsencode(path)) <= MAX_UNIX_PATH:
            self._connect(sock, os.fsencode(path), until)
            return
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._connect(sock, b"/proc/self/fd/%d/%s" % (directory, os.fsencode(path.name)), until)
        finally:
            os.close(directory)

    def _connect(self, sock: socket.socket, address: object, until: float) -> None:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(address)  # type: ignore[arg-type]
                return
            except BlockingIOError:
                if sock.family != socket.AF_UNIX:
                    break
            if self._aborted or time.monotonic() >= until:
                raise TimeoutError("no room in its queue of connections")
            time.sleep(FULL_QUEUE_PAUSE)
        self._wait(select.POLLOUT, until)
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))

    def _patiently(self, operation: Callable[[socket.socket], T], events: int, deadline: float | None) -> T:
        """Repeat an operation of the socket, plain or TLS, until it need not wait."""
        while True:
            if self._aborted:
                raise AbortedError("the connection was given up")
            try:
                return operation(self._connected())
            except BlockingIOError:
                self._wait(events, deadline)
            except OSError as error:
                wanted = _TLS_WAITS.get(type(error).__name__)
                if wanted is None:
                    raise
                self._wait(wanted, deadline)

    def _wait(self, events: int, deadline: float | None) -> None:
        """Wait for the socket. Raises TimeoutError and AbortedError."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("no answer in time")
        _ready(self._connected(), events, left)
        if self._aborted:
            raise AbortedError("the connection was given up")


def _ready(sock: socket.socket, events: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(sock, events)
    # A millisecond more, lest the last one before a deadline be spent turning round.
    return bool(poll.poll(None if seconds is None else int(seconds * 1000) + (seconds > 0)))
