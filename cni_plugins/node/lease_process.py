"""The lease daemon as a process of the node service, beside the workers: calls do not wait for leases, nor
leases for calls.

Its socket is there as long as the service is. The process is forked when somebody has something to say to it,
or when there are leases from before; a node without DHCP has none. It is killed without ado, since all it
knows is in its files, and ends with the supervisor (role.py).
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cni_plugins.dhcp import daemon
from cni_plugins.dhcp.store import Store
from cni_plugins.node.role import Closing, Role
from cni_plugins.spec.errors import CniError
from cni_plugins.store import sockets

log = logging.getLogger("mesokit.node")

_CLAIM_SECONDS = 15.0  # a predecessor ends its own within that
_CLAIM_NAP = 0.05


@dataclass(slots=True)
class LeaseProcess:
    """The process, and the socket on which it is asked."""

    listening: socket.socket
    path: Path
    store: Store
    identity: tuple[int, int] | None
    role: Role = field(default_factory=lambda: Role("the lease daemon"))
    resumes: bool = True  # there may be leases without a process

    def watched(self) -> list[int]:
        """The descriptors that the supervisor has to wait for; see `patience`."""
        if self.role.pid:
            return [self.role.ended]
        return [self.listening.fileno()] if self.role.may_start() else []

    def patience(self) -> float | None:
        """Seconds until it should be looked at without anything having happened; None for never."""
        return self.role.patience()

    def turn(self, ready: set[int], others: Iterable[Closing]) -> None:
        """Take note of its end, and start it where it is needed."""
        if self.role.pid and self.role.ended in ready:
            log.error("the lease daemon ended (status %d); another takes its place", self.role.end())
            self.resumes = True
        wanted = self.role.may_start() and (self.listening.fileno() in ready or self._resumes())
        if wanted and not self.role.start(self._serve, others):
            self.resumes = True

    def _resumes(self) -> bool:
        found = self.resumes and bool(self.store.paths())
        self.resumes = False
        return found

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

    def close(self) -> None:
        """For a fork of the supervisor: let go what is the supervisor's."""
        self.listening.close()
        self.role.close()

    def stop(self) -> None:
        """End the process; its socket goes, unless a successor has put its own there."""
        self.role.kill()
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
