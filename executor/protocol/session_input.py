"""What a session lives under, where it is, and what can happen to it: see `session`."""

import enum
from dataclasses import dataclass

LEAST_DELAY = 0.1
"""Seconds between two attempts that fail, however short the agent wants them to be: a broken agent is not
met with a loop."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The clocks that a session lives under: seconds; 0 switches `watchdog` and `heartbeat_interval` off.
    `checkpoint` decides what a lost stream means. `farewell` is the wait for acknowledgements of an executor
    that was told to leave, once its last update has been taken: an agent drops the updates of a framework
    that is being torn down, and acknowledges none (slave.cpp, statusUpdate).
    """

    checkpoint: bool
    recovery_timeout: float
    backoff_max: float
    registration_timeout: float
    subscribe_timeout: float
    ack_timeout: float
    watchdog: float
    heartbeat_interval: float
    farewell: float = 0.5

    @property
    def busy_delay(self) -> float:
        """How long an agent that is not ready yet (503, 404, 500) is left alone."""
        return max(LEAST_DELAY, min(1.0, self.backoff_max))


class Phase(enum.Enum):
    """Where the session is."""

    WAITING = "waiting"
    SUBSCRIBING = "subscribing"
    SUBSCRIBED = "subscribed"
    CLOSED = "closed"


class Input(enum.Enum):
    """What can happen to a session. The first six come from the agent, the next four tell of a connection,
    then what the executor wants, and what has become due.
    """

    SUBSCRIBED = enum.auto()
    ACKNOWLEDGED = enum.auto()
    SHUTDOWN = enum.auto()
    TASKS = enum.auto()
    """LAUNCH, LAUNCH_GROUP, KILL or MESSAGE."""
    NOTICE = enum.auto()
    """ERROR, HEARTBEAT, and whatever is unknown or incomplete."""
    REFUSED = enum.auto()
    """SUBSCRIBE was answered with a status other than 200."""
    LOST = enum.auto()
    """The connection could not be made, or the stream has ended."""
    UNDELIVERED = enum.auto()
    """An update could not be posted."""
    SILENT = enum.auto()
    """Nothing was heard for too long."""
    UPDATE = enum.auto()
    MESSAGE = enum.auto()
    RETRY = enum.auto()
    HEARTBEAT = enum.auto()
    GIVEN_UP = enum.auto()
    """No subscription within the time for registration or recovery."""
