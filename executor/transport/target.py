"""Where and how calls are posted, and the one place that writes a request."""

from dataclasses import dataclass, field

from executor.protocol import Encoding
from executor.transport.dial import Dialler
from executor.transport.http1 import HttpConnection

MAX_ERROR_TEXT = 500
"""Bytes of an error answer's body that are kept for the log."""


@dataclass(frozen=True, slots=True)
class Target:
    """The agent's executor API. `timeout` (seconds) bounds the wait for the answer to a call."""

    dialler: Dialler
    encoding: Encoding
    token: str | None = field(repr=False)
    max_record: int
    timeout: float

    def post(self, connection: HttpConnection, body: bytes, *, subscribing: bool) -> int:
        """Post a call and read the status of its answer. Raises HttpError and OSError.

        The headers are exactly what an agent wants: it refuses any parameter of the types.
        """
        endpoint = self.dialler.endpoint
        fields = [
            ("Host", endpoint.authority),
            ("Content-Type", self.encoding.content_type),
            ("Content-Length", str(len(body))),
            ("Connection", "keep-alive"),
        ]
        if subscribing:
            fields.append(("Accept", self.encoding.content_type))
        if self.token is not None:
            fields.append(("Authorization", f"Bearer {self.token}"))
        connection.post(endpoint.executor_path, fields, body)
        return connection.read_head()
