"""HTTP/1.1 as far as an executor needs it: POST with a body, an answer that may never end. RFC 9112.

`http.client` would do, at the price of 5 MB and 17 ms for parsers of mail headers and for OpenSSL, which
plain connections do not need; see the README. Sockets come connected: TLS and Unix look the same here.
"""

import socket
from collections.abc import Sequence

OK = 200
MAX_HEAD = 64 * 1024
"""Bytes of an answer's status line and header fields together."""
MAX_LINE = 4096
"""Bytes of a chunk's size line or of a trailer field."""
READ_SIZE = 64 * 1024

_HEX = frozenset(b"0123456789abcdefABCDEF")


class HttpError(Exception):
    """What came is no HTTP answer, or it ended too soon."""


class HttpConnection:
    """One connection; calls one after the other, each answer read to its end before the next."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._length: int | None = None
        """Body bytes that are left, or of the current chunk; None where the body ends with the
        connection."""
        self._chunked = False
        self._first_chunk = True
        self._ended = True
        self.reusable = True

    def post(self, path: str, fields: Sequence[tuple[str, str]], body: bytes) -> None:
        """Send a request. Raises OSError."""
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
        self._sock.sendall("\r\n".join(lines).encode("latin-1") + body)

    def read_head(self) -> int:
        """The status of the answer. Raises HttpError and OSError."""
        status, fields, version = self._next_head()
        while 100 <= status < 200:
            status, fields, version = self._next_head()
        self._chunked = fields.get("transfer-encoding", "").lower() == "chunked"
        self._length = None
        if self._chunked:
            self._length = 0
        elif "content-length" in fields:
            self._length = _decimal(fields["content-length"])
        self._ended = status in (204, 304) or (self._length == 0 and not self._chunked)
        tokens = fields.get("connection", "").lower()
        self.reusable = (
            version == "HTTP/1.1" and "close" not in tokens and (self._length is not None or self._ended)
        )
        self._first_chunk = True
        return status

    def read_some(self) -> bytes:
        """The next bytes of the body as they come; none at its end. Raises HttpError and OSError."""
        if self._ended:
            return b""
        if self._chunked and self._length == 0:
            self._begin_chunk()
            if self._ended:
                return b""
        if self._length is None:
            return self._take(READ_SIZE, at_end=True)
        data = self._take(min(READ_SIZE, self._length))
        self._length -= len(data)
        if self._length == 0 and not self._chunked:
            self._ended = True
        return data

    def read_text(self, limit: int) -> str:
        """The body to its end, of which the first `limit` bytes as one line of text."""
        kept = b""
        while data := self.read_some():
            kept += data[: limit - len(kept)]
        return " ".join(kept.decode("utf-8", "replace").split())

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _next_head(self) -> tuple[int, dict[str, str], str]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD:
                raise HttpError(f"the agent's answer begins with more than {MAX_HEAD} bytes of header")
            self._fill("without an answer" if not self._buffer else "inside an answer")
        first, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = first.partition(" ")
        number = rest[:3]
        if not (version.startswith("HTTP/1.") and number.isascii() and number.isdigit() and len(number) == 3):
            raise HttpError(f"the agent answers what is no HTTP: {first[:80]!r}")
        fields = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise HttpError(f"the agent's answer has a header field without a colon: {line[:80]!r}")
            fields[name.lower()] = value.strip()
        return int(number), fields, version

    def _begin_chunk(self) -> None:
        """Read a chunk's size, and behind the last one the trailer."""
        if self._first_chunk:
            self._first_chunk = False
        elif self._line():
            raise HttpError("a chunk of the agent's answer does not end where it should")
        size = self._line().partition(b";")[0].strip()
        if not size or len(size) > 16 or not _HEX.issuperset(size):
            raise HttpError(f"a chunk of the agent's answer has no size: {bytes(size[:20])!r}")
        self._length = int(size, 16)
        if self._length == 0:
            while self._line():
                continue
            self._ended = True

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n", 0, MAX_LINE)) < 0:
            if len(self._buffer) >= MAX_LINE:
                raise HttpError("the agent's answer has a line without an end where a chunk should begin")
            self._fill("inside an answer")
        line = bytes(self._buffer[:end]).rstrip(b"\r")
        del self._buffer[: end + 1]
        return line

    def _take(self, limit: int, *, at_end: bool = False) -> bytes:
        if self._buffer:
            data = bytes(self._buffer[:limit])
            del self._buffer[:limit]
            return data
        data = self._sock.recv(limit)
        if not data:
            if not at_end:
                raise HttpError("the agent closed the connection inside an answer")
            self._ended = True
        return data

    def _fill(self, where: str) -> None:
        data = self._sock.recv(READ_SIZE)
        if not data:
            raise HttpError(f"the agent closed the connection {where}")
        self._buffer += data


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise HttpError(f"the agent's answer has a length that is no number: {text[:20]!r}")
    return int(text)
