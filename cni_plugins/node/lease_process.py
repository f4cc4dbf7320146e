"""The lease daemon as a process of the node service, beside the workers: calls do not wait for leases, nor
leases for calls.

Its socket is there as long as the service is. The process is forked when somebody has something to say to it,
or when there are leases from before; a node without DHCP has none. It is killed without ado, since all it
knows is in its files, and ends with the supervisor.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cni_plugins.dhcp import daemon
from cni_plugins.dhcp.store import Store
from cni_plugins.spec.errors import CniError
from cni_plugins.store import sockets

log = logging.getLogger("mesokit.node")

_PR_SET_PDEATHSIG = 1
_CLAIM_SECONDS = 15.0  # a predecessor ends its own within that
_CLAIM_NAP = 0.05
_PAUSE_SECONDS = 1.0


class Closing(Protocol):
    """A socket of any sort."""

    def close(self) -> None: ...


@dataclass(slots=True)
class LeaseProcess:
    """`pid` is 0 while there is none; `ended` can be read when it has ended, -1 without one."""

    listening: socket.socket
    path: Path
    store: Store
    identity: tuple[int, int] | None
    pid: int = 0
    ended: int = -1
    born: float = 0.0
    resumes: bool = True  # there may be leases without a process

    def watched(self) -> list[int]:
        """The descriptors that the supervisor has to wait for; see `patience`."""
        if self.pid:
            return [self.ended]
        return [self.listening.fileno()] if self._may_start() else []

    def _may_start(self) -> bool:
        return time.monotonic() - self.born >= _PAUSE_SECONDS or not self.born

    def patience(self) -> float | None:
        """Seconds until it should be looked at without anything having happened; None for never."""
        return None if self.pid or self._may_start() else _PAUSE_SECONDS

    def turn(self, ready: set[int], others: Iterable[Closing]) -> None:
        """Take note of its end, and start it where it is needed."""
        if self.pid and self.ended in ready:
            with contextlib.suppress(ChildProcessError):
                _, status = os.waitpid(self.pid, 0)
                log.error("the lease daemon ended (status %d); another takes its place", status)
            self._forget()
            self.resumes = True
        if not self.pid and self._may_start() and (self.listening.fileno() in ready or self._resumes()):
            try:
                self._fork(others)
            except OSError as error:
                self.born = time.monotonic()
                self.resumes = True
                log.error("cannot start the lease daemon: %s", error)

    def _resumes(self) -> bool:
        found = self.resumes and bool(self.store.paths())
        self.resumes = False
        return found

    def _fork(self, others: Iterable[Closing]) -> None:
        parent = os.getpid()
        pid = os.fork()
        self.born = time.monotonic()
        if pid:
            self.pid, self.ended = pid, os.pidfd_open(pid)
            return
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for other in others:
                other.close()
            if os.getppid() == parent:
                status = self._serve()
        except BaseException:
            log.exception("the lease daemon failed")
        finally:
            logging.shutdown()
            os._exit(status)

    def _serve(self) -> int:
        deadline = time.monotonic() + _CLAIM_SECONDS
        while self.store.claim() < 0:
            if time.monotonic() > deadline:
                log.error(
                    "process %s keeps the leases of %s: end it (mesokit dhcp?), and they are this service's",
                    self.store.owner(),
                    self.store.directory,
                )
                return 1
            time.sleep(_CLAIM_NAP)
        daemon.serve(self.store, self.listening)
        return 0

    def _forget(self) -> None:
        os.close(self.ended)
        self.pid, self.ended = 0, -1

    def close(self) -> None:
        """For a fork of the supervisor: let go what is the supervisor's."""
        self.listening.close()
        if self.ended >= 0:
            os.close(self.ended)

    def stop(self) -> None:
        """End the process; its socket goes, unless a successor has put its own there."""
        if self.pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            self._forget()
        if self.identity is not None:
            with contextlib.suppress(OSError):
                sockets.remove(self.path, self.identity)
        self.listening.close()


def prepared(store: Store, path: Path) -> LeaseProcess | None:
    """The role with its socket; None where there can be none, which is logged."""
    try:
        listening = sockets.bind(path)
        store.prepare()
    except (OSError, CniError) as error:
        log.error("no leases (dhcp) by this service: %s", error)
        return None
    return LeaseProcess(listening, path, store, sockets.identity(path))
