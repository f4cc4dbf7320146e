"""A supervisor with a real warden for tests, and ways to wait for real processes."""

import contextlib
import ctypes
import fcntl
import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from executor.eventloop import Loop, SelectorLoop, Timer
from executor.process import procfs
from executor.process.launch import Exit, Launch, LaunchError, Process
from executor.process.supervisor import Supervisor
from executor.process.warden import Warden, spawn

PATIENCE = 30.0


class WaitingSupervisor(Supervisor):
    """A supervisor for tests without a loop: `start` waits for the process, `reap` asks for its end."""

    def __init__(self, warden: Warden) -> None:
        super().__init__(warden)
        self._endings: dict[str, Exit] = {}

    def start(self, launch: Launch) -> Process:
        """Start a process and return once it runs its program. Raises LaunchError."""
        outcomes: list[Process | LaunchError] = []

        def ended(ending: Exit) -> None:
            assert isinstance(outcomes[0], Process)
            self._endings[outcomes[0].cookie] = ending

        self.begin(launch, outcomes.append, ended)
        poll = select.poll()
        while not outcomes:
            poll.register(self.descriptor, select.POLLIN | (select.POLLOUT if self._channel.sending else 0))
            assert poll.poll(PATIENCE * 1000), "the warden says nothing"
            self.pump()
        outcome = outcomes[0]
        if isinstance(outcome, LaunchError):
            raise outcome
        return outcome

    def reap(self, process: Process) -> Exit | None:
        """How a process ended; None while that is not known."""
        self.pump()
        if self._gone and process.cookie not in self._endings:
            poll = select.poll()
            poll.register(process.pidfd, select.POLLIN)
            if poll.poll(0):
                self.collect_lost(process)
        return self._endings.pop(process.cookie, None)


@contextlib.contextmanager
def supervised(loop: Loop | None = None) -> Iterator[WaitingSupervisor]:
    """A supervisor whose warden and tasks are gone afterwards; `loop` serves it."""
    score = Path("/proc/self/oom_score_adj")
    before = score.read_text()
    supervisor = WaitingSupervisor(spawn())
    gc.freeze()  # as it was before (netns_tests/parallel.py): what all tests are made of is no garbage
    if loop is not None:
        supervisor.attach(loop)
    try:
        yield supervisor
    finally:
        supervisor.close(PATIENCE)
        _adopt_nobody()
        score.write_text(before)


def _adopt_nobody() -> None:
    """What spawn() made of this process would bring it the orphans of every later test."""
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def apart(body: Callable[[], None]) -> None:
    """Run the body of a test in a child: without a warden, a supervisor takes whatever is below its process
    for its own and kills it.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def launch(*argv: str, cwd: Path = Path("/"), **options: Any) -> Launch:
    """A launch with the environment of the tests and its output thrown away."""
    settings: dict[str, Any] = {"env": dict(os.environ), "stdout": -1, "stderr": -1, **options}
    return Launch("test", argv, cwd=cwd, **settings)


def shell(script: str, **options: Any) -> Launch:
    """A launch of /bin/sh -c."""
    return launch("/bin/sh", "-c", script, **options)


def python(script: str, **options: Any) -> Launch:
    """A launch of a Python script without site packages."""
    return launch(sys.executable, "-I", "-S", "-c", script, **options)


def ending(supervisor: WaitingSupervisor, process: Process) -> Exit:
    """Wait for a process to end and collect it."""
    endings: list[Exit] = []

    def ended() -> bool:
        endings.extend(filter(None, [supervisor.reap(process)]))
        return bool(endings)

    eventually(ended, "the end of the process")
    return endings[0]


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def left(supervisor: Supervisor) -> list[int]:
    """The living processes below the warden."""
    return [entry.pid for entry in procfs.descendants(supervisor.warden_pid) if not entry.dead]


def descriptors() -> int:
    """How many descriptors this process has open, those of garbage not counted."""
    gc.collect()
    with os.scandir("/proc/self/fd") as entries:
        return sum(1 for _ in entries)


def alive(pid: int) -> bool:
    """Whether a process of that number runs."""
    entry = procfs.stat(pid)
    return entry is not None and not entry.dead


def pid_in(file: Path) -> int:
    """The process number that a task writes into a file, once it is there."""
    eventually(lambda: file.exists() and file.read_text().endswith("\n"), f"a pid in {file}")
    return int(file.read_text())


@contextlib.contextmanager
def unopenable(path: Path) -> Iterator[None]:
    """A program that cannot be executed or fail to be for as long: a lease on it makes every open wait, as a
    dead file server does."""
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(descriptor)
        signal.signal(signal.SIGIO, before)


@contextlib.contextmanager
def running_loop() -> Iterator[SelectorLoop]:
    """A loop that is closed afterwards."""
    loop = SelectorLoop()
    try:
        yield loop
    finally:
        loop.close()


def turn_until(loop: SelectorLoop, condition: Callable[[], bool], what: str) -> None:
    """Run the loop until `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        loop.run_once(0.05)


def turn_for(loop: SelectorLoop, seconds: float) -> None:
    """Run the loop for a while, to see that nothing happens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        loop.run_once(deadline - time.monotonic())


class ManualLoop:
    """A loop without descriptors, whose clock goes only when told: for schedules."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._calls: list[tuple[float, int, Callable[[], None], list[bool]]] = []

    def now(self) -> float:
        return self._now

    def watch(self, descriptor: int, events: int, callback: Callable[[], None]) -> None:
        raise AssertionError("nothing to watch by hand")

    def unwatch(self, descriptor: int) -> None:
        raise AssertionError("nothing to watch by hand")

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        cancelled: list[bool] = []
        self._calls.append((when, len(self._calls), callback, cancelled))
        return _ManualTimer(cancelled)

    def post(self, callback: Callable[[], None]) -> None:
        self.call_at(self._now, callback)

    def advance(self, seconds: float) -> None:
        """Let time pass and make the calls that fall due, each at its time."""
        end = self._now + seconds
        while due := [call for call in self._calls if call[0] <= end]:
            first = min(due, key=lambda call: call[:2])
            self._calls.remove(first)
            self._now = max(self._now, first[0])
            if not first[3]:
                first[2]()
        self._now = end


class _ManualTimer:
    def __init__(self, cancelled: list[bool]) -> None:
        self._cancelled = cancelled

    def cancel(self) -> None:
        self._cancelled.append(True)
