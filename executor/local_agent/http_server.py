"""HTTP/1.1, the server's side, as much of it as executors speak: kept connections over TCP and Unix sockets.

A handler turns a Request into a Response. The body of a Response is bytes, or an asynchronous iterator whose
every item becomes one chunk of a chunked answer. What is no HTTP is answered 400 and the connection closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

MAX_HEAD = 64 * 1024
MAX_BODY = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """`headers` have lower-case names; `transport` is `tcp` or `unix`."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    transport: str


@dataclass(frozen=True, slots=True)
class Response:
    """A body that is an iterator is sent chunked, item by item, and ends its connection."""

    status: HTTPStatus
    body: bytes | AsyncIterator[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Response]


class _BadRequestError(Exception):
    pass


class HttpServer:
    """Serves one handler on any number of sockets until it is closed."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def listen_tcp(self, ip: str, port: int) -> int:
        """Listen on an address; port 0 is any free one. Returns the port. Raises OSError."""
        try:
            server = await asyncio.start_server(self._on_connection("tcp"), ip, port, limit=MAX_HEAD)
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
                self._on_connection("unix"), sock=listener, limit=MAX_HEAD
            )
        except OSError:
            listener.close()
            raise
        self._servers.append(server)

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
        try:
            while (request := await _read_request(reader, transport)) is not None:
                response = self._handler(request)
                await _write_response(writer, response)
                if not isinstance(response.body, bytes) or request.headers.get("connection") == "close":
                    break
        except _BadRequestError as error:
            await _write_response(writer, Response(HTTPStatus.BAD_REQUEST, f"{error}\n".encode()))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


async def _read_request(reader: asyncio.StreamReader, transport: str) -> Request | None:
    """The next request; None where the client closed in between."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    except asyncio.LimitOverrunError:
        raise _BadRequestError(f"the head of the request is longer than {MAX_HEAD} bytes") from None
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _BadRequestError("the request line is not METHOD PATH HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise _BadRequestError("a header line is not NAME: VALUE")
        headers[name.lower()] = value.strip()
    return Request(
        words[0], words[1].partition("?")[0], headers, await _read_body(reader, headers), transport
    )


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = bytearray()
        while size := _length((await reader.readuntil(b"\n")).split(b";")[0].strip(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
            if len(body) > MAX_BODY:
                raise _BadRequestError(f"the body is longer than {MAX_BODY} bytes")
        while (await reader.readuntil(b"\n")).strip():
            pass
        return bytes(body)
    return await reader.readexactly(_length(headers.get("content-length", "0").encode(), 10))


def _length(digits: bytes, base: int) -> int:
    try:
        size = int(digits, base)
    except ValueError:
        size = -1
    if not 0 <= size <= MAX_BODY:
        raise _BadRequestError(f"a length of {digits!r} is not one from 0 to {MAX_BODY}")
    return size


async def _write_response(writer: asyncio.StreamWriter, response: Response) -> None:
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    if isinstance(response.body, bytes):
        lines.append(f"Content-Length: {len(response.body)}")
        writer.write("\r\n".join((*lines, "", "")).encode("latin-1") + response.body)
        await writer.drain()
        return
    lines.append("Transfer-Encoding: chunked")
    writer.write("\r\n".join((*lines, "", "")).encode("latin-1"))
    async for chunk in response.body:
        writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    await writer.drain()
