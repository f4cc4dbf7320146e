"""What a session (session.py) is told, and what it asks its driver to do."""

import enum
from dataclasses import dataclass

from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk.calls import Call

Event = scheduler_pb2.Event


# ---- inputs


@dataclass(frozen=True, slots=True)
class Start:
    """Begin, or begin again after SUPERSEDED (leadership was looked at once more)."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer's head to SUBSCRIBE, its body's beginning where it is a refusal. `generation` as in
    OpenStream.
    """

    generation: int
    status: int
    stream_id: str = ""
    location: str = ""
    content_type: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """A record of the stream: an event, or None for one that could not be decoded."""

    generation: int
    event: Event | None


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream's connection could not be made, or ended."""

    generation: int
    why: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to a call."""

    token: int
    status: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class CallLost:
    """No answer to a call. `sent` is False if not one byte of it can have reached the master."""

    token: int
    why: str
    sent: bool


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, as a detector says: `host:port`, or "" if nobody does at present."""

    address: str


@dataclass(frozen=True, slots=True)
class Say:
    """A call of the framework's own. `token` names it in `Outcome`."""

    token: int
    call: Call


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed. Give it at `Session.alarm`."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave; the framework's tasks go on (it may come back with its id)."""


Input = Start | Opened | Received | Lost | Answered | CallLost | Leader | Say | Tick | Stop


# ---- actions


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Send SUBSCRIBE to `master` over a new connection in place of any other; `generation` names it."""

    generation: int
    master: str
    call: Call


@dataclass(frozen=True, slots=True)
class SendCall:
    """Send a call on the calls' connection, which is made to `master` if there is none."""

    token: int
    master: str
    stream_id: str
    call: Call


@dataclass(frozen=True, slots=True)
class CloseAll:
    """Close both connections."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """An event for the framework; never HEARTBEAT, never one of an older stream."""

    event: Event


@dataclass(frozen=True, slots=True)
class Connected:
    """Subscribed. Everything known of offers is void; the id must be stored before anything is launched."""

    framework_id: str
    master: str
    first: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """No longer subscribed."""

    why: str


class Fate(enum.Enum):
    """What became of a call."""

    TAKEN = "taken"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    NOT_SENT = "not sent"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call that the framework made. TAKEN promises nothing beyond being parsed."""

    token: int
    fate: Fate
    status: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class RefreshCredential:
    """The master took the credential for none: fetch it anew before the next attempt."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """Another instance subscribed with our id. Nothing is sent any more until Start is given again."""

    why: str


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no point in going on; an operator must decide."""

    why: str


Action = (
    OpenStream
    | SendCall
    | CloseAll
    | Deliver
    | Connected
    | Disconnected
    | Outcome
    | RefreshCredential
    | Superseded
    | Failed
)
