"""Where a subscription stands, and the rules it goes by (session.py)."""

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from executor.framework.sdk.calls import Call

DEFAULT_HEARTBEAT = 15.0
MISSED_HEARTBEATS = 5
MAX_REDIRECTS = 8


class Phase(enum.Enum):
    """Where the subscription stands."""

    IDLE = "idle"
    WAITING = "waiting"
    CONNECTING = "connecting"
    OPENED = "opened"
    SUBSCRIBED = "subscribed"
    SUPERSEDED = "superseded"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds. `window`: how many calls may be under way at once. `random(high)` is a float from 0 to
    `high`: attempts are spread over their whole delay.
    """

    masters: tuple[str, ...]
    random: Callable[[float], float]
    first_delay: float = 0.5
    longest_delay: float = 15.0
    open_timeout: float = 75.0
    call_timeout: float = 75.0
    content_type: str = "application/x-protobuf"
    attempts_without_permission: int = 2
    window: int = 1


@dataclass(slots=True)
class Pending:
    """A call that is queued or under way."""

    token: int
    call: Call
    since: float
    unsent: int = 0


@dataclass(slots=True)
class SessionState:
    """All that changes; `heard`, `since`, `retry_at` are times of the driver's clock."""

    phase: Phase = Phase.IDLE
    generation: int = 0
    stream_id: str = ""
    master: str = ""
    heard: float = 0.0
    heartbeat: float = DEFAULT_HEARTBEAT
    retry_at: float | None = None
    failures: int = 0
    redirects: int = 0
    refusals: int = 0
    candidates: deque[str] = field(default_factory=deque)
    queue: deque[Pending] = field(default_factory=deque)
    under_way: deque[Pending] = field(default_factory=deque)
