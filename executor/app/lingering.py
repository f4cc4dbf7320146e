"""Processes that a task's own process left behind, and that may use the rest of the grace."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from executor.eventloop import READ, Loop
from executor.process.procfs import Stat


@dataclass(slots=True)
class Lingering:
    """Waits for them by pidfds of its own (pidfd_open(2)). Owner thread."""

    _pidfds: list[int] = field(default_factory=list)

    def watch(self, loop: Loop, survivors: Iterable[Stat], left: Callable[..., Any]) -> bool:
        """`left` is called when one of them has ended. Whether there is one to wait for; True as well when no
        descriptor is left to wait with, since the deadline comes all the same.
        """
        for entry in survivors:
            try:
                pidfd = os.pidfd_open(entry.pid)
            except ProcessLookupError:
                continue
            except OSError:
                return True
            self._pidfds.append(pidfd)
            loop.watch(pidfd, READ, left)
        return bool(self._pidfds)

    def forget(self, loop: Loop) -> None:
        """Wait for none of them any more."""
        while self._pidfds:
            pidfd = self._pidfds.pop()
            loop.unwatch(pidfd)
            os.close(pidfd)
