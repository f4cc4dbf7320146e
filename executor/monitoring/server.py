"""Those who look at the executor while it runs: the inspect endpoint, and the regular sampling of usage.

The endpoint is HTTP on a Unix socket in the sandbox, on the executor's own loop.

GET / is the state as JSON, GET /metrics the same as Prometheus text. One request to a connection. The
document is made when it is asked for, what makes it is loaded then, and nothing is kept for it, so an
endpoint that nobody asks costs nothing.
"""

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from executor.app.executor import Executor
from executor.config.settings import Settings
from executor.eventloop import READ, WRITE, Loop, Timer
from executor.http1 import Budget, HttpError, Request, Server
from executor.monitoring.client import NAME
from executor.output.directory import Directory
from executor.process.supervisor import Supervisor
from executor.protocol import Session

if TYPE_CHECKING:
    from executor.monitoring.snapshot import ExecutorView
    from executor.monitoring.usage import Sampler

log = logging.getLogger(__name__)

_MOST_CLIENTS = 16
_BUDGET = Budget(head=8192, fields=100, body=0)
_PIECE = 256 * 1024
"""Bytes of an answer that are written in one turn."""
_REST = 4.0
"""Times as long as the last answer took to make, until the next is made: tasks come first."""
_OK, _BAD, _DEFECT = "200 OK", "400 Bad Request", "500 Internal Server Error"
# Seconds that a client has to ask and to take its answer.
_PATIENCE = 10.0
# Seconds until the next look for somebody who asks, where there was no room for one.
_PAUSE = 0.5


class Observers:
    """They see everything and change nothing; what fails here is logged and done without."""

    def __init__(
        self,
        settings: Settings,
        loop: Loop,
        executor: Executor,
        session: Session,
        supervisor: Supervisor,
        *,
        sandbox: Directory,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._executor = executor
        self._session = session
        self._supervisor = supervisor
        self._started_at = time.time()
        self._sampler_made: Sampler | None = None
        self._told = False
        self._server: InspectServer | None = None
        if settings.inspect:
            try:
                self._server = InspectServer(loop, sandbox, self._look)
            except OSError as error:
                log.warning("nothing can be inspected: no socket in %s: %s", settings.sandbox, error)
        if settings.usage_interval:
            self._schedule()

    def close(self) -> None:
        """Stop answering, and remove the socket."""
        if self._server is not None:
            self._server.close()
            self._server = None

    @property
    def _sampler(self) -> "Sampler":
        if self._sampler_made is None:
            from executor.monitoring.usage import Sampler  # noqa: PLC0415 (see above)

            self._sampler_made = Sampler(self._supervisor)
        return self._sampler_made

    def _schedule(self) -> None:
        self._loop.call_at(self._loop.now() + self._settings.usage_interval, self._sample)

    def _sample(self) -> None:
        self._schedule()
        living = self._executor.tasks.living
        try:
            self._sampler.sample(kept.started for kept in living if kept.started is not None)
        except Exception as error:
            # Told once: what cannot be measured now most likely never can.
            if not self._told:
                log.warning("cannot sample what tasks use: %s", error, exc_info=True)
            self._told = True

    def _look(self) -> "ExecutorView":
        from executor.monitoring.snapshot import view  # noqa: PLC0415 (see above)

        return view(
            self._settings,
            self._session,
            self._executor.tasks,
            self._supervisor,
            self._sampler,
            started_at=self._started_at,
            now=self._loop.now(),
            shutting_down=self._executor.shutting_down,
            container_id=self._executor.container_id,
        )


class InspectServer:
    """Serves until closed. `look` makes the document."""

    def __init__(self, loop: Loop, directory: Directory, look: Callable[[], "ExecutorView"]) -> None:
        """Begin to listen. Raises OSError when the sandbox takes no socket."""
        self._loop = loop
        self._directory = directory
        self._look = look
        self._clients: set[_Client] = set()
        self._listener = listen(directory)
        self._questions: deque[Callable[[], None]] = deque()
        self._free_at = 0.0
        self._next: Timer | None = None
        self._socket = directory.lies(NAME)
        self._pause: Timer | None = None
        self._listen()

    def close(self) -> None:
        """Stop, and remove the socket."""
        for timer in (self._pause, self._next):
            if timer is not None:
                timer.cancel()
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
        client = _Client(self._loop, connection, self._answer, self._clients.discard, self._asked)
        self._clients.add(client)

    def _asked(self, respond: Callable[[], None]) -> None:
        self._questions.append(respond)
        self._respond()

    def _respond(self) -> None:
        """Answer one question, when the owner thread has done other work for long enough since the last."""
        if self._next is not None or not self._questions:
            return
        began = self._loop.now()
        if began >= self._free_at:
            self._questions.popleft()()
            ended = self._loop.now()
            self._free_at = ended + (ended - began) * _REST
        if self._questions:
            self._next = self._loop.call_at(self._free_at, self._go_on)

    def _go_on(self) -> None:
        self._next = None
        self._respond()

    def _answer(self, method: str, target: str) -> tuple[str, str, bytes]:
        """Status, content type and body."""
        path = target.partition("?")[0]
        if method != "GET":
            return "405 Method Not Allowed", "text/plain", b"only GET\n"
        if path == "/":
            from executor.monitoring.snapshot import to_json  # noqa: PLC0415 (see above)

            return _OK, "application/json", to_json(self._look())
        if path == "/metrics":
            from executor.monitoring.prometheus import to_prometheus  # noqa: PLC0415

            kind = "text/plain; version=0.0.4; charset=utf-8"
            return _OK, kind, to_prometheus(self._look())
        return "404 Not Found", "text/plain", b"there are / (JSON) and /metrics (Prometheus)\n"


def listen(directory: Directory) -> socket.socket:
    """A listening socket in `directory`, for its owner only; one that is left from before is replaced.

    Raises OSError.
    """
    directory.remove(NAME)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(directory.reach(NAME))
        listener.listen(16)
    except OSError:
        listener.close()
        raise
    return listener


class _Client:
    """One connection: a request in, an answer out, gone."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        answer: Callable[[str, str], tuple[str, str, bytes]],
        closed: Callable[["_Client"], None],
        asked: Callable[[Callable[[], None]], None],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._answer = answer
        self._closed = closed
        self._asked = asked
        self._http = Server(_BUDGET)
        self._heard = 0
        self._reply = memoryview(b"")
        self._timer: Timer = loop.call_at(loop.now() + _PATIENCE, self.close)
        self._open = True
        connection.setblocking(False)
        loop.watch(connection.fileno(), READ, self._readable)

    def close(self) -> None:
        self._open = False
        self._timer.cancel()
        self._loop.unwatch(self._connection.fileno())
        self._connection.close()
        self._closed(self)

    def _readable(self) -> None:
        """One receive, then others have their turn."""
        try:
            data = self._connection.recv(_BUDGET.head)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._heard += len(data)
        if not data or self._heard > _BUDGET.head:
            self.close()
            return
        try:
            self._http.receive(data)
            request = self._http.next()
        except HttpError:
            self._send(_BAD, "text/plain", b"not HTTP\n")
            return
        if isinstance(request, Request):
            self._loop.unwatch(self._connection.fileno())
            self._asked(partial(self._respond, request))

    def _respond(self, request: Request) -> None:
        if not self._open:
            return
        try:
            status, kind, body = self._answer(request.method, request.target)
        except Exception:
            # The endpoint only looks; whatever goes wrong in it must not end tasks.
            log.exception("cannot tell the state")
            status, kind, body = _DEFECT, "text/plain", b"see the executor's log\n"
        self._send(status, kind, body)

    def _send(self, status: str, kind: str, body: bytes) -> None:
        fields = [("Content-Type", kind), ("Connection", "close")]
        code, _, phrase = status.partition(" ")
        self._reply = memoryview(self._http.answer(int(code), phrase, fields, body))
        self._loop.watch(self._connection.fileno(), WRITE, self._writable)

    def _writable(self) -> None:
        try:
            self._reply = self._reply[self._connection.send(self._reply[:_PIECE]) :]
        except BlockingIOError:
            return
        except OSError:
            self._reply = memoryview(b"")
        if not self._reply:
            self.close()
