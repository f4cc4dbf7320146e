"""When a task that is being killed gets SIGKILL.

The first kill sets the deadline. A later one may only bring it nearer, and counts from the *first*: told
"30 s" and five seconds later "1 s", a task has had its second already. Told "1 s" and then "30 s",
nothing changes.
"""

from dataclasses import dataclass

from mesos.v1 import mesos_pb2

LONGEST_GRACE = 10 * 365 * 86400.0
"""Seconds; beyond this a grace period is as good as endless, and floats would lose count."""


@dataclass(frozen=True, slots=True)
class KillDeadline:
    """Monotonic seconds: when the killing began and when it ends with SIGKILL."""

    began: float
    at: float

    @classmethod
    def after(cls, now: float, grace: float) -> "KillDeadline":
        """The deadline of a first kill."""
        return cls(now, now + min(max(grace, 0.0), LONGEST_GRACE))

    def shortened(self, grace: float) -> "KillDeadline":
        """The deadline after another kill."""
        return KillDeadline(self.began, min(self.at, KillDeadline.after(self.began, grace).at))


def grace_of(policies: list[mesos_pb2.KillPolicy], default: float) -> float:
    """Seconds of grace from the first of these policies that has a period; below 0 counts as 0."""
    for policy in policies:
        if policy.HasField("grace_period"):
            return max(policy.grace_period.nanoseconds / 1e9, 0.0)
    return default
