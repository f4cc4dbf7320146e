"""What the link is told, and what it tells: the agent's API, and reports with the attempt they belong to."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mesos.v1.executor import executor_pb2

from executor.protocol import Encoding
from executor.transport.connection import HttpConnection
from executor.transport.dial import Dialler


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """SUBSCRIBE was taken. `address` is our own end's IP address, None on a Unix socket."""

    attempt: int
    address: str | None


@dataclass(frozen=True, slots=True)
class EventReceived:
    """An event came on the stream. `damaged`: its fields that held no text, and were repaired."""

    attempt: int
    event: executor_pb2.Event
    damaged: tuple[str, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Target:
    """The agent's executor API. `timeout` (seconds) bounds a call as a whole, and the wait for the head of
    the answer to SUBSCRIBE."""

    dialler: Dialler
    encoding: Encoding
    token: str | None = field(repr=False)
    max_record: int
    timeout: float

    def post(self, connection: HttpConnection, body: bytes, deadline: float, *, subscribing: bool) -> int:
        """Post a call and read the status of its answer. Raises what HttpConnection does."""
        fields = self._fields(body, subscribing=subscribing)
        connection.post(self.dialler.endpoint.executor_path, fields, body, deadline)
        return connection.read_head(deadline)

    def post_together(self, connection: HttpConnection, bodies: Sequence[bytes], deadline: float) -> int:
        """See HttpConnection: for calls."""
        requests = [(self._fields(body, subscribing=False), body) for body in bodies]
        return connection.post_together(self.dialler.endpoint.executor_path, requests, deadline)

    def follow(self, connection: HttpConnection, body: bytes) -> None:
        """Likewise."""
        fields = self._fields(body, subscribing=False)
        connection.follow(self.dialler.endpoint.executor_path, fields, body)

    def _fields(self, body: bytes, *, subscribing: bool) -> list[tuple[str, str]]:
        """Exactly what an agent wants: it refuses any parameter of the types."""
        fields = [
            ("Host", self.dialler.endpoint.authority),
            ("Content-Type", self.encoding.content_type),
            ("Content-Length", str(len(body))),
            ("Connection", "keep-alive"),
        ]
        if subscribing:
            fields.append(("Accept", self.encoding.content_type))
        if self.token is not None:
            fields.append(("Authorization", f"Bearer {self.token}"))
        return fields
