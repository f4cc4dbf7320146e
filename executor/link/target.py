"""Where and how calls are posted, and the one place that writes a request."""

import http.client
import socket
from dataclasses import dataclass, field

from executor.codec import Encoding
from executor.link.dial import Dialler

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

    def connection(self, sock: socket.socket) -> http.client.HTTPConnection:
        """HTTP over a connected socket."""
        connection = http.client.HTTPConnection(self.dialler.endpoint.authority)
        connection.sock = sock
        connection.auto_open = 0
        return connection

    def post(self, connection: http.client.HTTPConnection, body: bytes, *, subscribing: bool) -> None:
        """Write a POST with exactly the headers an agent wants: it refuses any parameter of the types."""
        path = self.dialler.endpoint.executor_path
        connection.putrequest("POST", path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", self.dialler.endpoint.authority)
        connection.putheader("Content-Type", self.encoding.content_type)
        connection.putheader("Content-Length", str(len(body)))
        if subscribing:
            connection.putheader("Accept", self.encoding.content_type)
        connection.putheader("Connection", "keep-alive")
        if self.token is not None:
            connection.putheader("Authorization", f"Bearer {self.token}")
        connection.endheaders(body)


def answer_text(response: http.client.HTTPResponse) -> str:
    """The answer's body read to its end, so that the connection can be used again; its first bytes as
    text."""
    text = response.read(MAX_ERROR_TEXT).decode("utf-8", "replace")
    while response.read1(65536):
        pass
    return " ".join(text.split())
