"""The executor's side of process supervision: start, reap, signal and list, all through the warden.

Used by one thread only, the owner of the executor's state. Nothing here waits for a task: a start waits for
exec (or its failure), everything else for the warden's answer.
"""

import contextlib
import errno
import os
import select
import signal
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any

from executor.process import ipc, procfs
from executor.process.launch import Exit, Launch, LaunchError, Process, Stage, explain
from executor.process.procfs import Stat
from executor.process.tree import Lineage, signal_members
from executor.process.warden import Warden

# Descriptors kept for looking at processes: where tasks have taken all others, they can still be killed.
_RESERVE = 4


class Supervisor:
    """All processes of this executor. `warden_pidfd` is readable once the warden has ended, which it never
    should.
    """

    def __init__(self, warden: Warden) -> None:
        self._warden = warden
        self._lineage = Lineage(self._root)
        # Distinguishes our cookies from those of an executor that we run under, or that runs as a task of
        # ours.
        self._instance = os.urandom(4).hex()
        # Each number comes up once, since the step ends in 3 and MARKS has no factors but 2 and 5.
        self._first_mark, step = struct.unpack("=II", os.urandom(8))
        self._mark_step = step * 10 + 3
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._reserve: list[int] = []
        self._fill_reserve()
        self._lost: dict[int, Exit] = {}
        self._count = 0
        self.warden_pidfd = os.pidfd_open(warden.pid)

    @property
    def warden_pid(self) -> int:
        """The warden's process number."""
        return self._warden.pid

    def start(self, launch: Launch) -> Process:
        """Start a process and return once it runs its program. Raises LaunchError when it does not come to
        that.
        """
        try:
            self._fill_reserve()
        except OSError as error:
            raise explain(launch, Stage.FORK, error.errno or 0, b"") from None
        self._count += 1
        # Nobody who knows one of them can tell another's (tree.py).
        cookie = f"{self._instance}.{self._count}.{os.urandom(4).hex()}"
        mark = (self._first_mark + self._count * self._mark_step) % procfs.MARKS + 1
        self._lineage.expect(cookie, mark)
        try:
            process = self._start(launch, cookie, mark)
        except LaunchError:
            self._lineage.abandon(mark)
            raise
        self._lineage.add(process)
        return process

    def _start(self, launch: Launch, cookie: str, mark: int) -> Process:
        user = launch.user
        environment = {os.fsencode(name): os.fsencode(value) for name, value in launch.env.items()}
        environment[os.fsencode(procfs.COOKIE)] = os.fsencode(cookie)
        plan = (
            os.fsencode(launch.file),
            [os.fsencode(argument) for argument in launch.argv],
            environment,
            os.fsencode(launch.cwd),
            (user.uid, user.gid, list(user.groups)) if user else None,
            [(limit.resource, limit.soft, limit.hard) for limit in launch.rlimits],
            mark,
        )
        streams = (launch.stdin, launch.stdout, launch.stderr)
        handed = [self._null if stream < 0 else stream for stream in streams]
        answer, descriptors = self._ask(("start", plan), handed)
        if answer[0] == "started":
            _, token, pid, started = answer
            if not descriptors:
                # The kernel drops what we have no room for, and a process without its pidfd is not ours.
                self._ask(("undo", token))
                raise explain(launch, Stage.FORK, errno.EMFILE, b"")
            return Process(launch.key, pid, descriptors[0], started, cookie, token, mark)
        if answer[0] == "failed":
            raise explain(launch, Stage(answer[1]), answer[2], answer[3])
        raise LaunchError(Stage.WARDEN, 0, "cannot start a process: the executor's warden has been killed")

    def reap(self, process: Process) -> Exit | None:
        """How a process ended; None while it runs. Call it when `pidfd` is readable; it closes `pidfd`."""
        answer, _ = self._ask(("ending", process.token))
        match answer:
            case ("running",):
                return None
            case ("ended", status, user, system):
                ended = _decode(status, user, system)
            case _:
                self.reap_orphans()
                if process.pid not in self._lost and not _has_ended(process.pidfd):
                    return None
                ended = self._lost.pop(process.pid, Exit(None, signal.SIGKILL))
        os.close(process.pidfd)
        return ended

    def reap_orphans(self) -> int:
        """Collect children of the executor itself: the warden, and its children if it was killed. Call on
        SIGCHLD.
        """
        count = 0
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return count
            if pid == 0:
                return count
            count += 1
            self._lost[pid] = _decode(status, usage.ru_utime, usage.ru_stime)

    def signal_tree(self, process: Process, number: int) -> int:
        """Signal every process of a task, escaped ones included; returns how many there were."""
        return self.signal_trees([process], number)

    def signal_trees(self, processes: list[Process], number: int) -> int:
        """The same for many tasks at the cost of about one."""
        with self._room():
            return signal_members(self._lineage, processes, number)

    def survivors(self, process: Process) -> list[Stat]:
        """The living processes of a task, its own included."""
        return self.members([process])[process.cookie]

    def members(self, processes: Iterable[Process]) -> dict[str, list[Stat]]:
        """The living processes of many tasks, by cookie, in one look."""
        with self._room():
            return self._lineage.members(processes)

    def close(self, patience: float = 5.0) -> None:
        """Let the warden kill whatever is left and leave, waiting at most `patience` seconds for it."""
        self._warden.channel.close()
        poll = select.poll()
        poll.register(self.warden_pidfd, select.POLLIN)
        if poll.poll(patience * 1000):
            self.reap_orphans()
            warden = self._lost.get(self._warden.pid)
            if warden is not None and warden.code != 0:
                self._kill_what_the_warden_left(patience)
        os.close(self.warden_pidfd)
        os.close(self._null)
        self._spend_reserve()

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        self._spend_reserve()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._fill_reserve()

    def _fill_reserve(self) -> None:
        while len(self._reserve) < _RESERVE:
            self._reserve.append(os.dup(self._null))

    def _spend_reserve(self) -> None:
        while self._reserve:
            os.close(self._reserve.pop())

    def _root(self) -> int:
        """The subreaper above all tasks: the warden, or this process when the warden is no more."""
        return os.getpid() if _has_ended(self.warden_pidfd) else self._warden.pid

    def _kill_what_the_warden_left(self, patience: float) -> None:
        """Kill all below this process: the warden was killed before it could."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            self.reap_orphans()
            left = procfs.descendants(os.getpid())
            if not left:
                return
            for entry in left:
                procfs.send_signal(entry, signal.SIGKILL)
            time.sleep(0.002)

    def _ask(
        self, request: tuple[object, ...], descriptors: list[int] | None = None
    ) -> tuple[tuple[Any, ...], list[int]]:
        try:
            ipc.send(self._warden.channel, request, descriptors)
            received = ipc.receive(self._warden.channel)
        except OSError:
            received = None
        return received or (("gone",), [])


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _decode(status: int, user: float, system: float) -> Exit:
    if os.WIFSIGNALED(status):
        return Exit(None, os.WTERMSIG(status), os.WCOREDUMP(status), user, system)
    return Exit(os.WEXITSTATUS(status), None, False, user, system)
