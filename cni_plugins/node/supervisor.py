"""The process that keeps the workers: it forks them, counts for them, answers queries, and ends with them.

Plugin calls are done by a few worker processes that share the listening socket (worker.py), because Python
runs one thread of a process at a time. The supervisor takes no calls and has one thread, so that it can fork
a worker anew whenever one dies. Each worker has a socket to it, on which it tells of its calls and passes on
whoever has a query; the end of that socket, on either side, is the end of the other.

    launcher -> listening socket -> a worker -> reply
                                       | calls, queries
                                       v
                                     supervisor -> status, metrics, the socket for a successor

It waits for nobody: queries are conversations with a deadline (conversations.py), a worker that does not end
is killed, and whatever goes wrong with one message or one query is logged and costs that one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cni_plugins.node import wire
from cni_plugins.node.conversations import Conversations
from cni_plugins.node.door import Door, Seldom
from cni_plugins.node.lease_process import LeaseProcess
from cni_plugins.node.listen import Origin
from cni_plugins.node.metrics import Metrics
from cni_plugins.node.network_upkeep import MOMENT_SECONDS
from cni_plugins.node.policy_process import PolicyProcess
from cni_plugins.node.policy_watch import PolicyWatch
from cni_plugins.node.queries import http_answer
from cni_plugins.node.role import Closing
from cni_plugins.node.rules_watch import RulesWatch
from cni_plugins.node.wear import Wear

log = logging.getLogger("mesokit.node")

_MESSAGE = 1 << 18
_TOGETHER_SECONDS = 0.01  # what workers tell within that is heard in one go
_PAUSE_SECONDS = 1.0
_LEAVE_SECONDS = 5.0  # from a worker's last word to its end
_END_SECONDS = 75.0
_TICK_SECONDS = 0.05
_RELOAD_SECONDS = 60

Work = Callable[[socket.socket], int]


@dataclass(slots=True)
class Worker:
    """A worker process; `running` and `threads` are what it told last. `left` is when it was silent for good,
    on the monotonic clock, 0 before. `pid` is 0 once it has ended. `calls` are what it has done, `looked` at
    how many of them its memory was looked at; one that is `retired` was told to end, and another has its
    place.
    """

    pid: int
    control: socket.socket
    born: float
    running: int = 0
    threads: int = 0
    left: float = 0.0
    calls: int = 0
    looked: int = 0
    retired: bool = False


@dataclass(slots=True)
class Supervisor:
    """Keeps `count` workers. Each runs `work` with its end of the socket; what that returns is its exit
    status. `listening` stays the caller's. Whenever `rules` says so, `reload` is called in a process of its
    own, one after another.
    """

    listening: socket.socket
    origin: Origin
    metrics: Metrics
    work: Work
    count: int
    scrapers: socket.socket | None = None
    handed_over: bool = False
    workers: list[Worker] = field(default_factory=list)
    end_seconds: float = _END_SECONDS
    wear: Wear = field(default_factory=Wear)
    rules: RulesWatch | None = None
    policies: PolicyProcess | None = None
    networks: PolicyWatch | None = None
    reload: Callable[[], None] | None = None
    leases: LeaseProcess | None = None
    _reloading: int = 0
    _stopping: bool = False
    _wake: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    _warnings: Seldom = field(default_factory=Seldom)
    _door: Door = field(init=False)
    _conversations: Conversations = field(init=False)

    def __post_init__(self) -> None:
        self._door = Door(self._warnings)
        self._conversations = Conversations(self._answer)

    def start(self) -> None:
        self._replace()
        self._turn_roles(set())

    def stop(self) -> None:
        """Returns at once. May be called from a signal handler."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def until_stopped(self) -> None:
        while not self._stopping:
            self._turn(None if len(self._serving()) == self.count else _PAUSE_SECONDS)
            ended = [worker for worker in self._buried() if not worker.retired]
            if self._stopping:
                break
            if ended:
                log.error("%d workers ended unexpectedly; others take their place", len(ended))
            if any(time.monotonic() - worker.born < _PAUSE_SECONDS for worker in ended):
                continue  # not sooner than after a pause
            self._replace()
            self._renew()

    def until_idle(self) -> None:
        """Until the workers have ended their calls and themselves; those that have not after `end_seconds`
        are killed, and their launchers do what calls they had.
        """
        deadline = time.monotonic() + self.end_seconds
        for role in self._roles():
            role.stop()
        self.leases = self.policies = None
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.control.shutdown(socket.SHUT_WR)
        while self.workers:
            left = deadline - time.monotonic()
            if left <= 0:
                log.error("%d workers do not end: killed", len(self.workers))
                for worker in self.workers:
                    _kill(worker)
                deadline = time.monotonic() + _LEAVE_SECONDS
            self._turn(max(_TICK_SECONDS, left))
            self._buried()
        self._conversations.close()

    def _buried(self) -> list[Worker]:
        """The workers that have ended, which are then no longer among `workers`."""
        ended = [worker for worker in self.workers if not worker.pid]
        self.workers = [worker for worker in self.workers if worker.pid]
        return ended

    def _replace(self) -> None:
        """Fork the workers that are missing. Where there is no room for one, it is tried again later."""
        try:
            while len(self._serving()) < self.count:
                self._fork()
        except OSError as error:
            log.error("cannot start a worker: %s", error)

    def _serving(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.retired]

    def _renew(self) -> None:
        """Replace the workers that have grown; without room for another process they go on."""
        serving = [worker for worker in self._serving() if not worker.left]
        for worker in self.wear.worn(serving, busy=self.metrics.running > 0):
            worker.retired = True
            self._replace()
            if len(self._serving()) < self.count:
                worker.retired = False
                return
            with contextlib.suppress(OSError):
                worker.control.shutdown(socket.SHUT_WR)

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
            self._conversations.close()
            if self.rules is not None:
                self.rules.changes.close()
            for role in self._roles():
                role.close()
            if self.networks is not None:
                self.networks.close()
            for other in (ours, *(worker.control for worker in self.workers), *self._scrapers()):
                other.close()
            status = self.work(theirs)
        except BaseException:
            log.exception("a worker failed")
        finally:
            logging.shutdown()
            os._exit(status)

    def _watch_rules(self) -> None:
        """Hear who changed nf_tables, and have the rules made again that somebody removed."""
        if self.rules is None or self.reload is None:
            return
        pids = {os.getpid(), self._reloading, *(worker.pid for worker in self.workers)}
        self.rules.hear(pids | {role.role.pid for role in self._roles()})
        if self.networks is not None and self.networks.changed():
            self.rules.soon(MOMENT_SECONDS)
        if self._reloading:
            ended, _, used = os.wait4(self._reloading, os.WNOHANG)
            if ended:
                self._reloading = 0
                self.rules.took(used.ru_utime + used.ru_stime)
        if self._reloading or self._stopping or not self.rules.is_due():
            return
        try:
            pid = os.fork()
        except OSError as error:
            log.error("cannot make rules again that were flushed: %s", error)
            return
        if pid:
            self._reloading = pid
            return
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.alarm(_RELOAD_SECONDS)
            self._conversations.close()
            self.listening.close()
            for role in self._roles():
                role.close()
            for other in (*(worker.control for worker in self.workers), *self._scrapers()):
                other.close()
            self.reload()
        except BaseException:
            log.exception("rules that were flushed could not be made again")
        finally:
            logging.shutdown()
            os._exit(0)

    def _roles(self) -> list[LeaseProcess | PolicyProcess]:
        return [role for role in (self.leases, self.policies) if role is not None]

    def _turn_roles(self, ready: set[int]) -> None:
        for role in self._roles():
            role.turn(ready, self._ours(role))

    def _ours(self, role: LeaseProcess | PolicyProcess) -> list[Closing]:
        """What the process of a role has no use for."""
        others: list[Closing] = [other for other in self._roles() if other is not role]
        if self.rules is not None:
            others.append(self.rules.changes)
        if self.networks is not None:
            others.append(self.networks)
        return [*others, self.listening, *(worker.control for worker in self.workers), *self._scrapers()]

    def _scrapers(self) -> list[socket.socket]:
        return [self.scrapers] if self.scrapers is not None else []

    def _turn(self, seconds: float | None = None) -> None:
        """Wait until something happens, for `seconds` at most, and deal with all that has."""
        ready = self._wait(seconds)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        self._watch_rules()
        if not self._stopping:
            self._turn_roles(ready)
        controls = {worker.control.fileno() for worker in self.workers if not worker.left}
        if ready & controls:
            time.sleep(_TOGETHER_SECONDS)
        asked: list[tuple[socket.socket, bytes]] = []  # answered when all that was told is counted
        for worker in self.workers:
            try:
                self._hear(worker, asked)
                self._see_off(worker)
            except Exception:
                log.exception("a worker told what cannot be understood")
        for connection, query in asked:
            self._conversations.begin(connection, query, local=True)
        for listener in self._scrapers():
            if listener.fileno() in ready and (scraper := self._door.accept(listener)) is not None:
                self._conversations.begin(scraper, b"", local=False)
        self._conversations.turn(ready)

    def _wait(self, seconds: float | None) -> set[int]:
        events = select.poll()
        events.register(self._wake, select.POLLIN)
        # Scrapers are served only while the service is: who asks then finds nobody, as after its end.
        for source in (
            *(worker.control for worker in self.workers if not worker.left),
            *(() if self._stopping else self._scrapers()),
        ):
            events.register(source, select.POLLIN)
        for fd, kind in self._conversations.watched():
            events.register(fd, kind)
        ends = [seconds, self._conversations.patience(), None if self._stopping else self.wear.patience()]
        if self.rules is not None and not self._stopping:
            events.register(self.rules.changes, select.POLLIN)
            if self.networks is not None and self.networks.fileno() >= 0:
                events.register(self.networks, select.POLLIN)
            ends.append(_TICK_SECONDS if self._reloading else self.rules.patience())
        for role in self._roles() if not self._stopping else ():
            for fd in role.watched():
                events.register(fd, select.POLLIN)
            ends.append(role.patience())
        if any(worker.left for worker in self.workers):
            ends.append(_TICK_SECONDS)
        soonest = min((end for end in ends if end is not None), default=None)
        found = events.poll(None if soonest is None else soonest * 1000 + 1)
        return {fd for fd, _ in found}

    def _hear(self, worker: Worker, asked: list[tuple[socket.socket, bytes]]) -> None:
        """All that a worker has told."""
        while not worker.left:
            try:
                data, descriptors = wire.receive_descriptors(worker.control, _MESSAGE, 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if data.startswith(wire.QUERY):
                if descriptors:  # else there was no room for one: the connection is closed by now
                    asked.append((socket.socket(fileno=descriptors[0]), data[len(wire.QUERY) :]))
            elif data:
                for descriptor in descriptors:
                    os.close(descriptor)
                self._note(worker, json.loads(data))
            else:
                worker.control.close()
                worker.left = time.monotonic()
                worker.running = worker.threads = 0
                self._count()

    def _see_off(self, worker: Worker) -> None:
        """Take note of a worker's end; one that is silent and stays is killed."""
        if not worker.left or not worker.pid:
            return
        if os.waitpid(worker.pid, os.WNOHANG)[0]:
            worker.pid = 0
        elif time.monotonic() - worker.left > _LEAVE_SECONDS:
            _kill(worker)

    def _note(self, worker: Worker, told: dict[str, list[list[object]] | int]) -> None:
        calls = told["calls"]
        assert isinstance(calls, list)
        for plugin, verb, seconds, code in calls:
            self.metrics.add(str(plugin), str(verb), float(str(seconds)), int(str(code)))
        self.metrics.refuse(int(str(told["refused"])))
        self.wear.note(worker, len(calls))
        worker.running, worker.threads = int(str(told["running"])), int(str(told["threads"]))
        self._count()

    def _count(self) -> None:
        self.metrics.running = sum(worker.running for worker in self.workers)

    def _answer(self, connection: socket.socket, query: bytes) -> bytes | None:
        """The answer to a complete query. OSError when there can be none; nothing else, whatever it says."""
        if not query.startswith(wire.HANDOVER):
            threads = sum(worker.threads for worker in self.workers)
            others = [role.role.pid for role in self._roles() if role.role.pid]
            pids = [os.getpid(), *(worker.pid for worker in self.workers if worker.pid), *others]
            try:
                return http_answer(query, self.metrics, threads, pids)
            except Exception as error:
                log.exception("a query could not be answered")
                raise OSError("no answer") from error
        if self.origin is not Origin.SYSTEMD and connection.family == socket.AF_UNIX and not self._stopping:
            socket.send_fds(connection, [b"yours"], [self.listening.fileno()])
            self.handed_over = True
            log.info("the socket goes to a successor")
            self.stop()
        return None


def _kill(worker: Worker) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(worker.pid, signal.SIGKILL)


def default_count() -> int:
    """Two: one is in Python while the other is in the kernel, which changes one thing at a time."""
    try:
        cores = len(os.sched_getaffinity(0))
    except OSError:
        cores = 1
    return min(2, cores)
