"""The HTTP server, and event streams on it, as bytes over real sockets."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path

import pytest

from executor.local_agent.http_server import HttpServer, Request, Response
from executor.local_agent.tests.serving import Event, events, posted, stage, subscribe_call
from executor.protocol import Encoding

SUBSCRIBED_AND_LAUNCH = [Event.SUBSCRIBED, Event.LAUNCH]


def echo(request: Request) -> Response:
    text = f"{request.method} {request.path} {request.transport} ".encode() + request.body
    return Response(HTTPStatus.OK, text, {"X-Answer": "yes"})


async def exchange(server: HttpServer, sent: list[bytes], path: Path) -> bytes:
    """Everything the server says to these pieces over a Unix socket, until it closes or the client has."""
    await server.listen_unix(path, 0o600)
    reader, writer = await asyncio.open_unix_connection(path)
    for piece in sent:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await server.close()
    return answer


def talk(sent: list[bytes], tmp_path: Path) -> bytes:
    return asyncio.run(exchange(HttpServer(echo), sent, tmp_path / "s"))


def test_a_socket_with_a_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)

    async def listen() -> None:
        server = HttpServer(echo)
        await server.listen_unix(deep / "s", 0o600)
        assert (deep / "s").stat().st_mode & 0o777 == 0o600
        await server.close()

    asyncio.run(listen())


def test_an_address_that_cannot_be_listened_on_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot listen on address '203\.0\.113\.1', port 0: "):
        asyncio.run(HttpServer(echo).listen_tcp("203.0.113.1", 0))


def test_requests_follow_each_other_on_one_connection(tmp_path: Path) -> None:
    request = b"POST /a?b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"
    answer = talk([request, request], tmp_path)
    expected = b"HTTP/1.1 200 OK\r\nX-Answer: yes\r\nContent-Length: 15\r\n\r\nPOST /a unix hi"
    assert answer == expected * 2


def test_requests_may_come_byte_by_byte_and_chunked(tmp_path: Path) -> None:
    head = b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
    request = head + b"2;x=y\r\nhi\r\n3\r\nyou\r\n0\r\nTrailer: x\r\n\r\n"
    answer = talk([bytes([byte]) for byte in request], tmp_path)
    assert answer.endswith(b"\r\n\r\nPOST /a unix hiyou")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"POST /a HTTP/2.0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /a HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n",
        b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /a HTTP/1.1\r\nX: " + b"x" * 70000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_400_and_ends_the_connection(
    request_bytes: bytes, tmp_path: Path
) -> None:
    assert talk([request_bytes], tmp_path).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_request_that_breaks_off_gets_no_answer(tmp_path: Path) -> None:
    assert talk([b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhi"], tmp_path) == b""


def test_tcp_on_a_free_port() -> None:
    async def whole() -> bytes:
        server = HttpServer(echo)
        port = await server.listen_tcp("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await server.close()
        return answer

    assert asyncio.run(whole()).endswith(b"GET / tcp ")


def test_the_socket_has_its_mode_from_the_first_moment(tmp_path: Path) -> None:
    async def whole() -> int:
        server = HttpServer(echo)
        await server.listen_unix(tmp_path / "s", 0o600)
        mode = (tmp_path / "s").stat().st_mode & 0o777
        await server.close()
        return mode

    assert asyncio.run(whole()) == 0o600


async def first_chunks(encoding: Encoding, chunk_size: int | None, path: Path) -> list[bytes]:
    """The chunks in which SUBSCRIBED and LAUNCH arrive."""
    on = stage(chunk_size=chunk_size)
    server = HttpServer(on.api.handle)
    await server.listen_unix(path, 0o600)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(posted(subscribe_call(), encoding))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Type: {encoding.content_type}\r\n".encode() in head
    assert b"Transfer-Encoding: chunked\r\n" in head
    assert b"Content-Length" not in head
    chunks: list[bytes] = []
    while len(events(b"".join(chunks), encoding)) < 2:
        size = int(await reader.readuntil(b"\r\n"), 16)
        chunks.append(await reader.readexactly(size))
        assert await reader.readexactly(2) == b"\r\n"
    on.executor.disconnect()
    assert await reader.read() == b"0\r\n\r\n"
    writer.close()
    await server.close()
    return chunks


@pytest.mark.parametrize("encoding", list(Encoding))
def test_many_records_travel_in_one_chunk(encoding: Encoding, tmp_path: Path) -> None:
    (chunk,) = asyncio.run(first_chunks(encoding, None, tmp_path / "s"))
    assert [event.type for event in events(chunk, encoding)] == SUBSCRIBED_AND_LAUNCH


@pytest.mark.parametrize("encoding", list(Encoding))
def test_one_byte_per_chunk(encoding: Encoding, tmp_path: Path) -> None:
    chunks = asyncio.run(first_chunks(encoding, 1, tmp_path / "s"))
    assert {len(chunk) for chunk in chunks} == {1}
    assert [event.type for event in events(b"".join(chunks), encoding)] == SUBSCRIBED_AND_LAUNCH
