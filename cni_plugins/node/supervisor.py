"""The process that keeps the workers: it forks them, counts for them, answers queries, and ends with them.

Plugin calls are done by a few worker processes that share the listening socket (worker.py), because Python
runs one thread of a process at a time. The supervisor takes no calls and has one thread, so that it can fork
a worker anew whenever one dies. Each worker has a socket to it, on which it tells of its calls and passes on
whoever has a question; the end of that socket, on either side, is the end of the other.

    launcher -> listening socket -> a worker -> reply
                                       | calls, queries
                                       v
                                     supervisor -> status, metrics, the socket for a successor
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cni_plugins.node import wire
from cni_plugins.node.listen import Origin
from cni_plugins.node.metrics import Metrics
from cni_plugins.node.queries import http_answer

log = logging.getLogger("mesokit.node")

_MESSAGE = 1 << 18
_TOGETHER_SECONDS = 0.01  # what workers tell within that is heard in one go
_PATIENCE_SECONDS = 2.0  # with whoever asks a question and does not listen
_PAUSE_SECONDS = 1.0

Work = Callable[[socket.socket], int]


@dataclass(slots=True)
class Worker:
    """A worker process; `running` and `threads` are what it told last."""

    pid: int
    control: socket.socket
    born: float
    running: int = 0
    threads: int = 0


@dataclass(slots=True)
class Supervisor:
    """Keeps `count` workers. Each runs `work` with its end of the socket; what that returns is its exit
    status. `listening` stays the caller's.
    """

    listening: socket.socket
    origin: Origin
    metrics: Metrics
    work: Work
    count: int
    scrapers: socket.socket | None = None
    handed_over: bool = False
    workers: list[Worker] = field(default_factory=list)
    _stopping: bool = False
    _wake: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    def start(self) -> None:
        self._replace()

    def stop(self) -> None:
        """Returns at once. May be called from a signal handler."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def until_stopped(self) -> None:
        while not self._stopping:
            self._listen(self._scrapers(), None if len(self.workers) == self.count else _PAUSE_SECONDS)
            ended = [worker for worker in self.workers if not worker.pid]
            self.workers = [worker for worker in self.workers if worker.pid]
            if self._stopping:
                break
            if ended:
                log.error("%d workers ended unexpectedly; others take their place", len(ended))
            if any(time.monotonic() - worker.born < _PAUSE_SECONDS for worker in ended):
                continue  # not sooner than after a pause
            self._replace()

    def until_idle(self) -> None:
        """Until the workers have ended their calls and themselves."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.control.shutdown(socket.SHUT_WR)
        while self.workers:
            self._listen([])
            self.workers = [each for each in self.workers if each.pid]

    def _replace(self) -> None:
        """Fork the workers that are missing. Where there is no room for one, it is tried again later."""
        try:
            while len(self.workers) < self.count:
                self._fork()
        except OSError as error:
            log.error("cannot start a worker: %s", error)

    def _fork(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid:
            theirs.close()
            self.workers.append(Worker(pid, ours, time.monotonic()))
            return
        status = 1
        try:
            for other in (ours, *(worker.control for worker in self.workers), *self._scrapers()):
                other.close()
            status = self.work(theirs)
        except BaseException:
            log.exception("a worker failed")
        finally:
            logging.shutdown()
            os._exit(status)

    def _scrapers(self) -> list[socket.socket]:
        return [self.scrapers] if self.scrapers is not None else []

    def _listen(self, scrapers: list[socket.socket], seconds: float | None = None) -> None:
        """Wait until something happens, for `seconds` at most, and deal with all that has."""
        controls = [worker.control for worker in self.workers]
        watched: list[int | socket.socket] = [self._wake, *controls, *scrapers]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        time.sleep(_TOGETHER_SECONDS)
        asked: list[tuple[socket.socket, bytes]] = []
        for worker in self.workers:
            self._hear(worker, asked)
        for listener in scrapers:
            if listener in ready:
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    connection.settimeout(_PATIENCE_SECONDS)
                    asked.append((connection, connection.recv(65536)))
        for connection, question in asked:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_PATIENCE_SECONDS)
                self._answer(connection, question)

    def _hear(self, worker: Worker, asked: list[tuple[socket.socket, bytes]]) -> None:
        """All that a worker has told; a `pid` of 0 if it has ended."""
        while True:
            try:
                data, descriptors = wire.receive_descriptors(worker.control, _MESSAGE, 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if descriptors:
                asked.append((socket.socket(fileno=descriptors[0]), data))
            elif data:
                self._note(worker, json.loads(data))
            else:
                worker.control.close()
                os.waitpid(worker.pid, 0)
                worker.pid = worker.running = worker.threads = 0
                self._count()
                return

    def _note(self, worker: Worker, told: dict[str, list[list[object]] | int]) -> None:
        calls = told["calls"]
        assert isinstance(calls, list)
        for plugin, verb, seconds, code in calls:
            self.metrics.add(str(plugin), str(verb), float(str(seconds)), int(str(code)))
        self.metrics.refuse(int(str(told["refused"])))
        worker.running, worker.threads = int(str(told["running"])), int(str(told["threads"]))
        self._count()

    def _count(self) -> None:
        self.metrics.running = sum(worker.running for worker in self.workers)

    def _answer(self, connection: socket.socket, question: bytes) -> None:
        if not question.startswith(wire.HANDOVER):
            threads = sum(worker.threads for worker in self.workers)
            pids = [os.getpid(), *(worker.pid for worker in self.workers if worker.pid)]
            connection.sendall(http_answer(question, self.metrics, threads, pids))
        elif self.origin is not Origin.SYSTEMD:
            socket.send_fds(connection, [b"yours"], [self.listening.fileno()])
            self.handed_over = True
            log.info("the socket goes to a successor")
            self.stop()


def default_count() -> int:
    """Two: one is in Python while the other is in the kernel, which changes one thing at a time."""
    try:
        cores = len(os.sched_getaffinity(0))
    except OSError:
        cores = 1
    return min(2, cores)
