"""HTTP/1.1 for either end of a connection, with a budget for all that the other end may send. RFC 9112.

The protocol is h11's. What h11 leaves to its caller is here: how many bytes a head may have, how many fields,
how many interim answers may come before the real one, how long a body may be. Neither end does I/O or reads
a clock: bytes that came go into `receive` (none for the end of the stream), `next` says what they mean, and
whoever owns the socket gives the conversation a deadline and other work its turn.

h11 is stricter in places than servers are, and takes its time. A client's bytes pass a reader (`_Front`)
that takes the blanks out of a chunk's size line, which RFC 9112 7.1.1 allows, makes one of many small chunks,
and for a caller that asks for it (`lenient`: health checks, which look at the head alone) takes out of a head
what h11 would refuse and curl does not.
"""

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import h11

T = TypeVar("T")

MAX_LINE = 4096
"""Bytes of a chunk's size line."""

MAX_JOINED = 64 * 1024
"""Bytes of small chunks that are handed on as one."""

CUT_SHORT = "the connection was closed inside an answer"

MAX_SHOWN = 160
"""Characters of a peer's bytes in an error's text."""

Fields = Sequence[tuple[str, str]]


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


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer. Names of fields are in lower case; texts are Latin-1, a character a byte."""

    status: int
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request, likewise. A field that came twice has its values joined by commas."""

    method: str
    target: str
    fields: dict[str, str]


class _Part(enum.Enum):
    HEAD = enum.auto()
    REST = enum.auto()
    """A body that h11 can measure alone, and whatever follows an answer."""
    SIZE = enum.auto()
    CHUNK = enum.auto()
    TRAILER = enum.auto()


class Client:
    """The client's end of a connection: one request after the other, each answer read to its end first."""

    def __init__(self, budget: Budget, *, lenient: bool = False) -> None:
        self._budget = budget
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=budget.head + MAX_LINE)
        self._front = _Front(budget, lenient)
        self._interim = 0
        self._length = 0
        self.ended = False
        """Whether the answer has been read to its end."""

    def request(self, method: str, target: str, fields: Fields, body: bytes = b"") -> bytes:
        """The bytes of a request. Raises HttpError where it cannot be written; the text holds no value."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
            self._front = _Front(self._budget, self._front.lenient)
        self._interim = self._length = 0
        self.ended = False
        try:
            head = h11.Request(method=method, target=target, headers=list(fields))
            parts = [self._h11.send(head), self._h11.send(h11.Data(body)), self._h11.send(h11.EndOfMessage())]
        except h11.LocalProtocolError:
            raise HttpError("the request has a field or a target that HTTP cannot carry") from None
        return b"".join(part or b"" for part in parts)

    def receive(self, data: bytes) -> None:
        """Take what came on the connection; none is its end."""
        self._front.receive(data)

    def next(self) -> Answer | bytes | None:
        """The head of the answer, then pieces of its body, of which an empty one is the end (`ended`); None:
        more has to come. Raises HttpError.
        """
        while not self.ended:
            try:
                event = _spoken(self._h11.next_event)
            except HttpError as error:
                raise (HttpError(CUT_SHORT) if self._front.exhausted else error) from None
            if event is h11.NEED_DATA:
                piece = self._front.take()
                if piece is None:
                    return None
                _spoken(partial(self._h11.receive_data, piece))
            elif isinstance(event, h11.InformationalResponse):
                self._interim += 1
                if self._interim > self._budget.interim:
                    raise HttpError(f"more than {self._budget.interim} interim answers and no real one")
            elif isinstance(event, h11.Response):
                _version_one(event)
                fields = _texts(event.headers)
                self._front.begin_body(chunked=_chunked(event.status_code, fields))
                return Answer(event.status_code, fields)
            elif isinstance(event, h11.Data):
                self._length = _within(self._length + len(event.data), self._budget)
                return bytes(event.data)
            else:
                self.ended = True
        return b""

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the answer has ended, neither side closes, and nothing came
        that was not asked for.
        """
        return self.keeps_open and not self._h11.trailing_data[0] and self._front.empty

    @property
    def keeps_open(self) -> bool:
        """Whether the answer has ended and neither side closes, whatever has come behind it."""
        return (self._h11.our_state, self._h11.their_state) == (h11.DONE, h11.DONE)

    @property
    def behind(self) -> bytes:
        """What came behind the end of the answer: the next one's, where requests were sent ahead."""
        return self._h11.trailing_data[0] + self._front.waiting


class Server:
    """The server's end of a connection."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=budget.head)
        self._length = 0
        self._bodiless = False
        self.open = True
        """Whether a request may follow; false from an answer on after which the connection is closed."""

    def receive(self, data: bytes) -> None:
        """Take what came on the connection; none is its end. Raises HttpError."""
        _spoken(partial(self._h11.receive_data, data))

    def next(self) -> Request | bytes | None:
        """The head of a request, then pieces of its body, of which an empty one is its end, or that of the
        connection (`closed`); None: more has to come. Raises HttpError.
        """
        event = _spoken(self._h11.next_event)
        if isinstance(event, h11.Request):
            self._length = 0
            _version_one(event)
            if len(event.headers) > self._budget.fields:
                raise HttpError(f"more than {self._budget.fields} header fields")
            # h11 counts what it waits for, so a head that comes at once is not counted there.
            size = len(event.target) + sum(len(name) + len(value) + 4 for name, value in event.headers)
            if size > self._budget.head:
                raise HttpError(f"a head of more than {self._budget.head} bytes")
            self._bodiless = event.method == b"HEAD"
            method, target = event.method.decode("latin-1"), event.target.decode("latin-1")
            return Request(method, target, _texts(event.headers))
        if isinstance(event, h11.Data):
            self._length = _within(self._length + len(event.data), self._budget)
            return bytes(event.data)
        return None if event in (h11.NEED_DATA, h11.PAUSED) else b""

    @property
    def begun(self) -> bool:
        """Whether bytes of a request have come that is not answered yet."""
        return bool(self._h11.trailing_data[0]) or self._h11.their_state is h11.SEND_BODY

    @property
    def closed(self) -> bool:
        """Whether the client has closed the connection, between two requests."""
        return self._h11.their_state is h11.CLOSED

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits to be told to send the body (Expect: 100-continue)."""
        return self._h11.they_are_waiting_for_100_continue

    def proceed(self) -> bytes:
        """The interim answer that such a client waits for."""
        return self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    def head(self, status: int, reason: str, fields: Fields) -> bytes:
        """The head of an answer: with a Content-Length among the fields, or chunked if there is none."""
        answer = h11.Response(status_code=status, reason=reason.encode(), headers=list(fields))
        return self._h11.send(answer) or b""

    def body(self, data: bytes) -> bytes:
        """A piece of its body, as one chunk if it is chunked; nothing where HEAD was asked."""
        return b"" if self._bodiless else self._h11.send(h11.Data(data)) or b""

    def end(self) -> bytes:
        """The end of the answer. Where the connection stays `open`, `next` looks at the next request."""
        last = self._h11.send(h11.EndOfMessage()) or b""
        self.open = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if self.open:
            self._h11.start_next_cycle()
        return last

    def answer(self, status: int, reason: str, fields: Fields, body: bytes) -> bytes:
        """A whole answer; `fields` without its length."""
        sized = [*fields, ("Content-Length", str(len(body)))]
        return self.head(status, reason, sized) + self.body(body) + self.end()


class _Front:
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
                return _plain(head) if head is not None and self.lenient else head
            case _Part.SIZE:
                return self._size()
            case _Part.CHUNK:
                piece = self._cut(min(self._chunk, len(self._buffer)))
                self._chunk -= len(piece)
                if self._chunk == 0:
                    self._part = _Part.SIZE
                return piece or None
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

    def _size(self) -> bytes | None:
        """A chunk's size line; or where whole chunks have come, as many as there are, made one."""
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
            return b"%x\r\n%s\r\n" % (length, b"".join(joined))
        if found is None:
            return None
        self._cut(found[0])
        self._chunk = found[1]
        self._part = _Part.CHUNK if self._chunk else _Part.TRAILER
        line = b"%x\r\n" % self._chunk
        if self._chunk:
            self._chunk += 2  # its own end of line
        return line

    def _chunk_at(self, at: int) -> tuple[int, int] | None:
        """Where the data of the chunk begin whose size line is here, and their length; None: not all came."""
        end = self._buffer.find(b"\n", at, at + MAX_LINE)
        if end < 0:
            if len(self._buffer) - at >= MAX_LINE:
                raise HttpError("a line without an end where a chunk should begin")
            return None
        size = bytes(self._buffer[at:end]).partition(b";")[0].strip()
        if not size or len(size) > 16 or not _HEX.issuperset(size):
            raise HttpError(f"a chunk has no size: {_shown(bytes(self._buffer[at:end]))}")
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


def _plain(head: bytes) -> bytes:
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


def _chunked(status: int, fields: dict[str, str]) -> bool:
    return status not in (204, 304) and "transfer-encoding" in fields


def _version_one(head: h11.Request | h11.Response) -> None:
    if not head.http_version.startswith(b"1."):
        raise HttpError(f"HTTP/{head.http_version.decode('latin-1')} is not spoken here")


def _texts(headers: h11._headers.Headers) -> dict[str, str]:
    fields: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _within(length: int, budget: Budget) -> int:
    if budget.body is not None and length > budget.body:
        raise HttpError(f"a body of more than {budget.body} bytes")
    return length


def _spoken(act: Callable[[], T]) -> T:
    try:
        return act()
    except h11.RemoteProtocolError as error:
        text = str(error)
        raise HttpError(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…") from None


def _shown(data: bytes) -> str:
    return repr(data[:MAX_SHOWN])
