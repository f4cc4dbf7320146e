"""A worker process: it does plugin calls until the supervisor closes its end of their socket.

What it tells the supervisor, one message each (SOCK_SEQPACKET):

    {"running": calls in work, "threads": …, "refused": …, "calls": [[plugin, verb, seconds, code], …]}
    "?" and the first bytes of a query, with the connection it came by

Telling never waits: what the socket has no room for is told with the next message. Plugins go by their names
in the registry, whatever a caller says; any other is "unknown".
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import threading
from array import array
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from cni_plugins.node import wire
from cni_plugins.node.service import Handler, Service, Settings
from cni_plugins.plugins.registry import MODULES
from cni_plugins.store.failures import Failure

_AT_ONCE = 500  # calls in one message, which has to fit into the socket's buffer
_LONGEST_QUERY = 4096  # bytes that are passed on
_LONGEST_VERB = 16


@dataclass(slots=True)
class Journal:
    """Tells the supervisor of calls. Safe to use from any thread."""

    control: socket.socket
    plugins: Container[str] = frozenset(MODULES)
    threads: Callable[[], int] = field(default=lambda: 0)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _calls: list[tuple[str, str, float, int]] = field(default_factory=list)
    _running: int = 0
    _refused: int = 0

    def begin(self) -> None:
        with self._lock:
            self._running += 1
            self._tell()

    def end(self, plugin: str, verb: str, seconds: float, code: int) -> None:
        """A call is over; `code` is 0, or the code of its error."""
        with self._lock:
            self._running -= 1
            named = plugin if plugin in self.plugins else "unknown"
            self._calls.append((named, verb[:_LONGEST_VERB], seconds, code))
            self._tell()

    def refuse(self) -> None:
        with self._lock:
            self._refused += 1
            self._tell()

    def ask(self, connection: socket.socket, query: bytes) -> None:
        """Pass on whoever has a query; whom the supervisor has no room for is dropped."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [connection.fileno()]))
        with contextlib.suppress(OSError):
            # socket.send_fds leaves its flags out (CPython 3.11).
            self.control.sendmsg([wire.QUERY, query[:_LONGEST_QUERY]], [rights], socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Tell what is left, and end the conversation."""
        with self._lock:
            self.control.settimeout(5)
            while self._calls:
                before = len(self._calls)
                self._tell(0)
                if len(self._calls) == before:
                    break
        self.control.close()

    def _tell(self, flags: int = socket.MSG_DONTWAIT) -> None:
        calls = self._calls[:_AT_ONCE]
        news = {"running": self._running, "threads": self.threads(), "refused": self._refused, "calls": calls}
        with contextlib.suppress(OSError):
            self.control.send(json.dumps(news).encode(), flags)
            del self._calls[: len(calls)]
            self._refused = 0


@dataclass(frozen=True, slots=True)
class Job:
    """What all workers do: `handle` calls with so many `threads`, count those of `plugins` by name, and tell
    `failed` of what failed.
    """

    handle: Handler
    threads: int
    plugins: Container[str]
    failed: Callable[[Failure], None]


def run(listening: socket.socket, job: Job, control: socket.socket) -> int:
    """Serve until `control` ends or SIGTERM comes, then finish what is in work. The exit status."""
    journal = Journal(control, job.plugins)
    service = Service(listening, Settings(job.handle, journal, journal.ask, job.failed, job.threads))
    journal.threads = lambda: service.threads

    def ended(_number: int, _frame: object) -> None:
        service.stop()

    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGINT, ended)
    service.start()
    events = select.poll()
    events.register(control, select.POLLIN)
    events.register(service.wake, select.POLLIN)
    events.poll()
    service.stop()
    service.until_deaf()
    listening.close()  # a launcher that waits in its queue does the call itself, unless others listen
    service.until_idle()
    service.idle.finish()
    journal.close()
    return 0
