"""The end of a task's processes: by themselves, or because the task is killed.

A killed task gets SIGTERM, all of its tree, and SIGKILL at its deadline. It is gone when its own process has
ended and nothing is left of it. What that process leaves behind is killed at once, but for a task that is
being killed, where it has the rest of the grace: a shell dies of SIGTERM at once, and what it ran may need
its time.
"""

import os
import signal
from collections.abc import Callable
from functools import partial

from executor.app.task_run import TaskRun
from executor.eventloop import READ, Loop
from executor.process.launch import Process
from executor.process.procfs import Stat
from executor.process.signals import Sweep
from executor.process.supervisor import Supervisor
from executor.task.kill_policy import KillDeadline
from executor.task.status import Ending

RETRY_KILL = 1.0
"""Seconds after which SIGKILL is sent again to a task that has not died of it."""


class Reaper:
    """`gone` is called once for each task that was watched, `kept.ending` being set and nothing left."""

    def __init__(self, loop: Loop, supervisor: Supervisor, gone: Callable[[TaskRun], None]) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._sweep = Sweep(loop, supervisor)
        self._gone = gone

    def watch(self, kept: TaskRun, process: Process) -> None:
        """Look after the process of a task from now on."""
        kept.process = kept.started = process
        self._loop.watch(process.pidfd, READ, partial(self._ended, kept))

    def kill(self, kept: TaskRun, grace: float) -> None:
        """Kill a task within `grace` seconds; said again, it may only become sooner."""
        task = kept.task
        if task.kill is None:
            task.kill = KillDeadline.after(self._loop.now(), grace)
            if task.kill.at > task.kill.began:
                self._signal(kept, signal.SIGTERM)
        else:
            shortened = task.kill.shortened(grace)
            if shortened == task.kill:
                return
            task.kill = shortened
        if kept.escalation is not None:
            kept.escalation.cancel()
        if task.kill.at <= self._loop.now():
            self._escalate(kept)
        else:
            kept.escalation = self._loop.call_at(task.kill.at, partial(self._escalate, kept))

    def _escalate(self, kept: TaskRun) -> None:
        """SIGKILL, again and again while the process is there; the kernel may hold it for a while."""
        if kept.draining:
            return
        self._signal(kept, signal.SIGKILL)
        if kept.process is not None:
            again = self._loop.now() + RETRY_KILL
            kept.escalation = self._loop.call_at(again, partial(self._escalate, kept))

    def _signal(self, kept: TaskRun, number: signal.Signals) -> None:
        """Signal the whole tree; when SIGKILL leaves nothing of a task whose process has ended, it is
        gone.
        """
        assert kept.started is not None
        then = partial(self._killed, kept) if number is signal.SIGKILL else None
        self._sweep.signal(kept.started, number, then)

    def _killed(self, kept: TaskRun) -> None:
        if kept.process is None:
            self._finish(kept)

    def _ended(self, kept: TaskRun) -> None:
        process = kept.process
        assert process is not None
        self._loop.unwatch(process.pidfd)
        ending = self._supervisor.reap(process)
        if ending is None:
            self._loop.watch(process.pidfd, READ, partial(self._ended, kept))
            return
        kept.process = None
        kept.ending = Ending(ending.code, ending.signal, ending.core)
        kept.silence()
        kill = kept.task.kill
        if kill is not None and kill.at > self._loop.now():
            self._linger(kept)
        else:
            self._signal(kept, signal.SIGKILL)

    def _linger(self, kept: TaskRun) -> None:
        """Wait for what the task's process has left behind, until none of it lives or the grace is over."""
        self._forget_lingering(kept)
        assert kept.started is not None
        self._sweep.survivors(kept.started, partial(self._wait_for, kept))

    def _wait_for(self, kept: TaskRun, survivors: list[Stat]) -> None:
        if kept.draining:
            return
        self._forget_lingering(kept)
        for entry in survivors:
            try:
                pidfd = os.pidfd_open(entry.pid)
            except ProcessLookupError:
                continue
            except OSError:
                return  # no descriptor left to wait with: the deadline comes all the same
            kept.lingering.append(pidfd)
            self._loop.watch(pidfd, READ, partial(self._linger, kept))
        if not kept.lingering:
            self._finish(kept)

    def _forget_lingering(self, kept: TaskRun) -> None:
        for pidfd in kept.lingering:
            self._loop.unwatch(pidfd)
            os.close(pidfd)
        kept.lingering.clear()

    def _finish(self, kept: TaskRun) -> None:
        if not kept.draining:
            self._forget_lingering(kept)
            kept.draining = True
            self._gone(kept)
