"""The inspect endpoint: HTTP on a Unix socket in the sandbox, on the executor's own loop.

GET / is the state as JSON, GET /metrics the same as Prometheus text. One request to a connection. The
document is made when it is asked for, what makes it is loaded then, and nothing is kept for it, so an
endpoint that nobody asks costs nothing.
"""

import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from executor.eventloop import READ, WRITE, Loop, Timer
from executor.monitoring.address import NAME, listen
from executor.output.directory import Directory

if TYPE_CHECKING:
    from executor.monitoring.snapshot import ExecutorView

log = logging.getLogger(__name__)

_MOST_CLIENTS = 16
_MOST_REQUEST = 8192
# Seconds that a client has to ask and to take its answer.
_PATIENCE = 10.0
# Seconds until the next look for somebody who asks, where there was no room for one.
_PAUSE = 0.5


class InspectServer:
    """Serves until closed. `look` makes the document."""

    def __init__(self, loop: Loop, directory: Directory, look: Callable[[], "ExecutorView"]) -> None:
        """Begin to listen. Raises OSError when the sandbox takes no socket."""
        self._loop = loop
        self._directory = directory
        self._look = look
        self._clients: set[_Client] = set()
        self._listener = listen(directory)
        self._socket = directory.lies(NAME)
        self._pause: Timer | None = None
        self._listen()

    def close(self) -> None:
        """Stop, and remove the socket."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        try:
            if self._directory.lies(NAME) == self._socket:
                self._directory.remove(NAME)
        except OSError as error:
            log.warning("%s is left in the sandbox: %s", NAME, error)
        for client in list(self._clients):
            client.close()

    def _listen(self) -> None:
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # Whoever waits makes it ready again at once, and no descriptor is free to let them in.
            self._loop.unwatch(self._listener.fileno())
            self._pause = self._loop.call_at(self._loop.now() + _PAUSE, self._listen)
            return
        if len(self._clients) >= _MOST_CLIENTS:
            connection.close()
            return
        client = _Client(self._loop, connection, self._answer, self._clients.discard)
        self._clients.add(client)

    def _answer(self, method: str, target: str) -> tuple[str, str, bytes]:
        """Status, content type and body."""
        path = target.partition("?")[0]
        if method != "GET":
            return "405 Method Not Allowed", "text/plain", b"only GET\n"
        if path == "/":
            from executor.monitoring.snapshot import to_json  # noqa: PLC0415 (see above)

            return "200 OK", "application/json", to_json(self._look())
        if path == "/metrics":
            from executor.monitoring.prometheus import to_prometheus  # noqa: PLC0415

            return "200 OK", "text/plain; version=0.0.4; charset=utf-8", to_prometheus(self._look())
        return "404 Not Found", "text/plain", b"there are / (JSON) and /metrics (Prometheus)\n"


class _Client:
    """One connection: a request in, an answer out, gone."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        answer: Callable[[str, str], tuple[str, str, bytes]],
        closed: Callable[["_Client"], None],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._answer = answer
        self._closed = closed
        self._request = b""
        self._reply = b""
        self._timer: Timer = loop.call_at(loop.now() + _PATIENCE, self.close)
        connection.setblocking(False)
        loop.watch(connection.fileno(), READ, self._readable)

    def close(self) -> None:
        self._timer.cancel()
        self._loop.unwatch(self._connection.fileno())
        self._connection.close()
        self._closed(self)

    def _readable(self) -> None:
        try:
            data = self._connection.recv(_MOST_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._request += data
        if b"\r\n\r\n" in self._request:
            self._respond()
        elif not data or len(self._request) > _MOST_REQUEST:
            self.close()

    def _respond(self) -> None:
        words = self._request.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(words) != 3:
            status, kind, body = "400 Bad Request", "text/plain", b"not HTTP\n"
        else:
            try:
                status, kind, body = self._answer(words[0], words[1])
            except Exception:
                # The endpoint only looks; whatever goes wrong in it must not end tasks.
                log.exception("cannot tell the state")
                status, kind, body = "500 Internal Server Error", "text/plain", b"see the executor's log\n"
        fields = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        self._reply = f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + body
        self._loop.watch(self._connection.fileno(), WRITE, self._writable)

    def _writable(self) -> None:
        try:
            self._reply = self._reply[self._connection.send(self._reply) :]
        except BlockingIOError:
            return
        except OSError:
            self._reply = b""
        if not self._reply:
            self.close()
