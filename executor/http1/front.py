"""What a server sends, cut into heads and the data of chunks, each held to its budget.

Heads and what h11 can measure alone go on to it (`take`); chunks are read here (`chunk_data`), many small
ones at once. A line that tells a chunk's size may have blanks in it, as RFC 9112 7.1.1 allows.
"""

import enum
import re
from dataclasses import dataclass

MAX_LINE = 4096
"""Bytes of a chunk's size line."""

MAX_JOINED = 64 * 1024
"""Bytes of small chunks that are handed on as one."""

CUT_SHORT = "the connection was closed inside an answer"

MAX_SHOWN = 160
"""Characters of a peer's bytes in an error's text."""


class HttpError(Exception):
    """What came is no HTTP, is more than its budget, or ended too soon."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a peer may send. `head`: bytes of one head, or of a chunked body's trailer; `fields`: header
    fields in it; `interim`: answers of status 1xx before the real one; `body`: bytes, None for a body without
    end.
    """

    head: int = 64 * 1024
    fields: int = 256
    interim: int = 16
    body: int | None = None


class _Part(enum.Enum):
    HEAD = enum.auto()
    REST = enum.auto()
    """A body that h11 can measure alone, and whatever follows an answer."""
    SIZE = enum.auto()
    CHUNK = enum.auto()
    CHUNK_END = enum.auto()
    TRAILER = enum.auto()


class Front:
    """Cuts what a server sends into heads, size lines and chunks, each held to its budget, for h11."""

    def __init__(self, budget: Budget, lenient: bool) -> None:
        self.lenient = lenient
        self._budget = budget
        self._part = _Part.HEAD
        self._buffer = bytearray()
        self._searched = 0
        self._chunk = 0
        self._at_end = False
        self._heard = False

    @property
    def empty(self) -> bool:
        return not self._buffer and not self._at_end

    @property
    def waiting(self) -> bytes:
        """What h11 has not seen."""
        return bytes(self._buffer)

    @property
    def exhausted(self) -> bool:
        """Whether h11 has seen all, and the end of it."""
        return not self._buffer and self._at_end

    def receive(self, data: bytes) -> None:
        self._at_end = self._at_end or not data
        self._heard = self._heard or bool(data)
        self._buffer += data

    def begin_body(self, *, chunked: bool) -> None:
        """The head that was taken last was the answer's."""
        self._part = _Part.SIZE if chunked else _Part.REST

    @property
    def chunks(self) -> bool:
        """Whether what comes next is of a chunked body's data: for `chunk_data`, not for `take`."""
        return self._part in (_Part.SIZE, _Part.CHUNK, _Part.CHUNK_END)

    def chunk_data(self) -> bytes | None:
        """The next bytes of a chunked body; none once its last chunk has come, which h11 is to be told; None
        when more has to come.
        """
        if self._part is _Part.CHUNK_END and len(self._buffer) >= 2:
            if self._cut(2) != b"\r\n":
                raise HttpError("a chunk does not end where it should")
            self._part = _Part.SIZE
        data = self._whole_chunks() if self._part is _Part.SIZE else b""
        if not data and self._part is _Part.CHUNK:
            data = self._cut(min(self._chunk, len(self._buffer)))
            self._chunk -= len(data)
            if self._chunk == 0:
                self._part = _Part.CHUNK_END
        if data or self._part is _Part.TRAILER:
            return data
        if self._at_end:
            raise HttpError(CUT_SHORT)
        return None

    def take(self) -> bytes | None:
        """What h11 is to see next: nothing once at the end of the stream, None when more has to come."""
        piece = self._piece()
        if piece is None and self._at_end and self._part is not _Part.REST:
            raise HttpError(CUT_SHORT if self._heard else "the connection was closed without an answer")
        return piece

    def _piece(self) -> bytes | None:
        match self._part:
            case _Part.HEAD:
                head = self._block()
                return plain(head) if head is not None and self.lenient else head
            case _Part.TRAILER:
                trailer = self._block()
                if trailer is not None:
                    self._part = _Part.REST
                return trailer
        if self._buffer:
            return self._cut(len(self._buffer))
        return b"" if self._at_end else None

    def _block(self) -> bytes | None:
        """Lines up to the empty one that ends them."""
        if self._part is _Part.TRAILER and self._buffer.startswith((b"\r\n", b"\n")):
            return self._cut(self._buffer.index(b"\n") + 1)
        found = _BLANK_LINE.search(self._buffer, self._searched)
        # The blank line may have begun in the last three bytes.
        self._searched = max(0, len(self._buffer) - 3)
        size = found.end() if found else len(self._buffer)
        if size > self._budget.head:
            raise HttpError(f"a head of more than {self._budget.head} bytes")
        if not found:
            return None
        block = self._cut(size)
        if block.count(b"\n") - 2 > self._budget.fields:
            raise HttpError(f"more than {self._budget.fields} header fields")
        return block

    def _whole_chunks(self) -> bytes:
        """The data of as many chunks as have come whole; none where the next has not, whose data then follow,
        or the trailer.
        """
        joined: list[bytearray] = []
        at = length = 0
        while length < MAX_JOINED:
            try:
                found = self._chunk_at(at)
            except HttpError:
                if not joined:
                    raise
                break  # what came before it counts
            if found is None or found[1] == 0 or found[0] + found[1] + 2 > len(self._buffer):
                break
            start, size = found
            if self._buffer[start + size : start + size + 2] != b"\r\n":
                if not joined:
                    raise HttpError("a chunk does not end where it should")
                break
            joined.append(self._buffer[start : start + size])
            length += size
            at = start + size + 2
        if joined:
            self._cut(at)
            return b"".join(joined)
        if found is not None:
            self._cut(found[0])
            self._chunk = found[1]
            self._part = _Part.CHUNK if self._chunk else _Part.TRAILER
        return b""

    def _chunk_at(self, at: int) -> tuple[int, int] | None:
        """Where the data of the chunk begin whose size line is here, and their length; None: not all came."""
        end = self._buffer.find(b"\n", at, at + MAX_LINE)
        if end < 0:
            if len(self._buffer) - at >= MAX_LINE:
                raise HttpError("a line without an end where a chunk should begin")
            return None
        size = bytes(self._buffer[at:end]).partition(b";")[0].strip()
        if not size or len(size) > 16 or not _HEX.issuperset(size):
            raise HttpError(f"a chunk has no size: {shown(bytes(self._buffer[at:end]))}")
        return end + 1, int(size, 16)

    def _cut(self, size: int) -> bytes:
        piece = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._searched = 0
        return piece


_BLANK_LINE = re.compile(rb"\n\r?\n")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_CONTROLS = bytes(set(range(32)) - {9}) + b"\x7f"
_FRAMING = (b"content-length", b"transfer-encoding")


def plain(head: bytes) -> bytes:
    """A head as h11 wants it, of one that a lenient client would understand.

    The fields that say how long the body is go, as it is not read. What is no HTTP stays what it is.
    """
    first, *lines = head.split(b"\n")
    words = first.split(None, 2)
    if len(words) < 2 or not re.fullmatch(rb"HTTP/1\.\d", words[0]):
        return head
    plain = [b"HTTP/1.1 " + words[1]]
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.strip()
        if colon and _TOKEN.fullmatch(name) and name.lower() not in _FRAMING:
            plain.append(name + b": " + value.translate(None, _CONTROLS).strip())
    return b"\r\n".join([*plain, b"", b""])


def shown(data: bytes) -> str:
    return repr(data[:MAX_SHOWN])
