"""What applies policies that change, as a process of the node service beside the workers.

It lives from when the first container under policy is there, and remembers what it compiled and read last
(steps/policy_state.py, `Memory`): a change of one policy among 200 costs what that one means. While nothing
changes it waits for the kernel to tell of files (policy_watch.py), and so costs memory alone.
Attachments do not go through it; it reads what they write when it has something to do.
"""

from __future__ import annotations

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
    is started when the folder of `state` has changed.
    """

    state: Path
    work: Callable[[], int]
    role: Role = field(default_factory=lambda: Role("what applies policies"))
    _watch: PolicyWatch = field(init=False)
    _wanted: bool = True

    def __post_init__(self) -> None:
        self._watch = PolicyWatch(self.state.parent)

    def watched(self) -> list[int]:
        """The descriptors that the supervisor has to wait for; see `patience`."""
        if self.role.pid:
            return [self.role.ended]
        return [self._watch.fileno()] if self.role.may_start() and self._watch.fileno() >= 0 else []

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
        if self.role.may_start() and (self._watch.changed() or self._wanted):
            self._wanted = False
            if self.state.exists():
                self._wanted = not self.role.start(self.work, (self._watch, *others))

    def close(self) -> None:
        """For a fork of the supervisor: let go what is the supervisor's."""
        self._watch.close()
        self.role.close()

    def stop(self) -> None:
        """End the process. What it was at is made good by whoever comes next."""
        self.role.kill()
        self._watch.close()
