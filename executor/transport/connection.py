"""Calls on one connection: a request, and the answer to it, each by a deadline of the whole."""

from collections.abc import Sequence

from executor.http1 import Answer, Budget, Client, HttpError
from executor.transport.dial import Dialler, Wire

OK = 200

BUDGET = Budget(head=64 * 1024, fields=256, interim=16)
"""An agent's answers. The body of one has no end; who wants the whole of it counts for himself."""


class HttpConnection:
    """One connection; calls one after the other, each answer read to its end before the next.

    Deadlines are on the monotonic clock; None is none. TimeoutError, AbortedError and other OSErrors come
    from all that sends or reads, and HttpError where what comes is no HTTP or beyond its budget.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._http = Client(BUDGET)

    @classmethod
    def to(cls, dialler: Dialler) -> "HttpConnection":
        """A connection that is yet to be opened."""
        return cls(Wire(dialler))

    def open(self, deadline: float | None = None) -> None:
        """Connect. Raises DialError, and AbortedError if that came first."""
        self._wire.open(deadline)

    def post(self, path: str, fields: Sequence[tuple[str, str]], body: bytes, deadline: float) -> None:
        """Send a request."""
        self._wire.send(self._http.request("POST", path, fields, body), deadline)

    def post_together(
        self, path: str, requests: Sequence[tuple[Sequence[tuple[str, str]], bytes]], deadline: float
    ) -> int:
        """Send the first of these requests, and those behind it ahead of its answer, where one like it has
        been answered as `Client.ahead` wants it; how many were sent. `follow` has the next one's answer read.
        """
        (fields, body), *others = requests
        data = [self._http.request("POST", path, fields, body)]
        for fields, body in others:
            more = self._http.ahead("POST", path, fields, body)
            if more is None:
                break
            data.append(more)
        self._wire.send(b"".join(data), deadline)
        return len(data)

    def follow(self, path: str, fields: Sequence[tuple[str, str]], body: bytes) -> None:
        """The answer before was read to its end: the next is to this request, which was sent ahead."""
        self._http.request("POST", path, fields, body)

    def read_head(self, deadline: float | None) -> int:
        """The status of the answer."""
        while not isinstance(piece := self._http.next(), Answer):
            if piece is not None:
                raise HttpError("a body without a head")
            self._http.receive(self._wire.receive(deadline))
        return piece.status

    def read_some(self, deadline: float | None) -> bytes:
        """The next bytes of the body as they come; none at its end."""
        while (piece := self._http.next()) is None:
            self._http.receive(self._wire.receive(deadline))
        assert isinstance(piece, bytes)
        return piece

    def read_text(self, limit: int, deadline: float | None) -> str:
        """The first `limit` bytes of the body as one line of text. What follows them is not waited for."""
        kept = b""
        while len(kept) < limit and (data := self.read_some(deadline)):
            kept += data[: limit - len(kept)]
        return " ".join(kept.decode("utf-8", "replace").split())

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end, both sides keep the connection open, and nothing came
        behind it that was not asked for.
        """
        return self._http.reusable

    @property
    def keeps_open(self) -> bool:
        """The same, whatever came behind it."""
        return self._http.keeps_open

    @property
    def quiet(self) -> bool:
        """Whether nothing has come since, not even the connection's end."""
        return self._wire.quiet

    @property
    def sent(self) -> bool:
        """Whether any byte of the last request may have reached the agent."""
        return self._wire.sent

    @property
    def address(self) -> str | None:
        """The IP address of our own end; None on a Unix socket."""
        return self._wire.address

    def abort(self) -> None:
        """End every wait, now and later, with AbortedError. From any thread, any number of times."""
        self._wire.abort()

    def close(self) -> None:
        """Close it. From the thread that opened it."""
        self._wire.close()
