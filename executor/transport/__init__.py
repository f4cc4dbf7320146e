"""HTTP with the agent: two connections over TCP, TLS or a Unix socket."""

from executor.transport.client import Link
from executor.transport.dial import DialError, Dialler
from executor.transport.reports import (
    CallAnswered,
    EventReceived,
    Noise,
    Report,
    StreamLost,
    StreamOpened,
    StreamRefused,
    Target,
)

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
