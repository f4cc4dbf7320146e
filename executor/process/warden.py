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

The executor sees exits through pidfds, which the warden hands over with each start. It keeps the ending of
each (status and usage) until it is asked for. Imports are few on purpose: what is loaded here is held
twice.
"""

import errno
import gc
import marshal
import os
import select
import signal
import socket
import time
from typing import Any, NoReturn

from executor.process import child, ipc, procfs
from executor.process.prctl import become_subreaper

# A start that hangs here (a directory on a dead file server) stops all other starts.
_START_LIMIT = 10.0
# What survives SIGKILL this long sits in the kernel; it dies when the kernel lets it go.
_LEAVE_LIMIT = 30.0


# What a terminal, or a signal meant for all processes of a user, would end it with before its time.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Warden:
    """The executor's end: a connected socket and the warden's pid."""

    __slots__ = ("channel", "pid")

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self.channel = channel
        self.pid = pid


def spawn() -> Warden:
    """Fork the warden. Call it first thing, before threads and large imports. Raises OSError when there is
    no room.
    """
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
        return Warden(ours, pid)
    try:
        gc.disable()
        ours.close()
        _serve(theirs, executor)
    finally:
        os._exit(1)


def _serve(channel: socket.socket, executor: int) -> NoReturn:
    os.setsid()
    become_subreaper()
    _detach(channel)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    brood = _Brood()
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while os.getppid() == executor:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if wake_read in ready:
            os.read(wake_read, 4096)
            brood.collect()
        if channel.fileno() in ready:
            received = ipc.receive(channel)
            if received is None:
                break
            _answer(channel, brood, *received)
    poll.unregister(channel)
    channel.close()
    _leave(brood, poll, wake_read)


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


def _answer(
    channel: socket.socket, brood: "_Brood", request: tuple[Any, ...], descriptors: list[int]
) -> None:
    handed: list[int] = []
    try:
        if request[0] == "start":
            answer, handed = brood.start(request[1], descriptors)
        elif request[0] == "undo":
            answer = brood.undo(request[1])
        else:
            answer = brood.ending(request[1])
        ipc.send(channel, answer, handed)
    except ConnectionError:
        return  # the loop meets the same end of file
    finally:
        for descriptor in (*descriptors, *handed):
            os.close(descriptor)


class _Brood:
    """The warden's children: which are ours to report, and how those that ended did."""

    def __init__(self) -> None:
        self.tokens: dict[int, int] = {}
        self.endings: dict[int, tuple[int, float, float]] = {}
        self.next_token = 1
        self.ignored = [s for s in signal.valid_signals() if signal.getsignal(s) is signal.SIG_IGN]

    def start(self, plan: child.Plan, descriptors: list[int]) -> tuple[tuple[Any, ...], list[int]]:
        """Answer ("started", token, pid, start time) with its pidfd, or ("failed", stage, errno, detail)."""
        try:
            read, write = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            return ("failed", "fork", error.errno, b""), []
        try:
            pid = os.fork()
        except OSError as error:
            os.close(read)
            os.close(write)
            return ("failed", "fork", error.errno, b""), []
        if pid == 0:
            child.become(plan, descriptors, write, self.ignored)
        os.close(write)
        failure = _outcome(read, pid)
        if failure is not None:
            # It ends as soon as it has told, or is collected with the orphans when it does not.
            if failure[1] != errno.ETIMEDOUT:
                os.waitpid(pid, 0)
            return ("failed", *failure), []
        # Nothing has collected the process yet, so both name it and no other, even if it is dead by now.
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            _kill_session(pid)
            return ("failed", "fork", error.errno, b""), []
        entry = procfs.stat(pid)
        token, self.next_token = self.next_token, self.next_token + 1
        self.tokens[pid] = token
        return ("started", token, pid, entry.started if entry else 0), [pidfd]

    def collect(self) -> None:
        """Collect every dead child; keep the endings of those that were started, forget adopted ones."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            token = self.tokens.pop(pid, None)
            if token is not None:
                self.endings[token] = (status, usage.ru_utime, usage.ru_stime)

    def undo(self, token: int) -> tuple[Any, ...]:
        """Kill what was started under a token, session and all, and never tell of it; answer ("undone",)."""
        for pid in [pid for pid, its in self.tokens.items() if its == token]:
            _kill_session(pid)
            del self.tokens[pid]
        self.endings.pop(token, None)
        return ("undone",)

    def ending(self, token: int) -> tuple[Any, ...]:
        """Answer ("ended", wait status, user s, system s), ("running",) or ("unknown",)."""
        self.collect()
        ending = self.endings.pop(token, None)
        if ending is not None:
            return ("ended", *ending)
        return ("running",) if token in self.tokens.values() else ("unknown",)


def _kill_session(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        return  # it has ended, or has become somebody whom we may not kill


def _outcome(read: int, pid: int) -> tuple[str, int, bytes] | None:
    """What the child says of its start: None once it has exec'ed, else stage, errno and detail."""
    try:
        poll = select.poll()
        poll.register(read, select.POLLIN)
        deadline = time.monotonic() + _START_LIMIT
        while not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
                return "exec", errno.ETIMEDOUT, b""
        told = os.read(read, 4096)
    finally:
        os.close(read)
    if not told:
        return None
    stage, number, detail = marshal.loads(told)
    return stage, number, detail


def _leave(brood: _Brood, poll: select.poll, wake_read: int) -> NoReturn:
    """Kill what is left until there is nothing, then end."""
    deadline = time.monotonic() + _LEAVE_LIMIT
    while time.monotonic() < deadline:
        brood.collect()
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            os._exit(0)
        # Stopped first, so that none of them forks while the others die.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for entry in procfs.descendants(os.getpid()):
                procfs.send_signal(entry, number)
        if poll.poll(20):
            try:
                os.read(wake_read, 4096)
            except BlockingIOError:
                continue
    os._exit(1)
