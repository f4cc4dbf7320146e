"""The executor's side of process supervision: start, end, signal and list.

Used by one thread only, the owner of the executor's state. Nothing here waits for a task or for the warden: a
start is asked for and heard of later, as is an end. `attach` has a loop call `pump` when the warden has
something to say.
"""

import contextlib
import errno
import logging
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from executor.eventloop import READ, WRITE, Loop, Timer
from executor.process import ipc, oom, procfs
from executor.process.launch import Exit, Launch, LaunchError, Process, Stage, explain
from executor.process.procfs import Stat
from executor.process.tree import Lineage, Signalled, signal_members
from executor.process.warden import Warden

log = logging.getLogger(__name__)

# Descriptors kept for looking at processes: where tasks have taken all others, they can still be killed.
_RESERVE = 4
# Seconds for a word about a start. The warden gives one up by itself after 10; this is for a warden that is
# stopped or stuck.
_WARDEN_PATIENCE = 15.0

Started = Callable[[Process | LaunchError], None]
Ended = Callable[[Exit], None]


@dataclass(slots=True)
class _Start:
    launch: Launch
    cookie: str
    mark: int
    started: Started
    ended: Ended
    patience: Timer | None = None


@dataclass(slots=True)
class _Running:
    process: Process
    ended: Ended


class Supervisor:
    """All processes of this executor. `warden_pidfd` is readable once the warden has ended, which it never
    should.
    """

    def __init__(self, warden: Warden) -> None:
        self._warden = warden
        self._channel = ipc.Channel(warden.channel)
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
        self._loop: Loop | None = None
        self._starts: dict[int, _Start] = {}
        self._running: dict[int, _Running] = {}
        self._lost: dict[int, Exit] = {}
        self._gone = False
        self._count = 0
        self.warden_pidfd = os.pidfd_open(warden.pid)

    @property
    def warden_pid(self) -> int:
        """The warden's process number."""
        return self._warden.pid

    @property
    def descriptor(self) -> int:
        """Readable when `pump` has something to do."""
        return self._channel.descriptor

    def attach(self, loop: Loop) -> None:
        """Have the loop call `pump`; starts get a deadline from here on."""
        self._loop = loop
        self._watch()

    def detach(self) -> None:
        """The opposite."""
        if self._loop is not None and not self._gone:
            self._loop.unwatch(self._channel.descriptor)
        self._loop = None

    def begin(self, launch: Launch, started: Started, ended: Ended) -> int:
        """Ask for a process. `started` is called with it once it runs its program, or with the reason why it
        does not come to that; then `ended`, when it has ended. Neither is called before this returns. Returns
        a number for `cancel`. Raises LaunchError where nothing can even be asked for.
        """
        if self._gone:
            raise LaunchError(
                Stage.WARDEN, 0, "cannot start a process: the executor's warden has been killed"
            )
        try:
            self._fill_reserve()
        except OSError as error:
            raise explain(launch, Stage.FORK, error.errno or 0, b"") from None
        self._count += 1
        number = self._count
        # Nobody who knows one of them can tell another's (tree.py).
        cookie = f"{self._instance}.{number}.{os.urandom(4).hex()}"
        mark = (self._first_mark + number * self._mark_step) % procfs.MARKS + 1
        user = launch.user
        # As os.fsencode does it, which asks each time what it was given.
        coded = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
        environment = {name.encode(*coded): value.encode(*coded) for name, value in launch.env.items()}
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
        start = self._starts[number] = _Start(launch, cookie, mark, started, ended)
        self._lineage.expect(cookie, mark)
        try:
            self._tell(("start", number, plan), handed)
        except OSError as error:
            self._forget(number)
            raise LaunchError(Stage.WARDEN, error.errno or 0, f"cannot start a process: {error}") from None
        if self._loop is not None:
            until = self._loop.now() + _WARDEN_PATIENCE
            start.patience = self._loop.call_at(until, partial(self._give_up, number))
        return number

    def cancel(self, number: int) -> None:
        """A start is not wanted any more: whatever becomes of it is killed, and nobody is called."""
        if self._forget(number) is not None:
            self._undo(number)

    def pump(self) -> None:
        """Hear what the warden has to say, and call whom it concerns."""
        if self._gone:
            return
        try:
            self._channel.flush()
            while (received := self._channel.receive()) is not None:
                self._hear(*received)
        except (EOFError, ConnectionError):
            self._warden_gone()
            return
        self._watch()

    def _watch(self) -> None:
        if self._loop is not None and not self._gone:
            events = READ | WRITE if self._channel.sending else READ
            self._loop.watch(self._channel.descriptor, events, self.pump)

    def _tell(self, message: ipc.Message, descriptors: list[int] | None = None) -> None:
        self._channel.send(message, descriptors)
        self._watch()

    def _forget(self, number: int) -> _Start | None:
        """A start is not under way any more."""
        start = self._starts.pop(number, None)
        if start is not None:
            self._lineage.abandon(start.mark)
            if start.patience is not None:
                start.patience.cancel()
        return start

    def _undo(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self._tell(("undo", number))

    def _hear(self, message: ipc.Message, descriptors: list[int]) -> None:
        kind, number, *facts = message
        if kind == "ended":
            running = self._running.pop(number, None)
            if running is not None:
                self._end(running, _decode(*facts))
            return
        start = self._forget(number)
        if start is None:
            # Cancelled or given up; the warden may not have heard of it when it wrote this.
            for descriptor in descriptors:
                os.close(descriptor)
            return
        if kind == "failed":
            stage, error, detail = facts
            start.started(explain(start.launch, Stage(stage), error, detail))
        elif not descriptors:
            # The kernel drops what we have no room for, and a process without its pidfd is not ours.
            self._undo(number)
            start.started(explain(start.launch, Stage.FORK, errno.EMFILE, b""))
        else:
            pid, started = facts
            if not self._warden.lowered:
                oom.put_forward(pid, started)
            process = Process(
                start.launch.key, pid, descriptors[0], started, start.cookie, number, start.mark
            )
            self._lineage.add(process)
            self._running[number] = _Running(process, start.ended)
            start.started(process)

    def _give_up(self, number: int) -> None:
        start = self._forget(number)
        if start is not None:
            self._undo(number)
            text = (
                f"cannot start a process: the executor's warden has not answered for {_WARDEN_PATIENCE:g} s"
            )
            start.started(LaunchError(Stage.WARDEN, errno.ETIMEDOUT, text))

    def _end(self, running: _Running, ending: Exit) -> None:
        if self._loop is not None:
            self._loop.unwatch(running.process.pidfd)
        os.close(running.process.pidfd)
        running.ended(ending)

    def _warden_gone(self) -> None:
        """What it was starting will not be; what it started dies with it, and comes to us to be collected."""
        if self._loop is not None:
            self._loop.unwatch(self._channel.descriptor)
        self._gone = True
        for number in list(self._starts):
            start = self._forget(number)
            assert start is not None
            error = LaunchError(
                Stage.WARDEN, 0, "cannot start a process: the executor's warden has been killed"
            )
            if self._loop is not None:
                self._loop.post(partial(start.started, error))
            else:
                start.started(error)
        if self._loop is not None:
            for running in self._running.values():
                collect = partial(self.collect_lost, running.process)
                self._loop.watch(running.process.pidfd, READ, collect)

    def collect_lost(self, process: Process) -> None:
        """Without a warden: tell of the end of a process whose pidfd is readable."""
        self.reap_orphans()
        running = self._running.pop(process.token, None)
        if running is not None:
            self._end(running, self._lost.pop(process.pid, Exit(None, signal.SIGKILL)))

    def keep_warden_going(self) -> None:
        """Should somebody have stopped the warden, have it continued. Call on SIGCHLD."""
        with contextlib.suppress(OSError):  # it is gone, which its pidfd tells
            if os.waitid(os.P_PIDFD, self.warden_pidfd, os.WSTOPPED | os.WNOHANG) is not None:
                log.warning("the process that guards the tasks was stopped: it is continued")
                signal.pidfd_send_signal(self.warden_pidfd, signal.SIGCONT)

    def reap_orphans(self) -> int:
        """Collect children of the executor itself: the warden, and its children if it was killed."""
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
        return self.signal_trees([process], number).count

    def signal_trees(self, processes: list[Process], number: int) -> Signalled:
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
        self.detach()
        self._channel.close()
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


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _decode(status: int, user: float, system: float) -> Exit:
    if os.WIFSIGNALED(status):
        return Exit(None, os.WTERMSIG(status), os.WCOREDUMP(status), user, system)
    return Exit(os.WEXITSTATUS(status), None, False, user, system)
