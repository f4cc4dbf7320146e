"""The process that forks containers: small, with one thread, forked from the agent before that has any other.

An agent has threads (names of hosts are looked up in them), and what a fork of such a process may do before
it execs is next to nothing: a lock that another thread held stays locked for ever. So the agent forks once,
when it opens, and asks that process for every container. Names of users are looked up by the agent
(container.py).

One SOCK_SEQPACKET pair lies between them, a message a packet, as JSON. To the spawner: {"id", "flags",
"network"}, with the container's end of its control socket. From it: {"id", "pid"} with a pidfd, or {"id",
"error"}; and {"pid", "status"} when a child has ended. It goes when the agent does.
"""

from __future__ import annotations

import array
import asyncio
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from typing import Any, NoReturn

#: What a child does with its control socket, the CLONE_* flags, and whether it has a network. Never returns.
Become = Callable[[socket.socket, int, bool], NoReturn]

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class SpawnError(Exception):
    """No process could be made; the text says why."""


class Spawner:
    """The agent's end. Make it before there are threads, inside the event loop that uses it."""

    def __init__(self, become: Become) -> None:
        """Fork. Raises OSError."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # No signal of the agent's may be handled by the child before it has put its own house in order.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _serve(theirs, become)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        self._socket.setblocking(False)
        self._count = 0
        self._asked: dict[int, asyncio.Future[tuple[int, int]]] = {}
        self._exits: dict[int, Callable[[int], None]] = {}
        self._early: dict[int, int] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    async def spawn(self, control: socket.socket, flags: int, network: bool) -> tuple[int, int]:
        """A child with that control socket: its pid and a pidfd. Raises SpawnError and OSError."""
        self._count += 1
        number = self._count
        message = json.dumps({"id": number, "flags": flags, "network": network}).encode()
        socket.send_fds(self._socket, [message], [control.fileno()])
        answer: asyncio.Future[tuple[int, int]] = self._loop.create_future()
        self._asked[number] = answer
        return await answer

    def on_exit(self, pid: int, told: Callable[[int], None]) -> None:
        """Have `told` called with the wait status of a child, once; at once if it has ended already."""
        if pid in self._early:
            told(self._early.pop(pid))
        else:
            self._exits[pid] = told

    def close(self) -> None:
        """Let the process end."""
        self._loop.remove_reader(self._socket)
        self._socket.close()
        os.waitpid(self._pid, 0)

    def _read(self) -> None:
        try:
            data, descriptors = _receive(self._socket)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._gone()
            return
        message = json.loads(data)
        if "id" not in message:
            pid, status = message["pid"], message["status"]
            told = self._exits.pop(pid, None)
            if told is not None:
                told(status)
            else:
                self._early[pid] = status
            return
        answer = self._asked.pop(message["id"])
        if answer.cancelled():
            # Nobody waits for it: its control socket is closed, and it ends by itself.
            for descriptor in descriptors:
                os.close(descriptor)
        elif "error" in message:
            answer.set_exception(SpawnError(message["error"]))
        elif not descriptors:
            answer.set_exception(SpawnError("no descriptor is left for the container"))
        else:
            answer.set_result((message["pid"], descriptors[0]))

    def _gone(self) -> None:
        """The process was killed: how its children end is not to be known any more."""
        self._loop.remove_reader(self._socket)
        asked, self._asked = self._asked, {}
        for answer in asked.values():
            if not answer.done():
                answer.set_exception(SpawnError("the process that makes containers was killed"))
        exits, self._exits = self._exits, {}
        for told in exits.values():
            told(signal.SIGKILL)


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """A message and its descriptors, which no program inherits (recv_fds has no way to say so): that the
    control socket closes by exec is what tells the agent that the program runs."""
    data, descriptors, _, _ = socket.recv_fds(connection, 65536, 1)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return data, descriptors


def _close_all_but(kept: int) -> None:
    """Let go of what the agent has open: its end of this socket first of all, for its closing is what
    ends us."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(connection: socket.socket, become: Become) -> NoReturn:
    try:
        _close_all_but(connection.fileno())
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if wake_read in ready:
                os.read(wake_read, 4096)
                _collect(connection)
            if connection.fileno() in ready:
                data, descriptors = _receive(connection)
                if not data:
                    break
                _fork(connection, json.loads(data), descriptors, become)
    finally:
        os._exit(0)


def _fork(connection: socket.socket, order: dict[str, Any], descriptors: list[int], become: Become) -> None:
    answer: dict[str, Any] = {"id": order["id"]}
    handed: list[int] = []
    try:
        control = socket.socket(fileno=descriptors[0])
        pid = os.fork()
        if pid == 0:
            connection.close()
            become(control, order["flags"], order["network"])
        control.close()
        answer["pid"] = pid
        handed = [os.pidfd_open(pid)]
    except (OSError, IndexError) as error:
        answer["error"] = f"cannot make a process: {error}"
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handed))] if handed else []
    connection.sendmsg([json.dumps(answer).encode()], rights)
    for descriptor in handed:
        os.close(descriptor)


def _collect(connection: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        connection.sendall(json.dumps({"pid": pid, "status": status}).encode())
