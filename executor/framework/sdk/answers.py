"""What a master's words mean: texts of ERROR and of refusals (src/master/{http,master}.cpp), where it sends
on to, which events are whole.
"""

import re

from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk.calls import Call

Event = scheduler_pb2.Event

_FATAL = (
    re.compile(r"Framework has been removed"),
    re.compile(r"Changing framework's principal"),
    re.compile(r"Not authorized|Authorization failure"),
    re.compile(r"Roles \{|'FrameworkInfo\.role|Suppressed roles|Offer constraints|[Ii]nvalid"),
    re.compile(r"User 'root' is not allowed"),
)
_SUPERSEDED = re.compile(r"Framework failed over")
_SUPERSEDED_CALL = re.compile(r"[Ss]tream.?[Ii][Dd]")


def superseded(error: str) -> bool:
    """Whether an ERROR says that another instance subscribed with our id."""
    return _SUPERSEDED.search(error) is not None


def superseded_call(refusal: str) -> bool:
    """Whether a call's refusal says so."""
    return _SUPERSEDED_CALL.search(refusal) is not None


def ends_subscription(status: int, text: str, call: Call) -> bool:
    """Whether a call's refusal means that only a new subscription helps: the master does not lead any more,
    or does not know this framework. A change that is not authorized is refused again with each.
    """
    if status == 403 and call.type == Call.UPDATE_FRAMEWORK:
        return "not subscribed" in text
    return status in (307, 401, 403, 503) or (status == 400 and "cannot be found" in text)


def of_constraints(error: str) -> bool:
    """Whether an ERROR is about offer constraints."""
    return error.startswith("Offer constraints")


def fatal(error: str) -> bool:
    """Whether there is no use to subscribe again after an ERROR."""
    return any(pattern.search(error) for pattern in _FATAL)


def leader_of(location: str) -> str:
    """`host:port` out of a Location header, "" if there is none. Masters write `//host:port/path`, their
    documentation `host:port`.
    """
    rest = re.sub(r"^[a-zA-Z][a-zA-Z0-9+.-]*:(?=//)", "", location)
    found = re.match(r"(?://)?(\[[0-9a-fA-F:.]+\]:\d{1,5}|[A-Za-z0-9._-]+:\d{1,5})(?:[/?#]|$)", rest)
    return found[1] if found is not None else ""


_BODIES = {
    Event.SUBSCRIBED: "subscribed",
    Event.OFFERS: "offers",
    Event.INVERSE_OFFERS: "inverse_offers",
    Event.RESCIND: "rescind",
    Event.RESCIND_INVERSE_OFFER: "rescind_inverse_offer",
    Event.UPDATE: "update",
    Event.UPDATE_OPERATION_STATUS: "update_operation_status",
    Event.MESSAGE: "message",
    Event.FAILURE: "failure",
    Event.ERROR: "error",
}


def has_body(event: Event) -> bool:
    """Whether an event holds what its type says."""
    name = _BODIES.get(event.type)
    return name is not None and event.HasField(name)
