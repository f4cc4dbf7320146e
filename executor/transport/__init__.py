"""HTTP with the agent: two connections over TCP, TLS or a Unix socket."""

from executor.transport.client import (
    CallAnswered,
    EventReceived,
    Link,
    Noise,
    Report,
    StreamLost,
    StreamOpened,
    StreamRefused,
    Target,
)
from executor.transport.dial import DialError, Dialler

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
