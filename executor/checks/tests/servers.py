"""Servers on the loopback that say exactly what a test wants said."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import trustme


class ScriptedServer:
    """Answers each connection with the next piece of `answers`, the last one again and again; keeps the
    requests.
    """

    def __init__(
        self,
        answers: Sequence[bytes | Callable[[int], bytes]],
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        dribble: bool = False,
        hang: bool = False,
        eager: bool = False,
    ) -> None:
        self._answers = answers
        self._tls = tls
        self._dribble = dribble
        self._hang = hang
        self._eager = eager
        self.requests: list[bytes] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._held: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._held:
            connection.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if self._hang:
            self._held.append(connection)
            return
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with connection:
            request = b""
            while b"\r\n\r\n" not in request and not self._eager:
                request += connection.recv(65536)
            answer = self._answers[min(len(self.requests), len(self._answers) - 1)]
            self.requests.append(request)
            data = answer if isinstance(answer, bytes) else answer(self.port)
            if self._dribble:
                for position in range(len(data)):
                    connection.sendall(data[position : position + 1])
                    time.sleep(0.001)
            else:
                connection.sendall(data)


@contextlib.contextmanager
def serving(*answers: bytes | Callable[[int], bytes], **options: Any) -> Iterator[ScriptedServer]:
    """A scripted server that is closed afterwards."""
    server = ScriptedServer(answers, **options)
    try:
        yield server
    finally:
        server.close()


def status(code: int, *fields: str, body: bytes = b"") -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {code} Reason", f"Content-Length: {len(body)}", *fields, "", ""]
    return "\r\n".join(lines).encode() + body


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port where connections are neither accepted nor refused: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(("127.0.0.1", port))
        yield port


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def self_signed() -> ssl.SSLContext:
    """A certificate that nobody knows, for a name that is not the server's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("somewhere.example").configure_cert(context)
    return context


@contextlib.contextmanager
def endless(
    first: bytes, again: bytes, *, pause: float = 0.0, tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """The port of a server that says `first` to everybody, and `again` for ever, as fast as it is taken or
    with a pause (seconds) between. It never hangs up before the peer does.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    over = threading.Event()
    block = again * max(1, 0 if pause else 65536 // len(again))

    def speak(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if tls is not None:
                connection = stack.enter_context(tls.wrap_socket(connection, server_side=True))
            connection.sendall(first)
            while not over.wait(pause):
                connection.sendall(block)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=speak, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
