"""What the link reports to its owner, always with the attempt it belongs to."""

from dataclasses import dataclass

from mesos.v1.executor import executor_pb2


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """SUBSCRIBE was taken. `address` is our own end's IP address, None on a Unix socket."""

    attempt: int
    address: str | None


@dataclass(frozen=True, slots=True)
class EventReceived:
    """An event came on the stream."""

    attempt: int
    event: executor_pb2.Event


@dataclass(frozen=True, slots=True)
class Noise:
    """A record came that holds no event."""

    attempt: int


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """SUBSCRIBE was answered with a status other than 200."""

    attempt: int
    status: int
    body: str


@dataclass(frozen=True, slots=True)
class StreamLost:
    """The stream could not be opened, or has ended."""

    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class CallAnswered:
    """A call was answered with a status; None: it could not be posted. `uuid` names the update in it, if
    any."""

    attempt: int
    uuid: bytes | None
    status: int | None
    body: str


Report = StreamOpened | EventReceived | Noise | StreamRefused | StreamLost | CallAnswered
