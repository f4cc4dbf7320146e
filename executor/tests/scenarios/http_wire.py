"""HTTP/1.1 as the scripted agent speaks it: requests read from, and responses written to, a bare socket.

No HTTP library stands between the test and the bytes, because half of the scenarios are about bytes: chunk
boundaries, requests that are never answered, connections that end in the middle of a header.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

HEAD_LIMIT = 64 * 1024
REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    415: "Unsupported Media Type",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class ConnectionEndedError(Exception):
    """The peer closed the connection, or the test asked for its end (`Reader.wake`)."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: header names are lower-cased, values kept as they came."""

    method: str
    path: str
    headers: Mapping[str, str]
    repeated: frozenset[str]
    body: bytes


class Reader:
    """Reads requests from a socket; another thread ends a blocked read with `wake`.

    The thread that reads is also the one that closes: a close from elsewhere neither wakes a blocked
    `recv` nor sends the RST that a test asked for.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._woken, self._waker = socket.socketpair()

    def wake(self) -> None:
        self._waker.send(b"!")

    def close(self) -> None:
        self._woken.close()
        self._waker.close()

    def _more(self) -> None:
        pending = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0
        if not pending:
            ready, _, _ = select.select([self._socket, self._woken], [], [])
            if self._woken in ready:
                raise ConnectionEndedError
        try:
            data = self._socket.recv(1 << 20)
        except (ssl.SSLWantReadError, BlockingIOError):
            return
        except OSError as error:
            raise ConnectionEndedError from error
        if not data:
            raise ConnectionEndedError
        self._buffer += data

    def until_end(self) -> None:
        """Wait for the peer's close or for `wake` (ConnectionEndedError); drop what arrives before."""
        while True:
            self._buffer.clear()
            self._more()

    def until_woken(self) -> None:
        """As `until_end`, without reading: a TLS connection must not be read and written by two threads."""
        select.select([self._woken], [], [])
        raise ConnectionEndedError

    def woken(self, seconds: float) -> bool:
        """Whether `wake` was called, now or within some seconds."""
        return bool(select.select([self._woken], [], [], seconds)[0])

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise ConnectionEndedError
            self._more()
        return self._take(end + 2)[:-2]

    def request(self) -> Request:
        """The next request. Raises ConnectionEndedError at the end of the connection, also in mid-request."""
        method, path, _version = self._line().decode("ascii").split(" ", 2)
        headers: dict[str, str] = {}
        repeated: set[str] = set()
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            name = name.lower()
            if name in headers:
                repeated.add(name)
            headers[name] = value.strip()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._chunked_body()
        else:
            body = self._take(int(headers.get("content-length", "0")))
        return Request(method, path, headers, frozenset(repeated), body)

    def _chunked_body(self) -> bytes:
        body = bytearray()
        while size := int(self._line().split(b";")[0], 16):
            body += self._take(size)
            self._line()
        self._line()
        return bytes(body)


def response(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """A whole response with a Content-Length."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def stream_head(content_type: str) -> bytes:
    """The head of the response to SUBSCRIBE: chunked, without an end."""
    return (f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n").encode(
        "ascii"
    )


def chunk(data: bytes) -> bytes:
    """`data` as one HTTP chunk; empty data would end the body and is refused."""
    if not data:
        raise ValueError("an empty chunk ends the body: use EventStream.end()")
    return f"{len(data):x}\r\n".encode("ascii") + data + b"\r\n"
