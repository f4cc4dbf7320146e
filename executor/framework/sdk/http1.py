"""One HTTP/1.1 connection to a master, over asyncio streams, in h11's terms.

Redirects are not followed and nothing is retried here: the session decides. Heads are bounded by h11 (64 kB),
bodies of refusals by `MAX_TEXT`, and every step but the reading of the event stream has a deadline.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import h11

MAX_TEXT = 4096
"""Bytes of a refusal's body that are kept."""

MAX_BODY = 64 * 1024 * 1024
"""Bytes of an ordinary answer."""

_CHUNK = 64 * 1024


class HttpError(OSError):
    """The peer does not speak HTTP, or ended in the middle of it."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer; header names are lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """The first header of that name, "" if there is none."""
        return next((value for key, value in self.headers if key == name), "")


class Connection:
    """A connection of one request after another. `sent` tells whether bytes of the current one went out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self.sent = False

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close at once; what was not sent is not sent any more."""
        self._writer.transport.abort()

    @property
    def reusable(self) -> bool:
        """Whether the next request may go over it."""
        if self._reader.at_eof() or self._writer.is_closing():
            return False
        return self._http.our_state is h11.IDLE and self._http.their_state is h11.IDLE

    async def request(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes = b""
    ) -> Head:
        """Send a request and read the head of its answer. Raises OSError."""
        self.sent = False
        http = self._http
        try:
            length = [("Content-Length", str(len(body)))] if body or method != "GET" else []
            lines = [*headers, *length]
            data = http.send(h11.Request(method=method, target=target, headers=lines)) or b""
            data += http.send(h11.Data(data=body)) or b""
            data += http.send(h11.EndOfMessage()) or b""
            self._writer.write(data)
            self.sent = True
            await self._writer.drain()
            while True:
                event = await self._next()
                if isinstance(event, h11.Response):
                    pairs = tuple(
                        (key.decode("latin-1"), value.decode("latin-1")) for key, value in event.headers
                    )
                    return Head(event.status_code, pairs)
                if not isinstance(event, h11.InformationalResponse):
                    raise HttpError("the answer has no head")
        except h11.ProtocolError as error:
            raise HttpError(str(error)) from error

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises OSError where it ends in the middle."""
        try:
            while True:
                event = await self._next()
                if isinstance(event, h11.Data):
                    yield bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    raise HttpError("the answer ended in the middle")
        except h11.ProtocolError as error:
            raise HttpError(str(error)) from error
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """The whole body; what goes beyond `limit` bytes ends the connection, and what came is returned."""
        found = bytearray()
        async for chunk in self.chunks():
            found += chunk
            if len(found) > limit:
                self.close()
                break
        return bytes(found[:limit])

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                data = await self._reader.read(_CHUNK)
                self._http.receive_data(data)
                continue
            if isinstance(event, (type, h11.ConnectionClosed)):
                raise HttpError("the connection ended")
            return event


async def dial(address: str, tls: ssl.SSLContext | None, seconds: float) -> Connection:
    """Connect to `host:port`. Raises OSError, also when it takes longer than `seconds`."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(
                host.strip("[]"), int(port), ssl=tls, limit=2 * _CHUNK
            )
    except TimeoutError:
        raise OSError(f"{address} does not take a connection within {seconds:g} s") from None
    except ValueError:
        raise OSError(f"{address!r} is not host:port") from None
    return Connection(reader, writer)
