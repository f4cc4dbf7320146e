"""HTTP/1.1 for either end of a connection, with a budget for all that the other end may send. RFC 9112.

The protocol is h11's. What h11 leaves to its caller is here: how many bytes a head may have, how many fields,
how many interim answers may come before the real one, how long a body may be. Neither end does I/O or reads
a clock: bytes that came go into `receive` (none for the end of the stream), `next` says what they mean, and
whoever owns the socket gives the conversation a deadline and other work its turn.

h11 is stricter in places than servers are, and takes its time. A client's bytes pass a reader (front.py) that
reads chunks itself, and for a caller that asks for it (`lenient`: health checks, which look at a head alone)
takes out of a head what h11 would refuse and curl does not. And an agent's answer to a call is, but for the
second in its Date, the answer to the call before, byte by byte: h11, which takes longer than all else about a
call, does not hear of such a pair of request and answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import h11

from executor.http1.front import CUT_SHORT, MAX_LINE, MAX_SHOWN, Budget, Front, HttpError

__all__ = ["Answer", "Budget", "Client", "Fields", "HttpError", "Request", "Server"]

T = TypeVar("T")

MAX_KNOWN = 1024
"""Bytes of an answer that is known again."""

LAST_CHUNK = b"0\r\n"

Fields = Sequence[tuple[str, str]]

_OPEN = ((h11.DONE, h11.DONE), (h11.IDLE, h11.IDLE))


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


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request as it was given."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def kind(self) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """What requests have in common that differ in their body alone."""
        length = ("Content-Length", str(len(self.body)))
        return (
            self.method,
            self.target,
            tuple(("its length", "") if one == length else one for one in self.fields),
        )

    @property
    def written(self) -> bytes:
        """As h11 writes it, where the fields are fit and say how long the body is."""
        lines = [
            f"{self.method} {self.target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in self.fields),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + self.body


@dataclass(frozen=True, slots=True)
class _Known:
    """A kind of request, and an answer to one: the whole of it, which had no body and left the connection
    open.
    """

    kind: object = field(repr=False)
    raw: bytes
    answer: Answer


class Client:
    """The client's end of a connection: one request after the other, each answer read to its end first."""

    def __init__(self, budget: Budget, *, lenient: bool = False) -> None:
        self._budget = budget
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=budget.head + MAX_LINE)
        self._front = Front(budget, lenient)
        self._interim = 0
        self._length = 0
        self._known: _Known | None = None
        self._asked: _Asked | None = None
        """The request under way, where its answer may come to be known."""
        self._answer: Answer | None = None
        self._raw = b""
        """What has come of the answer; h11 has seen it unless `_unseen`."""
        self._unseen = False
        self._rest = b""
        """What has come behind a known answer."""
        self.ended = False
        """Whether the answer has been read to its end."""

    def ahead(self, method: str, target: str, fields: Fields, body: bytes = b"") -> bytes | None:
        """A request to be sent ahead of the answers to those before (RFC 9112 9.3.2), and to be given to
        `request` when its answer is next. None unless one of its kind was answered without a body and with
        the connection left open.
        """
        asked = _Asked(method, target, tuple(fields), body)
        return asked.written if self._known is not None and self._known.kind == asked.kind else None

    def request(self, method: str, target: str, fields: Fields, body: bytes = b"") -> bytes:
        """The bytes of a request. Raises HttpError where it cannot be written; the text holds no value. What
        came behind the answer before is taken for the beginning of this one's.
        """
        came = self.behind
        if came != self._rest:
            self._begin_anew()
        asked = self._asked = _Asked(method, target, tuple(fields), body)
        self._raw, self._rest, self._answer = b"", b"", None
        self._unseen = self._known is not None and self._known.kind == asked.kind
        self.ended = False
        if self._unseen:
            data = asked.written
        else:
            self._known = None
            data = self._tell(asked)
            if self._front.lenient or data != asked.written:
                self._asked = None
        if came:
            self.receive(came)
        return data

    def _begin_anew(self) -> None:
        """h11 and the reader in front of it may hold what is of the next answer: others get it."""
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._budget.head + MAX_LINE)
        self._front = Front(self._budget, self._front.lenient)

    def _tell(self, asked: _Asked) -> bytes:
        """Have h11 write a request, and wait for its answer."""
        if self._h11.our_state is h11.DONE:
            self._h11.start_next_cycle()
            self._front = Front(self._budget, self._front.lenient)
        self._interim = self._length = 0
        try:
            head = h11.Request(method=asked.method, target=asked.target, headers=list(asked.fields))
            events = (head, h11.Data(asked.body), h11.EndOfMessage())
            parts = [self._h11.send(event) for event in events]
        except h11.LocalProtocolError:
            raise HttpError("the request has a field or a target that HTTP cannot carry") from None
        return b"".join(part or b"" for part in parts)

    def receive(self, data: bytes) -> None:
        """Take what came on the connection; none is its end."""
        if self._known is not None and self._unseen and data:
            raw, whole = self._raw + data, self._known.raw
            if raw.startswith(whole):
                self._raw, self._rest = whole, self._rest + raw[len(whole) :]
                return
        if self._asked is not None and len(self._raw) <= MAX_KNOWN:
            self._raw += data
        if not self._unseen:
            self._front.receive(data)
        elif not data or not self._known_so_far():
            # Another answer, or none: h11 hears of the request, and of all that has come since.
            assert self._asked is not None
            self._unseen = False
            self._known = None
            self._tell(self._asked)
            if self._raw:
                self._front.receive(self._raw)
            if not data:
                self._front.receive(data)

    def _known_so_far(self) -> bool:
        return self._known is not None and self._known.raw.startswith(self._raw)

    def _remember(self) -> None:
        """The answer has ended: it may be known from here on."""
        whole = 0 < len(self._raw) <= MAX_KNOWN
        if (
            self._asked is not None
            and self._answer is not None
            and whole
            and not self._length
            and self.keeps_open
        ):
            raw = self._raw[: len(self._raw) - len(self.behind)]
            self._known = _Known(self._asked.kind, raw, self._answer)

    def next(self) -> Answer | bytes | None:
        """The head of the answer, then pieces of its body, of which an empty one is the end (`ended`); None:
        more has to come. Raises HttpError.
        """
        if self._unseen:
            return self._next_known()
        while not self.ended:
            if self._front.chunks:
                data = self._front.chunk_data()
                if data != b"":
                    self._length = _within(self._length + len(data or b""), self._budget)
                    return data
                _spoken(partial(self._h11.receive_data, LAST_CHUNK))
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
                self._count_interim()
            elif isinstance(event, h11.Response):
                _version_one(event)
                self._answer = Answer(event.status_code, _texts(event.headers))
                self._front.begin_body(chunked=_chunked(self._answer))
                return self._answer
            elif isinstance(event, h11.Data):
                self._length = _within(self._length + len(event.data), self._budget)
                return bytes(event.data)
            else:
                self.ended = True
                self._remember()
        return b""

    def _count_interim(self) -> None:
        self._interim += 1
        if self._interim > self._budget.interim:
            raise HttpError(f"more than {self._budget.interim} interim answers and no real one")

    def _next_known(self) -> Answer | bytes | None:
        assert self._known is not None
        if self._answer is None:
            if self._raw != self._known.raw:
                return None
            self._answer = self._known.answer
            return self._answer
        self.ended = True
        return b""

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the answer has ended, neither side closes, and nothing came
        that was not asked for.
        """
        return self.keeps_open and not self._rest and not self._h11.trailing_data[0] and self._front.empty

    @property
    def keeps_open(self) -> bool:
        """Whether the answer has ended and neither side closes, whatever has come behind it."""
        # h11 that began anew has not heard of an answer that is known.
        return self.ended and (self._h11.our_state, self._h11.their_state) in _OPEN

    @property
    def behind(self) -> bytes:
        """What came behind the end of the answer: the next one's, where requests were sent ahead."""
        return self._rest + self._h11.trailing_data[0] + self._front.waiting


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


def _chunked(answer: Answer) -> bool:
    return answer.status not in (204, 304) and "transfer-encoding" in answer.fields


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
