"""The service of one worker: a pool of threads that take turns at the listening socket.

One thread, the leader, waits for a connection. When one comes it gives the lead to another and serves the
connection itself, so that a call never changes threads, and a slow one (a duplicate address being waited
for, somebody else's plugin) holds up nobody. If no thread is left to lead, one is added, up to a bound;
beyond it callers wait in the socket's queue, and after five seconds do their calls themselves.

Two calls at once in one process are slower than one after the other: at each of a hundred system calls they
wake each other. So while a call is in work the leader waits a moment, longer than most calls take, before it
listens for the next one. Of the workers that listen the kernel wakes one for a connection (EPOLLEXCLUSIVE),
and always the same one while that is enough: what calls write into the pages that workers share is then
written once, not once for each worker.

A thread is given a connection only when its message has come whole. Until then the leader holds it, beside a
bounded number of others and for a bounded time, so that callers who are slow to speak cost nobody a thread.

Stopping means to lead no more and to end what is in work. The socket itself may live on: see listen.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from cni_plugins.node import wire
from cni_plugins.node.door import Door, Seldom
from cni_plugins.node.idle import Idle
from cni_plugins.spec.call import Reply, Request
from cni_plugins.spec.text import printable
from cni_plugins.store.failures import Failure, error_code, failure_of

Handler = Callable[[Request], Reply]


class Journal(Protocol):
    """Who is told of calls, from any thread. Never raises, never waits."""

    def begin(self) -> None: ...
    def end(self, plugin: str, verb: str, seconds: float, code: int) -> None: ...
    def refuse(self) -> None: ...


log = logging.getLogger("mesokit.node")

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_REQUEST_SECONDS = 5.0
_REPLY_SECONDS = 5.0
_SPARE_THREADS = 4
_REMARKS = 256
_MOMENT = 0.01
_WAITING = 128  # connections whose message has not come whole
_SPARE_DESCRIPTORS = 48  # what a few calls may need at once


@dataclass(frozen=True, slots=True)
class Settings:
    """`handle` does a call, `ask` answers the query that a connection began with, `failed` is told of each
    call that failed; `threads` bounds how many calls are in work at once.
    """

    handle: Handler
    journal: Journal
    ask: Callable[[socket.socket, bytes], None]
    failed: Callable[[Failure], None]
    threads: int = 64


@dataclass(slots=True)
class Service:
    """A service on `listening`, which is non-blocking and stays the caller's."""

    listening: socket.socket
    settings: Settings
    _lead: threading.Lock = field(default_factory=threading.Lock)
    _count: threading.Condition = field(default_factory=threading.Condition)
    threads: int = 0
    _busy: int = 0
    _stopping: bool = False
    _accepting: bool = True
    wake: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC))
    _events: select.epoll = field(default_factory=select.epoll)
    _waiting: dict[int, tuple[wire.Incoming, float]] = field(default_factory=dict)  # with their deadlines
    _warnings: Seldom = field(default_factory=Seldom)
    _remarks: dict[str, None] = field(default_factory=dict)
    _view: wire.View = field(default_factory=wire.own_view)
    _door: Door = field(init=False)
    idle: Idle = field(default_factory=Idle)

    def __post_init__(self) -> None:
        self._door = Door(self._warnings)
        self._events.register(self.listening.fileno(), select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._events.register(self.wake, select.EPOLLIN)

    def start(self) -> None:
        """RuntimeError when no thread can be made."""
        with self._count:
            self._add_thread()

    def stop(self) -> None:
        """Take no more calls; returns at once. May be called from a signal handler."""
        self._stopping = True
        os.eventfd_write(self.wake, 1)

    def until_deaf(self) -> None:
        """Until, after a stop, no thread uses `listening` any more. Connections that were accepted before
        have their time to say what they want.
        """
        deadline = time.monotonic() + _REQUEST_SECONDS
        while True:
            with self._lead:
                if not self._waiting or not self.threads or time.monotonic() > deadline:
                    for fd in list(self._waiting):
                        self._drop(fd)
                    self._events.close()
                    self._door.close()
                    return
            time.sleep(_MOMENT)

    def until_idle(self, seconds: float | None = None) -> bool:
        """Until every call is done after a stop; False when `seconds` were not enough."""
        with self._count:
            return self._count.wait_for(lambda: self.threads == 0, seconds)

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="call", daemon=True)
        self.threads += 1  # before it may end
        try:
            thread.start()
        except RuntimeError:
            self.threads -= 1
            raise

    def _work(self) -> None:
        """A thread's life. Whatever happens in it, it is counted out at the end."""
        try:
            while (arrived := self._next_message()) is not None:
                connection, message = arrived
                try:
                    with connection:
                        self._call(connection, message)
                except BaseException:  # a thread that ends here would be one less for ever
                    log.exception("a call was dropped by a mistake of ours")
                finally:
                    message.close()
                    with self._count:
                        self._busy -= 1
                        self._count.notify_all()
                del arrived, connection, message  # a namespace must not live on in a thread that waits
                if self.threads - self._busy > _SPARE_THREADS:
                    break
        finally:
            with self._count:
                self.threads -= 1
                self._count.notify_all()

    def _next_message(self) -> tuple[socket.socket, wire.Call] | None:
        """Lead until a call has come whole; None when the service stops. The thread is busy after."""
        with self._lead:
            while not self._stopping or self._waiting:
                try:
                    arrived = self._lead_once()
                except Exception:
                    log.exception("a mistake of ours while connections were waited for")
                    time.sleep(0.1)
                    continue
                if arrived is None:
                    continue
                with self._count:
                    self._busy += 1
                    if self._busy == self.threads < self.settings.threads:
                        try:
                            self._add_thread()
                        except RuntimeError as error:
                            self._warnings.warn("thread", "one call at a time until there is room: %s", error)
                return arrived
        return None

    def _lead_once(self) -> tuple[socket.socket, wire.Call] | None:
        """Wait for whatever comes first, and deal with it."""
        if self._stopping and self._accepting:
            self._accepting = False
            self._events.unregister(self.listening.fileno())
            self._events.unregister(self.wake)
        with self._count:
            self._count.wait_for(lambda: self._stopping or not self._busy, _MOMENT)
        now = time.monotonic()
        soonest = min((deadline for _, deadline in self._waiting.values()), default=None)
        found = self._events.poll(None if soonest is None else max(0.0, soonest - now))
        for fd, _ in found:
            if fd in self._waiting:
                incoming, _ = self._waiting[fd]
                if (arrived := self._hear(incoming)) is not None:
                    return arrived
        for fd in [fd for fd, (_, deadline) in self._waiting.items() if deadline <= time.monotonic()]:
            self._warnings.warn("slow", "dropped a connection that did not say in time what it wants")
            self._drop(fd)
        if not self._stopping and any(fd == self.listening.fileno() for fd, _ in found):
            connection = self._door.accept(self.listening)
            if connection is not None and self._may_call(connection):
                return self._hear(wire.Incoming(connection))
        return None

    def _may_call(self, connection: socket.socket) -> bool:
        try:
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        except OSError:
            connection.close()
            return False
        pid, uid, _gid = _PEER.unpack(peer)
        allowed: bool = uid == 0
        if not allowed:
            connection.close()
            self._warnings.warn("user", "refused process %d of user %d: only root may call", pid, uid)
        return allowed

    def _hear(self, incoming: wire.Incoming) -> tuple[socket.socket, wire.Call] | None:
        """Take what a connection has said; its call, if that is whole. Else it waits with the others."""
        fd = incoming.connection.fileno()
        try:
            message = incoming.receive()
        except (OSError, wire.WireError, ValueError) as error:
            self._warnings.warn("wire", "dropped a connection: %s", error)
            self._drop(fd, incoming)
            return None
        if message is None:
            if fd not in self._waiting:
                if len(self._waiting) >= _WAITING:
                    self._warnings.warn("many", "too many connections wait: dropped the oldest")
                    self._drop(next(iter(self._waiting)))
                self._waiting[fd] = incoming, time.monotonic() + _REQUEST_SECONDS
                self._events.register(fd, select.EPOLLIN)
            return None
        if self._waiting.pop(fd, None) is not None:
            self._events.unregister(fd)
        if isinstance(message, wire.Query):
            with contextlib.closing(incoming):
                self.settings.ask(incoming.connection, message.text)
            return None
        return incoming.connection, message

    def _drop(self, fd: int, incoming: wire.Incoming | None = None) -> None:
        waiting = self._waiting.pop(fd, None)
        if waiting is not None:
            self._events.unregister(fd)
            incoming = waiting[0]
        if incoming is not None:
            incoming.close()

    def _call(self, connection: socket.socket, call: wire.Call) -> None:
        journal = self.settings.journal
        connection.settimeout(_REPLY_SECONDS)
        try:
            if (reason := self._refusal(connection, call)) is not None:
                self._warnings.warn(*reason)
                journal.refuse()
                call.close()
                connection.sendall(wire.REFUSED)
                return
            connection.sendall(wire.TAKEN)
        except OSError:
            return  # the launcher went away, or does the call itself by now
        began = time.monotonic()
        journal.begin()
        code = -1
        request = Request(call.plugin, call.env, call.stdin, call.host_netns, call.netns)
        try:
            reply = self.settings.handle(request)
            code = error_code(reply)
        finally:
            seconds = time.monotonic() - began
            journal.end(call.plugin, call.env.get("CNI_COMMAND", ""), seconds, code)
        if "CNI_COMMAND" in call.env:
            self._remark(reply)
        call.close()  # the runtime may unmount the namespace as soon as it has the answer
        if code:
            self.settings.failed(failure_of(request, reply, seconds, "service"))
        with contextlib.suppress(OSError):  # the caller did not wait; DEL is its duty
            connection.sendall(wire.reply(reply.status, reply.stdout, reply.stderr))
        connection.close()
        for work in reply.later:
            work()
        if reply.idle:
            self.idle.put_off(reply.idle)

    def _remark(self, reply: Reply) -> None:
        """Log what the call's caller is told of on its standard error, each text once."""
        for text in reply.stderr.decode("utf-8", "replace").splitlines():
            with self._count:
                new = text not in self._remarks
                self._remarks[text] = None
                if len(self._remarks) > _REMARKS:
                    del self._remarks[next(iter(self._remarks))]
            if new:
                log.warning("%s", printable(text))

    def _refusal(self, connection: socket.socket, call: wire.Call) -> tuple[str, str] | None:
        """Why the launcher has to do this call itself: the kind of warning and its text."""
        if call.view != self._view:
            return "view", "a caller sees other files than this service (mount namespace): it does its calls"
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= limit <= connection.fileno() + _SPARE_DESCRIPTORS:  # the lowest free number is given out
            return "descriptors", f"descriptors run out (RLIMIT_NOFILE {limit}): callers do their calls"
        return None
