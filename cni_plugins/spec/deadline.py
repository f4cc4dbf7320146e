"""The time a call has: Mesos waits for a plugin for ever, so each call ends itself (code 11, "try again
later").
"""

import time
from dataclasses import dataclass

from cni_plugins.spec.errors import CniError, Code


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment of the monotonic clock, in seconds."""

    at: float
    seconds: float

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    def require(self, what: str) -> float:
        """Seconds left; CniError 11 naming `what` was waited for when there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise CniError(Code.TRY_AGAIN, f"gave up after {self.seconds:g} s waiting for {what}")
        return left

    def sooner(self, seconds: float) -> "Deadline":
        """In so many seconds, or at this moment if that is earlier."""
        return Deadline(min(self.at, time.monotonic() + seconds), seconds)


def after(seconds: float) -> Deadline:
    return Deadline(time.monotonic() + seconds, seconds)
