"""The HTTP server, and event streams on it, as bytes over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
from http import HTTPStatus
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from executor.http1 import Budget
from executor.local_agent.event_stream import EventStream
from executor.local_agent.http_server import HttpServer, Request, Response
from executor.local_agent.tests.serving import Event, events, posted, stage, subscribe_call
from executor.protocol import Encoding

PATIENCE = 30.0
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
    request = b"POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
    answer = talk([request, request], tmp_path)
    expected = b"HTTP/1.1 200 OK\r\nX-Answer: yes\r\nContent-Length: 15\r\n\r\nPOST /a unix hi"
    assert answer == expected * 2


def test_head_is_answered_without_a_body(tmp_path: Path) -> None:
    answer = talk([b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n"], tmp_path)
    head = b"HTTP/1.1 200 OK\r\nX-Answer: yes\r\nContent-Length: %d\r\n\r\n"
    assert answer == head % 13 + head % 12 + b"GET /b unix "


def test_an_answer_may_be_waited_for_and_knows_who_asked(tmp_path: Path) -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(0)
        return Response(HTTPStatus.OK, f"{request.query} {request.uid} {request.peer}".encode())

    answer = asyncio.run(
        exchange(HttpServer(slow), [b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"], tmp_path / "s")
    )
    assert answer.endswith(f"b=c {os.geteuid()} ".encode())


def test_a_silent_connection_is_closed_where_that_is_wanted() -> None:
    async def whole() -> bytes:
        server = HttpServer(echo, idle=0.1)
        port = await server.listen_tcp("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
        await server.close()
        return answer

    assert asyncio.run(whole()).startswith(b"HTTP/1.1 408 ")


def test_requests_may_come_byte_by_byte_and_chunked(tmp_path: Path) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    request = head + b"2;x=y\r\nhi\r\n3\r\nyou\r\n0\r\nTrailer: x\r\n\r\n"
    answer = talk([bytes([byte]) for byte in request], tmp_path)
    assert answer.endswith(b"\r\n\r\nPOST /a unix hiyou")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"POST /a HTTP/2.0\r\n\r\n",
        b"POST /a HTTP/1.1\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /a HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_answered_400_and_ends_the_connection(
    request_bytes: bytes, tmp_path: Path
) -> None:
    assert talk([request_bytes], tmp_path).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_request_that_breaks_off_gets_no_answer(tmp_path: Path) -> None:
    assert talk([b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhi"], tmp_path) == b""


def test_tcp_on_a_free_port() -> None:
    async def whole() -> bytes:
        server = HttpServer(echo)
        port = await server.listen_tcp("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
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


def first_answer(sent: bytes, server: HttpServer, path: Path) -> bytes:
    """What the server says to these bytes when no more come and the connection stays open, to its close."""

    async def whole() -> bytes:
        await server.listen_unix(path, 0o600)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        writer.close()
        await server.close()
        return answer

    return asyncio.run(whole())


HEAD = b"POST /api/v1/executor HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD + b"Content-Length: 60000000\r\n\r\n", b"401"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffff\r\nx", b"401"),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 60000000\r\n\r\n", b"401"),
        (HEAD.replace(b"executor", b"other") + b"Content-Length: 60000000\r\n\r\n", b"404"),
    ],
)
def test_a_stranger_is_sent_away_before_the_body(head: bytes, status: bytes, tmp_path: Path) -> None:
    on = stage(key=b"secret")
    answer = first_answer(head, HttpServer(on.api.handle, on.api.admit), tmp_path / "s")
    assert answer.split(b" ")[1] == status
    assert answer.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in answer
    assert [line.split()[0] for line in on.api.refused] == [status.decode()]


def test_a_stranger_who_goes_on_sending_reads_why_it_is_sent_away(tmp_path: Path) -> None:
    on = stage(key=b"secret")
    body = HEAD + b"Content-Length: 500000\r\n\r\n" + b"x" * 500_000
    answer = first_answer(body, HttpServer(on.api.handle, on.api.admit), tmp_path / "s")
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_a_body_without_end_is_not_kept(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("executor.local_agent.http_server.BUDGET", Budget(body=100_000))
    sent = (
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"4000\r\n%s\r\n" % (b"x" * 0x4000) * 9
    )
    assert first_answer(sent, HttpServer(echo), tmp_path / "s").startswith(b"HTTP/1.1 400 ")


def test_all_bodies_together_have_a_limit(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("executor.local_agent.http_server.MAX_BODIES", 1000)
    sent = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + b"x" * 1500
    server = HttpServer(echo)
    assert first_answer(sent, server, tmp_path / "s").startswith(b"HTTP/1.1 503 ")
    assert server._held == 0


@pytest.mark.parametrize(
    ("sent", "patience"),
    [
        (b"POST /a HTTP/1.1\r\nHost: x\r\n", "HEAD_PATIENCE"),
        (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhi", "BODY_PATIENCE"),
    ],
)
def test_a_peer_that_falls_silent_is_sent_away(
    sent: bytes, patience: str, tmp_path: Path, mocker: MockerFixture
) -> None:
    mocker.patch(f"executor.local_agent.http_server.{patience}", 0.1)
    assert first_answer(sent, HttpServer(echo), tmp_path / "s").startswith(b"HTTP/1.1 408 ")


def test_one_byte_a_moment_buys_no_time(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("executor.local_agent.http_server.HEAD_PATIENCE", 0.3)

    async def whole() -> bytes:
        server = HttpServer(echo)
        await server.listen_unix(tmp_path / "s", 0o600)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        answer = asyncio.ensure_future(reader.read())
        writer.write(b"POST /a HTTP/1.1\r\nX:")
        while not answer.done():
            with contextlib.suppress(OSError):
                writer.write(b"x")
            await asyncio.sleep(0.05)
        writer.close()
        await server.close()
        return await answer

    assert asyncio.run(whole()).startswith(b"HTTP/1.1 408 ")


def test_too_many_connections_are_told_so(tmp_path: Path, mocker: MockerFixture) -> None:
    mocker.patch("executor.local_agent.http_server.MAX_CONNECTIONS", 2)

    async def whole() -> bytes:
        server = HttpServer(echo)
        await server.listen_unix(tmp_path / "s", 0o600)
        idle = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(2)]
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        answer = await reader.read()
        for _, one in [*idle, (reader, writer)]:
            one.close()
        await server.close()
        return answer

    assert asyncio.run(whole()).startswith(b"HTTP/1.1 503 ")


def test_who_waits_to_be_told_to_go_on_is_told(tmp_path: Path) -> None:
    sent = b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    answer = talk([sent, b"hi"], tmp_path)
    assert answer.startswith(b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\n")


def test_an_executor_that_does_not_read_loses_its_stream(mocker: MockerFixture) -> None:
    mocker.patch("executor.local_agent.event_stream.MAX_PENDING", 1000)

    async def whole() -> list[bytes]:
        stream = EventStream(Encoding.JSON)
        for _ in range(100):
            stream.send(Event(type=Event.HEARTBEAT))
        return [chunk async for chunk in stream.chunks()]

    assert len(b"".join(asyncio.run(whole()))) < 1100
