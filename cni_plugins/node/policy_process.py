"""What applies policies that change, as a process of the node service beside the workers.

It lives while there is a container under policy, and remembers what it compiled and read last
(steps/policy_state.py, `Memory`): a change of one policy among 200 costs what that one means. While nothing
changes it waits for the kernel to tell of files (policy_watch.py), and so costs memory alone.
Attachments do not go through it; it reads what they write when it has something to do. When the last such
container has gone it ends after a while. From then on files that change are read by a process that ends at
once, so that whoever is attached next is judged by them from its first packet.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cni_plugins.node.policy_watch import PolicyWatch
from cni_plugins.node.role import Closing, Role

log = logging.getLogger("mesokit.node")

NOTHING_TO_DO = 0


@dataclass(slots=True)
class PolicyProcess:
    """`work` is done in the process; when it returns NOTHING_TO_DO there is no endpoint, and another process
    is started when `endpoints` or the `files` have changed: folders; where `state` is not, there is nothing
    to be kept.
    """

    state: Path
    endpoints: Path
    files: Path
    work: Callable[[], int]
    role: Role = field(default_factory=lambda: Role("what applies policies"))
    _watches: tuple[PolicyWatch, ...] = field(init=False)
    _wanted: bool = True

    def __post_init__(self) -> None:
        with contextlib.suppress(OSError):  # else what is above it is watched, and tells of every attachment
            self.endpoints.mkdir(parents=True, exist_ok=True)
        self._watches = tuple(PolicyWatch(place) for place in (self.endpoints, self.files))

    def watched(self) -> list[int]:
        """The descriptors that the supervisor has to wait for; see `patience`."""
        if self.role.pid:
            return [self.role.ended]
        if not self.role.may_start():
            return []
        return [watch.fileno() for watch in self._watches if watch.fileno() >= 0]

    def patience(self) -> float | None:
        """Seconds until it should be looked at without anything having happened; None for never."""
        return self.role.patience()

    def turn(self, ready: set[int], others: Iterable[Closing]) -> None:
        """Take note of its end, and start it where it is needed."""
        if self.role.pid and self.role.ended in ready:
            status = self.role.end()
            self._wanted = status != NOTHING_TO_DO
            if self._wanted:
                log.error("what applies policies ended (status %d); another takes its place", status)
        if not self.role.may_start():
            return
        told = [watch.changed() for watch in self._watches]
        if self._wanted or any(told):
            self._wanted = False
            if self.state.exists():
                self._wanted = not self.role.start(self.work, (*self._watches, *others))

    def close(self) -> None:
        """For a fork of the supervisor: let go what is the supervisor's."""
        self._close_watches()
        self.role.close()

    def stop(self) -> None:
        """End the process. What it was at is made good by whoever comes next."""
        self.role.kill()
        self._close_watches()

    def _close_watches(self) -> None:
        for watch in self._watches:
            watch.close()
