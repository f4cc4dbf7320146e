"""The warden: the small process that starts every task, adopts what they leave, and outlives the executor
to end it.

Theory of operation. `spawn` forks once, while the executor is young: one thread, few modules. The child
becomes a subreaper in a session of its own and serves requests on a socket pair. All tasks and checks are
its children, which settles four matters at once:

* a fork never meets threads, and copies a few megabytes instead of the whole executor;
* every descendant of a task, whatever it does with sessions, groups and double forks, stays below the
  warden and can be found; its orphans come to the warden, which alone reaps, so no exit status is ever
  collected twice or lost;
* when the executor ends in any way, kill -9 included, the kernel closes its end of the socket: the warden
  then kills all that is below it and leaves;
* when the warden itself is killed, the parent death signal kills its children.

Nothing here waits but for the next of all events. A child that was forked is a start under way until it has
exec'ed, has told why it cannot, or has had its time: a start that hangs (a directory or a program on a dead
file server) is given up by itself, beside all others. The executor hears of each start and of each ending by
messages; neither end waits for the other. Imports are few on purpose: what is loaded here is held twice.

Messages to the warden, with the executor's number of the start:

* ("start", number, plan), with descriptors 0, 1 and 2 of the child;
* ("undo", number): kill what the start has become, session and all, and never tell of it.

And from it:

* ("started", number, pid, start time), with the pidfd;
* ("failed", number, stage, errno, detail);
* ("ended", number, wait status, user s, system s).
"""

import errno
import gc
import marshal
import os
import select
import signal
import socket
import time

from executor.process import child, ipc, oom, procfs
from executor.process.prctl import become_subreaper

TYPE_CHECKING = False  # as type checkers see it: the warden does without `typing`
if TYPE_CHECKING:
    from typing import NoReturn

# Seconds until a start that hangs is given up.
_START_LIMIT = 10.0
# What survives SIGKILL this long sits in the kernel; it dies when the kernel lets it go.
_LEAVE_LIMIT = 30.0
# Looks at one's own children, one right behind the other.
_CHASES = 1000


# What a terminal, or a signal meant for all processes of a user, would end it with before its time.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Warden:
    """The executor's end: a connected socket and the warden's pid. `lowered` says whether both have a lower
    score than tasks when memory runs out (oom.py).
    """

    __slots__ = ("channel", "lowered", "pid")

    def __init__(self, channel: socket.socket, pid: int, *, lowered: bool) -> None:
        self.channel = channel
        self.pid = pid
        self.lowered = lowered


def spawn(*loader: int) -> Warden:
    """Fork the warden. Call it first thing, before threads and large imports. `loader` is the boot loader's
    pid, where there is one. Raises OSError when there is no room.
    """
    task_score = oom.lower(*loader)
    ours, theirs = socket.socketpair()
    gc.collect()
    gc.freeze()
    executor = os.getpid()
    # A signal that comes before the child has decided what it thinks of it must wait.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        gc.unfreeze()
        # The executor adopts too: should the warden be killed, its children come here and can be collected.
        become_subreaper()
        return Warden(ours, pid, lowered=task_score is not None)
    try:
        gc.disable()
        ours.close()
        _serve(theirs, executor, task_score)
    finally:
        os._exit(1)


def _serve(connected: socket.socket, executor: int, task_score: int | None) -> "NoReturn":
    os.setsid()
    become_subreaper()
    _detach(connected)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    channel = ipc.Channel(connected)
    children = _Children(channel, task_score)
    try:
        while os.getppid() == executor:
            ready = children.wait(wake_read)
            if wake_read in ready:
                os.read(wake_read, 4096)
            if channel.descriptor in ready:
                channel.flush()
                while (received := channel.receive()) is not None:
                    children.obey(*received)
            # What a start came to is told before how it ended.
            children.hear(ready)
            children.collect()
    except (EOFError, ConnectionError):
        pass  # the executor is gone
    children.fall_silent()
    _leave(children, wake_read)


def _detach(channel: socket.socket) -> None:
    """Let go of what the executor had open: an agent waits for its pipes to close; and tasks inherit
    nothing.
    """
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    for descriptor in [int(entry.name) for entry in os.scandir("/proc/self/fd")]:
        if descriptor > 2 and descriptor not in (null, channel.fileno()):
            try:
                os.close(descriptor)
            except OSError:
                continue  # the descriptor of the listing itself
    os.close(null)


class _Start:
    """A child that has been forked and has not exec'ed yet, as far as is known."""

    __slots__ = ("deadline", "ending", "number", "pid", "pidfd", "report")

    def __init__(self, number: int, pid: int, pidfd: int, report: int) -> None:
        self.number = number
        self.pid = pid
        self.pidfd = pidfd
        self.report = report
        self.deadline = time.monotonic() + _START_LIMIT
        self.ending: tuple[int, float, float] | None = None
        """Its end, where it was collected before its report was read."""


class _Children:
    """The warden's children: those that are being started, and those whose ends are ours to tell."""

    def __init__(self, channel: ipc.Channel, task_score: int | None) -> None:
        self._channel = channel
        self._task_score = task_score
        self._starts: dict[int, _Start] = {}
        self._numbers: dict[int, int] = {}
        self._silent = False
        self._ignored = [s for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN]

    def wait(self, wake_read: int) -> set[int]:
        """Wait for something to happen; the descriptors that are ready."""
        poll = select.poll()
        poll.register(wake_read, select.POLLIN)
        poll.register(
            self._channel.descriptor, select.POLLIN | (select.POLLOUT if self._channel.sending else 0)
        )
        for report in self._starts:
            poll.register(report, select.POLLIN)
        deadline = min((start.deadline for start in self._starts.values()), default=None)
        patience = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        return {descriptor for descriptor, _ in poll.poll(patience)}

    def obey(self, request: ipc.Message, descriptors: list[int]) -> None:
        """Do what a message asks for; what fails is told."""
        try:
            if request[0] == "start":
                self._start(request[1], request[2], descriptors)
            else:
                self._undo(request[1])
        except (OSError, MemoryError) as error:
            number = error.errno if isinstance(error, OSError) else errno.ENOMEM
            self._channel.send(("failed", request[1], "fork", number or 0, b""))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _start(self, number: int, plan: child.Plan, descriptors: list[int]) -> None:
        if len(descriptors) != 3:
            # The kernel drops those that this process has no room for.
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            pid = os.fork()
        except OSError:
            os.close(read)
            os.close(write)
            raise
        if pid == 0:
            for start in self._starts.values():
                # They are closed by exec anyhow; until then there may be no other descriptors left.
                os.close(start.report)
                os.close(start.pidfd)
            if self._task_score is not None:
                oom.restore(self._task_score)
            child.become(plan, descriptors, write, self._ignored)
        os.close(write)
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            os.close(read)
            _kill(pid)
            raise
        self._starts[read] = _Start(number, pid, pidfd, read)

    def hear(self, ready: set[int]) -> None:
        """Read what children have told of their starts, and give up those that have had their time."""
        now = time.monotonic()
        for start in list(self._starts.values()):
            if start.report in ready:
                told = os.read(start.report, 4096)
                self._settle(start)
                if told:
                    os.close(start.pidfd)
                    self._channel.send(("failed", start.number, *marshal.loads(told)))
                else:
                    self._started(start)
            elif start.deadline <= now:
                self._settle(start)
                os.close(start.pidfd)
                if start.ending is None:
                    _kill(start.pid)
                self._channel.send(("failed", start.number, "exec", errno.ETIMEDOUT, b""))

    def _settle(self, start: _Start) -> None:
        del self._starts[start.report]
        os.close(start.report)

    def _started(self, start: _Start) -> None:
        # As long as nobody has collected the process its number names it and no other, even if it is dead.
        entry = procfs.stat(start.pid) if start.ending is None else None
        message = ("started", start.number, start.pid, entry.started if entry else 0)
        self._channel.send(message, [start.pidfd], give=True)
        if start.ending is None:
            self._numbers[start.pid] = start.number
        else:
            self._channel.send(("ended", start.number, *start.ending))

    def fall_silent(self) -> None:
        """Nobody listens any more."""
        self._silent = True
        self._channel.close()

    def collect(self) -> None:
        """Collect every dead child; tell of those that were started, forget adopted ones."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ending = (status, usage.ru_utime, usage.ru_stime)
            number = self._numbers.pop(pid, None)
            if number is not None:
                if not self._silent:
                    self._channel.send(("ended", number, *ending))
                continue
            for start in self._starts.values():
                if start.pid == pid:
                    start.ending = ending

    def _undo(self, number: int) -> None:
        for start in [start for start in self._starts.values() if start.number == number]:
            self._settle(start)
            os.close(start.pidfd)
            if start.ending is None:
                _kill(start.pid)
        for pid in [pid for pid, its in self._numbers.items() if its == number]:
            del self._numbers[pid]
            _kill(pid)


def _kill(pid: int) -> None:
    """Kill a child that was not collected yet, and its session, should it lead one already."""
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except OSError:
            continue  # it has ended, leads no group yet, or has become somebody whom we may not kill


def _leave(children: _Children, wake_read: int) -> "NoReturn":
    """Kill what is left until there is nothing, then end."""
    deadline = time.monotonic() + _LEAVE_LIMIT
    poll = select.poll()
    poll.register(wake_read, select.POLLIN)
    while time.monotonic() < deadline:
        # Stopped first, so that none of them forks while the others die.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for entry in procfs.descendants(os.getpid()):
                procfs.send_signal(entry, number)
        _kill_children(children)
        if poll.poll(20):
            try:
                os.read(wake_read, 4096)
            except BlockingIOError:
                continue
    os._exit(1)


def _kill_children(children: _Children) -> None:
    """Kill and collect our own children as long as there are new ones, and end where there are none left.

    All that loses its parent is ours at once, and a child's number is its own until we have collected it: so
    this is fast enough for one that forks and ends, whose child does the same.
    """
    killed: set[int] = set()
    for _ in range(_CHASES):
        children.collect()
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            os._exit(0)
        living = set(procfs.children(os.getpid()))
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue  # a program of somebody else's (setuid) is not ours to kill; the others are
        if living <= killed:
            return
        killed = living
