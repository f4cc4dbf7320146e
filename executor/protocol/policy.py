"""The clocks that a session lives under."""

from dataclasses import dataclass

MIN_DELAY = 0.1
"""Seconds between a failed attempt and the next, at least: an agent's own limit may be 0."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds; 0 switches `watchdog` and `heartbeat_interval` off. `checkpoint` decides what a lost
    stream means."""

    checkpoint: bool
    recovery_timeout: float
    backoff_max: float
    registration_timeout: float
    subscribe_timeout: float
    ack_timeout: float
    watchdog: float
    heartbeat_interval: float

    @property
    def busy_delay(self) -> float:
        """How long an agent that is not ready yet (503, 404, 500) is left alone."""
        return max(MIN_DELAY, min(1.0, self.backoff_max))
