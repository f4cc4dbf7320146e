"""HTTP with the agent: two connections over TCP, TLS or a Unix socket."""

from executor.link.dial import DialError, Dialler
from executor.link.link import Link
from executor.link.reports import (
    CallAnswered,
    EventReceived,
    Noise,
    Report,
    StreamLost,
    StreamOpened,
    StreamRefused,
)
from executor.link.target import Target

__all__ = [
    "CallAnswered",
    "DialError",
    "Dialler",
    "EventReceived",
    "Link",
    "Noise",
    "Report",
    "StreamLost",
    "StreamOpened",
    "StreamRefused",
    "Target",
]
