"""HTTP/1.1, the server's side, as much of it as executors speak: kept connections over TCP and Unix sockets.

A handler turns a Request into a Response, at once or as something to await. The body of a Response is bytes,
or an asynchronous iterator whose every item becomes one chunk of a chunked answer. What is no HTTP is
answered 400 and the connection closed.

Anybody on the machine may connect. So the head of a request is judged alone (`admit`) before any of its body
is read; heads and bodies have a budget and a deadline, and so have connections and what all bodies that are
being read take together.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path

from executor import http1

BUDGET = http1.Budget(head=64 * 1024, fields=256, body=64 * 1024 * 1024)
MAX_CONNECTIONS = 128
MAX_BODIES = 256 * 1024 * 1024
"""Bytes of all bodies that are being read."""

HEAD_PATIENCE = 10.0
BODY_PATIENCE = 60.0
LAST_PATIENCE = 2.0
"""Seconds for a head from its first byte, for a body from there, and for a refused peer to read why."""

READ_SIZE = 64 * 1024
MAX_LEFT = 1024 * 1024
"""Bytes of a refused body that are thrown away so that its sender comes to read the answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` have lower-case names; `transport` is `tcp` or `unix`. `query` is what stands behind "?".
    `peer` is the other end's address (TCP), `uid` its user (Unix), None where that is not known.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    transport: str
    query: str = ""
    peer: str = ""
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A body that is an iterator is sent chunked, item by item, and ends its connection."""

    status: HTTPStatus
    body: bytes | AsyncIterator[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response | Awaitable[Response]]
Admission = Callable[[Request], Response | None]
"""Given a request whose body is yet to be read: the answer to one that need not be read, else None."""


class _RefusedError(Exception):
    def __init__(self, response: Response) -> None:
        super().__init__(response.status.phrase)
        self.response = response


class HttpServer:
    """Serves one handler on any number of sockets until it is closed. A connection may say nothing for `idle`
    seconds before a request (None: for ever).
    """

    def __init__(
        self, handler: Handler, admit: Admission = lambda _: None, idle: float | None = None
    ) -> None:
        self._handler = handler
        self._idle = idle
        self._admit = admit
        self._held = 0
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def listen_tcp(self, ip: str, port: int) -> int:
        """Listen on an address; port 0 is any free one. Returns the port. Raises OSError."""
        try:
            server = await asyncio.start_server(self._on_connection("tcp"), ip, port, limit=READ_SIZE)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(f"cannot listen on address {ip!r}, port {port}: {reason}") from None
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def listen_unix(self, path: Path, mode: int) -> None:
        """Listen on a socket in the file system, which has this mode before it listens. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.unlink(missing_ok=True)
            # The address of a Unix socket has room for 107 bytes; a path may have more.
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                listener.bind(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.close(directory)
            # Before it listens nobody can connect; a umask would be every other thread's too.
            path.chmod(mode)
            server = await asyncio.start_unix_server(
                self._on_connection("unix"), sock=listener, limit=READ_SIZE
            )
        except OSError:
            listener.close()
            raise
        self._servers.append(server)

    async def listen_on(self, listener: socket.socket) -> None:
        """Listen on a Unix socket that is bound; it is closed with the server."""
        self._servers.append(
            await asyncio.start_unix_server(self._on_connection("unix"), sock=listener, limit=READ_SIZE)
        )

    async def close(self) -> None:
        """Stop listening and drop every connection."""
        for server in self._servers:
            server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._servers.clear()

    def _on_connection(self, transport: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(reader, writer, transport))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        return connected

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transport: str
    ) -> None:
        http = http1.Server(BUDGET)
        # What is known of the other end before it says anything.
        blank = replace(_peer(writer), transport=transport)
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                raise _RefusedError(_text(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"))
            while http.open:
                head = await self._head(http, reader, blank)
                if head is None:
                    break
                response = self._handler(await self._whole(http, reader, writer, head))
                if not isinstance(response, Response):
                    response = await response
                await _write(http, writer, response)
        except http1.HttpError as error:
            await _refuse(http, reader, writer, _text(HTTPStatus.BAD_REQUEST, str(error)))
        except _RefusedError as refused:
            await _refuse(http, reader, writer, refused.response)
        except TimeoutError:
            await _refuse(http, reader, writer, _text(HTTPStatus.REQUEST_TIMEOUT, "too slow"))
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _head(self, http: http1.Server, reader: asyncio.StreamReader, blank: Request) -> Request | None:
        """The next request without its body; None where the client has closed in between."""
        now = asyncio.get_running_loop().time
        begun = http.begun
        deadline = now() + HEAD_PATIENCE if begun else None if self._idle is None else now() + self._idle
        while (head := http.next()) is None:
            async with asyncio.timeout_at(deadline):
                data = await reader.read(READ_SIZE)
            if not data:
                return None
            http.receive(data)
            if not begun:
                begun, deadline = True, now() + HEAD_PATIENCE
        if not isinstance(head, http1.Request):
            raise http1.HttpError("no request")
        path, _, query = head.target.partition("?")
        return replace(blank, method=head.method, path=path, query=query, headers=head.fields)

    async def _whole(
        self,
        http: http1.Server,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head: Request,
    ) -> Request:
        """The request with its body, if it is to be read at all."""
        refusal = self._admit(head)
        if refusal is not None:
            raise _RefusedError(refusal)
        length = head.headers.get("content-length", "0")
        if int(length) > (BUDGET.body or 0):
            raise http1.HttpError(f"a body of more than {BUDGET.body} bytes")
        if http.expects_continue:
            writer.write(http.proceed())
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_PATIENCE):
                while (piece := http.next()) != b"":
                    if isinstance(piece, bytes):
                        self._held += len(piece)
                        body += piece
                        if self._held > MAX_BODIES:
                            raise _RefusedError(_text(HTTPStatus.SERVICE_UNAVAILABLE, "too many bodies"))
                    elif data := await reader.read(READ_SIZE):
                        http.receive(data)
                    else:
                        raise EOFError
            return replace(head, body=bytes(body))
        finally:
            self._held -= len(body)


def _peer(writer: asyncio.StreamWriter) -> Request:
    connection: socket.socket = writer.get_extra_info("socket")
    peer, uid = "", None
    if connection.family == socket.AF_UNIX:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid = int(struct.unpack("3i", credentials)[1])
    else:
        peer = str((writer.get_extra_info("peername") or ("",))[0])
    return Request("", "", {}, b"", "", peer=peer, uid=uid)


def _text(status: HTTPStatus, text: str) -> Response:
    return Response(status, f"{text}\n".encode())


async def _write(http: http1.Server, writer: asyncio.StreamWriter, response: Response) -> None:
    status, fields = response.status, list(response.headers.items())
    if isinstance(response.body, bytes):
        writer.write(http.answer(status.value, status.phrase, fields, response.body))
        await writer.drain()
        return
    writer.write(http.head(status.value, status.phrase, fields))
    try:
        async for chunk in response.body:
            writer.write(http.body(chunk))
            await writer.drain()
    finally:
        if isinstance(response.body, AsyncGenerator):
            await response.body.aclose()
    writer.write(http.end())
    await writer.drain()
    http.open = False


async def _refuse(
    http: http1.Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, response: Response
) -> None:
    """The last answer of a connection, of whose request not all was read."""
    closing = replace(response, headers={**response.headers, "Connection": "close"})
    # A close with bytes unread would be a reset, and take the answer away from who sends them.
    with contextlib.suppress(OSError, asyncio.CancelledError, TimeoutError):
        async with asyncio.timeout(LAST_PATIENCE):
            await _write(http, writer, closing)
            writer.write_eof()
            left = MAX_LEFT
            while left > 0 and (data := await reader.read(READ_SIZE)):
                left -= len(data)
