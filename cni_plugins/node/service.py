"""The service of one worker: a pool of threads that take turns at the listening socket.

One thread, the leader, waits for a connection. When one comes it gives the lead to another and serves the
connection itself, so that a call never changes threads, and a slow one (a duplicate address being waited
for, somebody else's plugin) holds up nobody. If no thread is left to lead, one is added, up to a bound;
beyond it callers wait in the socket's queue, and after five seconds do their calls themselves.

Two calls at once in one process are slower than one after the other: at each of a hundred system calls they
wake each other. So while a call is in work the leader waits a moment, longer than most calls take, before it
takes the next one; another worker may be quicker.

Stopping means to lead no more and to end what is in work. The socket itself may live on: see listen.py.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cni_plugins.node import wire
from cni_plugins.spec.call import Reply, Request

Handler = Callable[[Request], Reply]


class Journal(Protocol):
    """Who is told of calls, from any thread."""

    def begin(self) -> None: ...
    def end(self, plugin: str, verb: str, seconds: float, code: int) -> None: ...
    def refuse(self) -> None: ...


log = logging.getLogger("mesokit.node")

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_REQUEST_SECONDS = 5.0
_SPARE_THREADS = 4
_MOMENT = 0.01


@dataclass(frozen=True, slots=True)
class Settings:
    """`handle` does a call, `ask` answers the question that a connection began with; `threads` bounds how
    many calls are in work at once.
    """

    handle: Handler
    journal: Journal
    ask: Callable[[socket.socket, bytes], None]
    threads: int = 64


@dataclass(slots=True)
class Service:
    """A service on `listening`, which is non-blocking and stays the caller's."""

    listening: socket.socket
    settings: Settings
    _lead: threading.Lock = field(default_factory=threading.Lock)
    _count: threading.Condition = field(default_factory=threading.Condition)
    threads: int = 0
    _idle: int = 0
    _stopping: bool = False
    wake: int = field(default_factory=lambda: os.eventfd(0, os.EFD_CLOEXEC))
    _root: tuple[int, int] = field(default_factory=lambda: _identity("/"))

    def start(self) -> None:
        with self._count:
            self._add_thread()

    def stop(self) -> None:
        """Take no more calls; returns at once. May be called from a signal handler."""
        self._stopping = True
        os.eventfd_write(self.wake, 1)

    def until_idle(self, seconds: float | None = None) -> bool:
        """Until every call is done after a stop; False when `seconds` were not enough."""
        with self._count:
            return self._count.wait_for(lambda: self.threads == 0, seconds)

    def _add_thread(self) -> None:
        self.threads += 1
        self._idle += 1
        threading.Thread(target=self._work, name="call", daemon=True).start()

    def _work(self) -> None:
        while (connection := self._next_connection()) is not None:
            with connection:
                try:
                    self._serve(connection)
                except BaseException:  # a thread that ends here would be one less for ever
                    log.exception("a connection was dropped by a mistake of ours")
            with self._count:
                self._idle += 1
                self._count.notify_all()
                if self._idle > _SPARE_THREADS:
                    break
        with self._count:
            self.threads -= 1
            self._idle -= 1
            self._count.notify_all()

    def _next_connection(self) -> socket.socket | None:
        """Lead until a connection comes; None when the service stops. The thread is idle meanwhile, busy
        after."""
        with self._lead:
            while not self._stopping:
                select.select([self.listening.fileno(), self.wake], [], [])
                with self._count:
                    self._count.wait_for(lambda: self._stopping or self.threads == self._idle, _MOMENT)
                if self._stopping:
                    break
                try:
                    connection, _ = self.listening.accept()
                except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                    continue
                except OSError as error:
                    if self._stopping:
                        break
                    log.error("accept: %s", error)
                    time.sleep(0.1)
                    continue
                with self._count:
                    self._idle -= 1
                    if self._idle == 0 and self.threads < self.settings.threads:
                        self._add_thread()
                return connection
        return None

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_REQUEST_SECONDS)
        try:
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
            pid, uid, _gid = _PEER.unpack(peer)
            if uid != 0:
                log.warning("refused process %d of user %d: only root may call", pid, uid)
                return
            message = wire.receive(connection)
            if isinstance(message, wire.Query):
                self.settings.ask(connection, message.text)
                return
        except (OSError, wire.WireError, ValueError) as error:
            log.warning("dropped a connection: %s", error)
            return
        try:
            self._call(connection, message)
        finally:
            message.close()

    def _call(self, connection: socket.socket, call: wire.Call) -> None:
        journal = self.settings.journal
        try:
            if call.root != self._root:
                journal.refuse()
                connection.sendall(wire.REFUSED)
                return
            connection.sendall(wire.TAKEN)
        except OSError:
            return  # the launcher went away, or does the call itself by now
        began = time.monotonic()
        journal.begin()
        code = -1
        try:
            request = Request(call.plugin, call.env, call.stdin, call.host_netns, call.netns)
            reply = self.settings.handle(request)
            if reply.status:
                code = _code(reply)
                log.info(
                    "%s %s of %s: error %d",
                    call.plugin, call.env.get("CNI_COMMAND"), call.env.get("CNI_CONTAINERID", "-"), code,
                )  # fmt: skip
            else:
                code = 0
        finally:
            journal.end(call.plugin, call.env.get("CNI_COMMAND", ""), time.monotonic() - began, code)
        with contextlib.suppress(OSError):  # the caller did not wait; DEL is its duty
            connection.sendall(wire.reply(reply.status, reply.stdout, reply.stderr))
        for work in reply.later:
            work()


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _code(reply: Reply) -> int:
    try:
        return int(json.loads(reply.stdout)["code"])
    except (ValueError, KeyError, TypeError):
        return -1
