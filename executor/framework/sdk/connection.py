"""One HTTP connection to a master or a store, over asyncio streams.

Redirects are not followed and nothing is retried here: the session decides. Heads and bodies have budgets
(executor/http1.py); deadlines are the caller's.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from types import TracebackType

from executor.framework.sdk.tls import Tls, refusal
from executor.http1 import Answer, Budget, Client, HttpError

MAX_TEXT = 4096
"""Bytes of a refusal's body that are kept."""

MAX_BODY = 64 * 1024 * 1024
"""Bytes of an ordinary answer."""

_CHUNK = 64 * 1024


class Connection:
    """A connection of one request after another. `sent` tells whether bytes of the current one went out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str = "") -> None:
        self._address = address
        self._reader = reader
        self._writer = writer
        self._http = Client(Budget())
        self._used = False
        self.sent = False
        self._ahead: deque[Client] = deque()
        self._behind = b""
        self.closes = False
        """Whether the server has said that it closes the connection behind its last answer."""

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close at once; what was not sent is not sent any more."""
        self._writer.transport.abort()

    # Requests sent ahead of the answers to those before (RFC 9112 9.3.2): a master takes and answers them in
    # order, and the way there and back counts once for all that are under way.

    async def begin(
        self, method: str, target: str, fields: Sequence[tuple[str, str]], body: bytes = b""
    ) -> None:
        """Send a request; `finish` has its answer after those to the requests before. Raises OSError."""
        http = Client(Budget())
        try:
            data = http.request(method, target, [*fields, ("Content-Length", str(len(body)))], body)
        except HttpError as error:
            raise OSError(str(error)) from error
        self._ahead.append(http)
        self._writer.write(data)
        await self._writer.drain()

    async def finish(self) -> tuple[Answer, str]:
        """The oldest answer that is due, its body's beginning as text. Raises OSError."""
        http = self._http = self._ahead[0]
        if self._behind:
            http.receive(self._behind)
            self._behind = b""
        try:
            head = await self._next()
            assert isinstance(head, Answer)
            text = (await self.body(MAX_TEXT)).decode("utf-8", "replace")
        except HttpError as error:
            raise OSError(str(error)) from error
        self._ahead.popleft()
        self._behind, self.closes = http.behind, not http.keeps_open
        return head, text

    @property
    def takes_more(self) -> bool:
        """Whether another request may be sent ahead."""
        unasked = bool(self._behind) and not self._ahead
        return not (self.closes or unasked or self._reader.at_eof() or self._writer.is_closing())

    @property
    def reusable(self) -> bool:
        """Whether the next request may go over it."""
        if self._reader.at_eof() or self._writer.is_closing():
            return False
        return not self._used or self._http.reusable

    async def request(
        self, method: str, target: str, fields: Sequence[tuple[str, str]], body: bytes = b""
    ) -> Answer:
        """Send a request and read the head of its answer. Raises OSError."""
        self.sent = False
        self._used = True
        length = [("Content-Length", str(len(body)))] if body or method != "GET" else []
        try:
            self._writer.write(self._http.request(method, target, [*fields, *length], body))
            self.sent = True
            await self._writer.drain()
            head = await self._next()
        except HttpError as error:
            raise OSError(str(error)) from error
        assert isinstance(head, Answer)
        return head

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, as it comes. Raises OSError where it ends in the middle."""
        try:
            while True:
                piece = await self._next()
                assert isinstance(piece, bytes)
                if not piece and self._http.ended:
                    return
                yield piece
        except HttpError as error:
            raise OSError(str(error)) from error

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """The whole body; what goes beyond `limit` bytes ends the connection, and what came is returned."""
        found = bytearray()
        async for chunk in self.chunks():
            found += chunk
            if len(found) > limit:
                self.close()
                break
        return bytes(found[:limit])

    async def _next(self) -> Answer | bytes:
        while True:
            part = self._http.next()
            if part is not None:
                return part
            try:
                data = await self._reader.read(_CHUNK)
            except ssl.SSLError as error:
                # TLS 1.3: a server says here that it wanted a certificate of ours.
                raise refusal(self._address, error) from None
            self._http.receive(data)


async def dial(address: str, tls: Tls | None, seconds: float) -> Connection:
    """Connect to `host:port`, and shake hands before anything is said where that is asked for. Raises
    OSError, also when it takes longer than `seconds`.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(
                host, int(port), ssl=tls.context if tls is not None else None, limit=2 * _CHUNK
            )
            if tls is not None:
                try:
                    await tls.verify(writer, host)
                except BaseException:
                    writer.transport.abort()
                    raise
    except ssl.SSLError as error:
        raise refusal(address, error) from None
    except ConnectionAbortedError:
        raise OSError(f"{address} ended the connection during the TLS handshake") from None
    except TimeoutError:
        raise OSError(f"{address} does not take a connection within {seconds:g} s") from None
    except ValueError:
        raise OSError(f"{address!r} is not host:port") from None
    return Connection(reader, writer, address)
