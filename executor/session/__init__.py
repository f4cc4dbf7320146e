"""The subscription: a state machine without I/O, threads or a clock."""

from executor.session.actions import (
    Acknowledged,
    Action,
    Deliver,
    Drained,
    Drop,
    Send,
    Shutdown,
    Subscribe,
)
from executor.session.policy import Policy
from executor.session.session import Phase, Session

__all__ = [
    "Acknowledged",
    "Action",
    "Deliver",
    "Drained",
    "Drop",
    "Phase",
    "Policy",
    "Send",
    "Session",
    "Shutdown",
    "Subscribe",
]
