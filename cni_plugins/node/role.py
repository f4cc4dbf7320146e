"""A process of the node service beside its workers, forked from the supervisor when it has something to do.

It does one thing on and on, and needs no farewell: it is killed, and all it knows is in its files. It ends
with the supervisor, too, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger("mesokit.node")

_PR_SET_PDEATHSIG = 1
_PAUSE_SECONDS = 1.0


class Closing(Protocol):
    """A socket of any sort."""

    def close(self) -> None: ...


@dataclass(slots=True)
class Role:
    """`pid` is 0 while there is no process; `ended` can be read when it has ended, -1 without one."""

    name: str
    pid: int = 0
    ended: int = -1
    _born: float = 0.0

    def may_start(self) -> bool:
        """Not sooner than after a pause."""
        return not self.pid and (not self._born or time.monotonic() - self._born >= _PAUSE_SECONDS)

    def patience(self) -> float | None:
        """Seconds until it may start; None when it runs, or may already."""
        return None if self.pid or self.may_start() else _PAUSE_SECONDS

    def start(self, work: Callable[[], int], others: Iterable[Closing]) -> bool:
        """Fork; what `work` returns is the exit status. `others` is what the process has no use for. Whether
        there is a process now.
        """
        parent = os.getpid()
        self._born = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:
            log.error("cannot start %s: %s", self.name, error)
            return False
        if pid:
            self.pid, self.ended = pid, os.pidfd_open(pid)
            return True
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for other in others:
                other.close()
            if os.getppid() == parent:
                status = work()
        except BaseException:
            log.exception("%s failed", self.name)
        finally:
            logging.shutdown()
            os._exit(status)

    def end(self) -> int:
        """Take note that it has ended; its exit status, -1 when that is not known."""
        status = -1
        with contextlib.suppress(ChildProcessError):
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._forget()
        return status

    def kill(self) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            self._forget()

    def _forget(self) -> None:
        os.close(self.ended)
        self.pid, self.ended = 0, -1

    def close(self) -> None:
        """For a fork of the supervisor: let go what is the supervisor's."""
        if self.ended >= 0:
            os.close(self.ended)
