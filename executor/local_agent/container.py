"""A container: one process tree in namespaces of its own, as the Mesos containerizer launches it.

Start is in two steps, because a plugin needs the network namespace before the program may run in it. `start`
has a child forked (spawner.py) that makes the namespaces and waits; the agent attaches the networks;
`release` tells the child the rest (files to bind over /etc, host name, environment, program), and the child
sets lo up and becomes the program.
A container has no pid namespace, so its processes are found by the mount namespace that only they are in.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from executor.local_agent import namespaces
from executor.local_agent.spawner import Spawner, SpawnError


class LaunchFailure(Exception):
    """The container's program could not be started; the text says at which step and why."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host that the container sees at `target`."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """What the container runs, and what it finds around it. Paths are absolute; `user` "" is the agent's."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    stdout: str
    stderr: str
    hostname: str
    binds: Sequence[Bind]
    user: str = ""


class Container:
    """One container, from `start` to the end of its last process."""

    def __init__(
        self,
        spawner: Spawner,
        pid: int,
        pidfd: int,
        control: socket.socket,
        *,
        has_network: bool,
        has_uts: bool,
    ) -> None:
        self.pid = pid
        self._control = control
        self._pidfd = pidfd
        self._has_network, self._has_uts = has_network, has_uts
        self._mount_namespace = ""
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        spawner.on_exit(pid, self._ended)

    @property
    def nsenter(self) -> tuple[str, ...]:
        """The command line that enters the container while its program runs."""
        wanted = (("--mount", True), ("--uts", self._has_uts), ("--net", self._has_network))
        return ("nsenter", "--target", str(self.pid), *(option for option, is_there in wanted if is_there))

    async def release(self, program: Program) -> None:
        """Let the waiting child become the program. Raises LaunchFailure."""
        loop = asyncio.get_running_loop()
        order = {**asdict(program), "identity": _identity(program.user)}
        try:
            await loop.sock_sendall(self._control, json.dumps(order).encode())
            self._control.shutdown(socket.SHUT_WR)
            failure = await _read_all(self._control)
        except OSError as error:
            failure = f"the container ended before its program ran: {error.strerror}".encode()
        finally:
            self._control.close()
        if failure:
            raise LaunchFailure(failure.decode(errors="replace"))

    async def wait(self) -> int:
        """The wait status of the program, once it has ended."""
        return await asyncio.shield(self._exit)

    def processes(self) -> list[int]:
        """The pids of all that runs in the container."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if (entry / "ns/mnt").readlink().name == self._mount_namespace:
                        found.append(int(entry.name))
        return found

    async def destroy(self, seconds: float = 30.0) -> None:
        """End every process of the container, at once and for certain. Raises LaunchFailure when one is there
        still after so many seconds, as one is that sleeps in the kernel.
        """
        deadline = time.monotonic() + seconds
        self._control.close()
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        while survivors := self.processes():
            for pid in survivors:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LaunchFailure(f"processes that cannot be killed: {', '.join(map(str, survivors))}")
            await asyncio.sleep(0.01)
        await self.wait()

    async def ready(self) -> None:
        """Wait until the child has made its namespaces. Raises LaunchFailure."""
        answer = await asyncio.get_running_loop().sock_recv(self._control, 4096)
        if answer != _READY:
            raise LaunchFailure(answer.decode(errors="replace") or "the container ended at once")
        self._mount_namespace = Path(f"/proc/{self.pid}/ns/mnt").readlink().name

    def _ended(self, status: int) -> None:
        os.close(self._pidfd)
        self._exit.set_result(status)


async def start(spawner: Spawner, *, network: bool, uts: bool) -> Container:
    """Have a child made in new mount (and network, uts) namespaces, where it waits. Raises LaunchFailure and
    OSError.
    """
    flags = namespaces.CLONE_NEWNS
    flags |= namespaces.CLONE_NEWNET if network else 0
    flags |= namespaces.CLONE_NEWUTS if uts else 0
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        with theirs:
            pid, pidfd = await spawner.spawn(theirs, flags, network)
    except SpawnError as error:
        ours.close()
        raise LaunchFailure(str(error)) from None
    except BaseException:
        ours.close()
        raise
    container = Container(spawner, pid, pidfd, ours, has_network=network, has_uts=uts)
    try:
        await container.ready()
    except BaseException:
        await container.destroy()
        raise
    return container


_READY = b"\0ready"


def become(control: socket.socket, flags: int, network: bool) -> NoReturn:
    """The child: make the namespaces, wait for the rest, become the program. Never returns."""
    step = "start"
    try:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.setsid()
        step = "make namespaces"
        namespaces.unshare(flags)
        # Slave: mounts of the host that end, such as other containers' namespace handles, end here as well.
        namespaces.mount(None, Path("/"), namespaces.MS_REC | namespaces.MS_SLAVE)
        control.sendall(_READY)
        program = json.loads(b"".join(iter(lambda: control.recv(65536), b"")) or b"null")
        if program is None:
            os._exit(0)
        if network:
            step = "set lo up"
            namespaces.set_loopback_up()
        if flags & namespaces.CLONE_NEWUTS:
            step = "set the host name"
            socket.sethostname(program["hostname"])
        for bind in program["binds"]:
            step = f"mount {bind['source']} on {bind['target']}"
            _bind(Bind(**bind))
        step = "open the sandbox"
        _redirect(program["stdout"], program["stderr"])
        step = f"become user {program['user']}"
        _switch_user(program["identity"])
        os.chdir(program["directory"])
        step = f"run {program['argv'][0]}"
        os.umask(0o022)
        os.execve(program["argv"][0], program["argv"], program["environment"])
    except BaseException as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        with contextlib.suppress(OSError):
            control.sendall(f"cannot {step}: {reason}".encode())
    os._exit(127)


def _bind(bind: Bind) -> None:
    source, target = Path(bind.source), Path(bind.target)
    namespaces.mount(source, target, namespaces.MS_BIND | namespaces.MS_REC)
    if bind.read_only:
        flags = namespaces.MS_BIND | namespaces.MS_REMOUNT | namespaces.MS_RDONLY
        namespaces.mount(None, target, flags)


def _redirect(stdout: str, stderr: str) -> None:
    for number, path in ((0, os.devnull), (1, stdout), (2, stderr)):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_APPEND | os.O_CREAT
        descriptor = os.open(path, flags, 0o644)
        os.dup2(descriptor, number)


def _identity(user: str) -> tuple[int, int, list[int]] | None:
    """User, group and groups to become: looked up by the agent, for a look-up takes locks and loads
    libraries. Raises LaunchFailure.
    """
    if not user:
        return None
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        raise LaunchFailure(f"cannot become user {user}: there is no such user on this host") from None
    return entry.pw_uid, entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)


def _switch_user(identity: tuple[int, int, list[int]] | None) -> None:
    if identity is not None:
        uid, gid, groups = identity
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)


async def _read_all(control: socket.socket) -> bytes:
    parts: list[Any] = []
    while part := await asyncio.get_running_loop().sock_recv(control, 4096):
        parts.append(part)
    return b"".join(parts)
