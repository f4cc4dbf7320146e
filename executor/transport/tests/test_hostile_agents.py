"""Agents that never come to an end, and connections that are given up in the middle of something."""

import contextlib
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import trustme
from mesos.v1.executor import executor_pb2
from pytest_mock import MockerFixture

from executor.config.settings import Endpoint
from executor.config.tls import HostnameScheme, TlsSettings
from executor.protocol import Encoding, encode_event, frame
from executor.tests.scenarios.addresses import Tcp
from executor.tests.scenarios.tap import records, tapped
from executor.transport import (
    CallAnswered,
    DialError,
    Dialler,
    Link,
    Report,
    StreamLost,
    StreamOpened,
    StreamRefused,
    Target,
)
from executor.transport.client import MAX_WAITING
from executor.transport.dial import AbortedError, Wire

PATIENCE = 30.0
TIMEOUT = 0.6
"""Seconds for a call."""

OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
HEARTBEAT = frame(encode_event(executor_pb2.Event(type=executor_pb2.Event.HEARTBEAT), Encoding.PROTOBUF))


@dataclass
class Peer:
    """A listening agent of the tests and a link to it. `posted` has what the owner thread has not done."""

    listener: socket.socket
    link: Link
    reports: "queue.SimpleQueue[Report]"
    opened: list[socket.socket] = field(default_factory=list)

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(PATIENCE)
        self.opened.append(connection)
        return connection

    def report(self) -> Report:
        return self.reports.get(timeout=PATIENCE)

    def subscribed(self) -> socket.socket:
        self.link.subscribe(1, b"subscribe")
        stream = self.accept()
        request(stream)
        stream.sendall(OK)
        assert self.report() == StreamOpened(1, "127.0.0.1")
        return stream


def request(connection: socket.socket) -> bytes:
    """One request; its body ends in what was posted."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return body


@pytest.fixture
def peer() -> Iterator[Peer]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(PATIENCE)
    endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], None, "")
    reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
    target = Target(Dialler.of(endpoint, None, 5.0), Encoding.PROTOBUF, None, 1 << 20, TIMEOUT)
    made = Peer(listener, Link(target, lambda act: act(), reports.put), reports)
    yield made
    made.link.close()
    for connection in made.opened:
        connection.close()
    listener.close()


def speak(connection: socket.socket, first: bytes, again: bytes, pause: float) -> None:
    """In a thread: `first`, then `again` for ever."""

    def run() -> None:
        with contextlib.suppress(OSError):
            connection.sendall(first)
            while True:
                connection.sendall(again)
                time.sleep(pause)

    threading.Thread(target=run, daemon=True).start()


UNENDING = {
    "one byte a moment": (b"", b"H", 0.02),
    "one byte of a field a moment": (b"HTTP/1.1 202 Accepted\r\nX: ", b"y", 0.02),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 9, 0.0),
    "an interim answer a moment": (b"", b"HTTP/1.1 102 Processing\r\n\r\n", 0.1),
    "fields": (b"HTTP/1.1 202 Accepted\r\n", b"X: y\r\n" * 99, 0.0),
    "one field": (b"HTTP/1.1 202 Accepted\r\nX: ", b"y" * 999, 0.0),
}


@pytest.mark.parametrize("what", UNENDING)
def test_a_call_has_one_deadline_whatever_comes(peer: Peer, what: str) -> None:
    """The update is given up; a message that is sent after it in the same attempt still goes."""
    peer.subscribed()
    peer.link.send(1, None, b"first")
    calls = peer.accept()
    request(calls)
    speak(calls, *UNENDING[what])
    began = time.monotonic()
    report = peer.report()
    assert time.monotonic() - began < TIMEOUT + 10
    assert isinstance(report, CallAnswered)
    assert report.status is None
    peer.link.send(1, b"u", b"second")
    again = peer.accept()
    assert request(again) == b"second"
    again.sendall(ACCEPTED)
    assert peer.report() == CallAnswered(1, b"u", 202, "")


@pytest.mark.parametrize(
    ("first", "again", "pause"),
    [
        (b"HTTP/1.1 202 Accepted\r\n\r\n", b"x" * 999, 0.0),
        (b"HTTP/1.1 202 Accepted\r\n\r\n", b"x", 0.05),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 99999\r\n\r\n", b"", 0.05),
        (b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.0),
        (b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", 0.0),
        (b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n", b"no size", 0.0),
    ],
)
def test_an_answer_whose_body_does_not_end_is_an_answer(
    peer: Peer, first: bytes, again: bytes, pause: float
) -> None:
    peer.subscribed()
    peer.link.send(1, b"u", b"first")
    calls = peer.accept()
    request(calls)
    speak(calls, first, again, pause)
    report = peer.report()
    assert isinstance(report, CallAnswered)
    assert report.status == 202
    peer.link.send(1, b"v", b"second")
    assert request(peer.accept()) == b"second"


def test_a_refusal_of_the_stream_whose_text_does_not_end(peer: Peer) -> None:
    peer.link.subscribe(1, b"subscribe")
    stream = peer.accept()
    request(stream)
    speak(stream, b"HTTP/1.1 503 No\r\n\r\n", b"not yet ", 0.0)
    report = peer.report()
    assert isinstance(report, StreamRefused)
    assert report.status == 503
    assert 0 < len(report.body) <= 500


def test_a_stream_whose_head_does_not_end(peer: Peer) -> None:
    peer.link.subscribe(1, b"subscribe")
    stream = peer.accept()
    request(stream)
    speak(stream, b"HTTP/1.1 200 OK\r\n", b"X", 0.02)
    assert peer.report() == StreamLost(1, "no answer in time")


@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("uuid", [None, b"u"])
def test_what_may_have_been_taken_is_posted_again_only_if_it_is_an_update(
    peer: Peer, end: str, uuid: bytes | None
) -> None:
    peer.subscribed()
    peer.link.send(1, b"a", b"first")
    calls = peer.accept()
    request(calls)
    calls.sendall(ACCEPTED)
    assert peer.report() == CallAnswered(1, b"a", 202, "")
    peer.link.send(1, uuid, b"second")
    assert request(calls) == b"second"
    if end == "reset":
        calls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    calls.close()
    if uuid is None:
        report = peer.report()
        assert isinstance(report, CallAnswered)
        assert report.status is None
        peer.link.send(1, None, b"third")
    again = peer.accept()
    assert request(again) == (b"third" if uuid is None else b"second")


def test_a_message_on_a_connection_that_was_closed_meanwhile_is_posted(peer: Peer) -> None:
    peer.subscribed()
    peer.link.send(1, b"a", b"first")
    calls = peer.accept()
    request(calls)
    calls.sendall(ACCEPTED)
    assert peer.report() == CallAnswered(1, b"a", 202, "")
    calls.close()
    time.sleep(0.05)
    peer.link.send(1, None, b"message")
    assert request(peer.accept()) == b"message"


def test_a_flood_of_events_waits_for_the_owner_thread() -> None:
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    heard: list[Report] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], None, "")
        target = Target(Dialler.of(endpoint, None, 5.0), Encoding.PROTOBUF, None, 1 << 20, 5.0)
        link = Link(target, waiting.put, heard.append)
        link.subscribe(1, b"subscribe")
        stream, _ = listener.accept()
        request(stream)
        block = HEARTBEAT * 1000
        stream.settimeout(1.0)
        total = 0
        with contextlib.suppress(TimeoutError):
            stream.sendall(OK)
            while True:
                stream.sendall(b"%x\r\n%s\r\n" % (len(block), block))
                total += 1000
                assert total < 50_000_000
        time.sleep(0.2)
        assert waiting.qsize() <= MAX_WAITING / 512 + 2
        before = waiting.qsize()
        for _ in range(before):
            waiting.get()()
        waiting.get(timeout=PATIENCE)()
        assert len(heard) == before + 1
        link.close()
        stream.close()


def _settings(**changed: object) -> TlsSettings:
    settings: dict[str, object] = {
        "verify": False,
        "verify_address": False,
        "verify_depth": 4,
        "scheme": HostnameScheme.LEGACY,
        "certificate": None,
        "key": None,
        "authorities_file": None,
        "authorities_directory": None,
        "ciphers": None,
        "curve": None,
        "versions": frozenset({2, 3}),
    }
    return TlsSettings(**(settings | changed))  # type: ignore[arg-type]


def test_a_handshake_of_one_byte_a_moment_has_the_dials_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], None, "")
        wire = Wire(Dialler.of(endpoint, _settings(), TIMEOUT))

        def drip() -> None:
            connection, _ = listener.accept()
            speak(connection, b"\x16\x03\x03\x40\x00", b"\x02", 0.02)

        threading.Thread(target=drip, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(DialError):
            wire.open()
        assert time.monotonic() - began < TIMEOUT + 10


@pytest.mark.parametrize("tls", [False, True])
def test_a_wire_is_given_up_whatever_it_waits_for(tls: bool) -> None:
    """While connecting (a full queue), shaking hands, sending and receiving."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], None, "")
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        wire = Wire(Dialler.of(endpoint, _settings() if tls else None, PATIENCE))
        errors: list[BaseException] = []

        def connect() -> None:
            try:
                wire.open()
            except OSError as error:
                errors.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        time.sleep(0.1)
        wire.abort()
        thread.join(PATIENCE)
        assert [type(error) for error in errors] == [AbortedError]
        for filler in fillers:
            filler.close()


@contextlib.contextmanager
def tls_agent(address: tuple[str, int]) -> Iterator[None]:
    """An agent that takes every request over TLS with 202, and says nothing to SUBSCRIBE but that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    listener = socket.create_server(address)

    def answer(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as peer:
            while peer.recv(65536):
                peer.sendall(ACCEPTED)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_giving_up_beside_a_send_lets_nothing_out_in_clear(mocker: MockerFixture) -> None:
    """The moments before a send and before a socket is closed under it are made long, so that they meet."""
    shutdown, send = socket.socket.shutdown, ssl.SSLSocket.send

    def late_shutdown(sock: socket.socket, how: int) -> None:
        time.sleep(0.1)
        shutdown(sock, how)

    def late_send(sock: ssl.SSLSocket, data: bytes, flags: int = 0) -> int:
        time.sleep(0.05)
        return send(sock, data, flags)

    where, agent = Tcp(), Tcp()
    with (
        tls_agent((agent.ip, agent.port)),
        tapped((where.ip, where.port), (agent.ip, agent.port)) as tap,
    ):
        endpoint = Endpoint(where.ip, where.port, None, "")
        target = Target(Dialler.of(endpoint, _settings(), 5.0), Encoding.PROTOBUF, "secret-token", 1000, 5.0)
        link = Link(target, lambda act: act(), lambda _: None)
        mocker.patch.object(socket.socket, "shutdown", late_shutdown)
        mocker.patch.object(ssl.SSLSocket, "send", late_send)
        for attempt in range(1, 15):
            link.subscribe(attempt, b"subscribe")
            for _ in range(5):
                link.send(attempt, None, b"x" * 5000)
            time.sleep(0.01 * attempt)
        time.sleep(0.5)
        link.close()
        mocker.stopall()
        assert len(tap.sent) > 5
        assert b"secret-token" not in tap.everything
        for connection in tap.sent:
            records(bytes(connection))
