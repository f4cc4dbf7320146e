"""When to make rules again: somebody who is not of the service removed something from our nf_tables tables.

Then the records are gone through (attach/reload.py), in a process forked for that, so that nothing of the
service waits. What is told within a moment is dealt with together. Whoever it was is told apart by process;
where the service is in a pid namespace of its own its own changes look like somebody else's, which costs a
look at the records and nothing more. With ten thousand of them that is seconds of a processor; so one that
took long is followed by a pause, and containers that go one after another do not keep a processor busy.
"""

from __future__ import annotations

import time
from collections.abc import Container
from dataclasses import dataclass, field

from cni_plugins.kernel.nft.changes import Changes

_MOMENT_SECONDS = 0.2
_SHORT_SECONDS = 0.5  # of a processor: a thousand attachments take less
_PAUSES = 5  # what is longer may take one processor of six


@dataclass(slots=True)
class RulesWatch:
    """A first look is due at once: something may have been flushed while no service ran."""

    changes: Changes
    _due: float | None = field(default_factory=lambda: time.monotonic() + _MOMENT_SECONDS)
    _pause: float = 0.0  # no look before that moment

    def hear(self, own: Container[int]) -> None:
        """Take what was told; `own` are the processes whose changes are no harm."""
        for maker in self.changes.removals():
            if maker not in own and self._due is None:
                self._due = time.monotonic() + _MOMENT_SECONDS

    def soon(self, seconds: float) -> None:
        """Something else is to be put right, in so many seconds."""
        at = time.monotonic() + seconds
        self._due = at if self._due is None else min(self._due, at)

    def took(self, seconds: float) -> None:
        """A look is over that took so much of a processor."""
        self._pause = time.monotonic() + _PAUSES * max(0.0, seconds - _SHORT_SECONDS)

    def patience(self) -> float | None:
        """Seconds until a reload is due, None when none is."""
        return None if self._due is None else max(0.0, max(self._due, self._pause) - time.monotonic())

    def is_due(self) -> bool:
        """Whether the records are to be gone through now; true once."""
        if self._due is None or self.patience():
            return False
        self._due = None
        return True
