"""The two connections against a server made by hand, and the rules of TLS names."""

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mesos.v1.executor import executor_pb2

from executor.config.settings import ConfigError, Endpoint
from executor.config.tls import HostnameScheme, TlsSettings
from executor.protocol import Encoding, encode_event, frame
from executor.transport import (
    CallAnswered,
    DialError,
    Dialler,
    EventReceived,
    Link,
    Noise,
    Report,
    StreamLost,
    StreamOpened,
    StreamRefused,
    Target,
)
from executor.transport.dial import Wire
from executor.transport.tls import make_context, names

PATIENCE = 30.0
OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


HEARTBEAT = frame(encode_event(executor_pb2.Event(type=executor_pb2.Event.HEARTBEAT), Encoding.PROTOBUF))


@dataclass
class Connection:
    """The server's end."""

    sock: socket.socket
    buffer: bytes = b""

    def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request; empty at the end."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._more():
                return b"", b""
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")
        )
        while len(self.buffer) < length:
            self._more()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return head, body

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def _more(self) -> bool:
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)


@dataclass
class Stage:
    """A listening server and a link to it."""

    listener: socket.socket
    link: Link
    reports: queue.SimpleQueue[Report]
    opened: list[Connection] = field(default_factory=list)

    def accept(self) -> Connection:
        connection = Connection(self.listener.accept()[0])
        connection.sock.settimeout(PATIENCE)
        self.opened.append(connection)
        return connection

    def report(self) -> Report:
        return self.reports.get(timeout=PATIENCE)

    def subscribed(self, attempt: int = 1) -> Connection:
        self.link.subscribe(attempt, b"subscribe")
        stream = self.accept()
        stream.request()
        stream.send(OK)
        # The end of the stream before it may be told first.
        while self.report() != StreamOpened(attempt, "127.0.0.1"):
            continue
        return stream


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.fixture
def stage() -> Iterator[Stage]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(PATIENCE)
    made = staged(listener, Endpoint("127.0.0.1", listener.getsockname()[1], None, "/slave(1)"))
    yield made
    made.link.close()
    for connection in made.opened:
        connection.close()
    listener.close()


def staged(listener: socket.socket, endpoint: Endpoint) -> Stage:
    reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
    target = Target(Dialler.of(endpoint, None, 5.0), Encoding.PROTOBUF, "tok", 1000, 5.0)
    return Stage(listener, Link(target, lambda act: act(), reports.put), reports)


def test_the_requests_have_exactly_these_headers(stage: Stage) -> None:
    stage.link.subscribe(1, b"body")
    stream = stage.accept()
    head, body = stream.request()
    port = stage.listener.getsockname()[1]
    assert body == b"body"
    assert sorted(head.split(b"\r\n")) == sorted(
        [
            b"POST /slave(1)/api/v1/executor HTTP/1.1",
            b"Host: 127.0.0.1:%d" % port,
            b"Content-Type: application/x-protobuf",
            b"Content-Length: 4",
            b"Accept: application/x-protobuf",
            b"Connection: keep-alive",
            b"Authorization: Bearer tok",
        ]
    )
    stream.send(OK)
    stage.link.send(1, None, b"call")
    head, _ = stage.accept().request()
    assert b"Accept" not in head


def test_events_and_noise_then_the_end(stage: Stage) -> None:
    stream = stage.subscribed()
    stream.send(chunk(HEARTBEAT[:1]) + chunk(HEARTBEAT[1:] + frame(b"\xff")))
    assert isinstance(stage.report(), EventReceived)
    assert stage.report() == Noise(1)
    stream.send(chunk(b"5\nab"))
    stream.close()
    report = stage.report()
    assert isinstance(report, StreamLost)


def test_an_orderly_end_is_told_as_one(stage: Stage) -> None:
    stream = stage.subscribed()
    stream.send(b"0\r\n\r\n")
    assert stage.report() == StreamLost(1, "the agent closed the event stream")


def test_bad_framing_ends_the_stream_after_what_came_before(stage: Stage) -> None:
    stage.subscribed().send(chunk(HEARTBEAT + b"12x\n"))
    assert isinstance(stage.report(), EventReceived)
    report = stage.report()
    assert isinstance(report, StreamLost)
    assert "12x" in report.reason


def test_refusals_tell_status_and_text(stage: Stage) -> None:
    stage.link.subscribe(1, b"")
    stream = stage.accept()
    stream.request()
    stream.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 17\r\n\r\nAgent\n recovering")
    assert stage.report() == StreamRefused(1, 503, "Agent recovering")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DialError, match=f"127.0.0.1:{port}"):
        Wire(Dialler.of(Endpoint("127.0.0.1", port, None, ""), None, 1.0)).open()


def test_calls_go_in_order_on_one_connection(stage: Stage) -> None:
    stage.subscribed()
    for number in range(3):
        stage.link.send(1, b"u%d" % number, b"call %d" % number)
    calls = stage.accept()
    for number in range(3):
        assert calls.request()[1] == b"call %d" % number
        calls.send(ACCEPTED)
        assert stage.report() == CallAnswered(1, b"u%d" % number, 202, "")


@pytest.mark.parametrize("cut", [Connection.close, Connection.reset])
def test_a_broken_kept_connection_costs_no_call(stage: Stage, cut: Callable[[Connection], None]) -> None:
    stage.subscribed()
    stage.link.send(1, b"a", b"first")
    calls = stage.accept()
    calls.request()
    calls.send(ACCEPTED)
    stage.report()
    stage.link.send(1, b"b", b"second")
    calls.request()
    cut(calls)
    again = stage.accept()
    assert again.request()[1] == b"second"
    again.send(ACCEPTED)
    assert stage.report() == CallAnswered(1, b"b", 202, "")


def test_nothing_overtakes_an_update_that_failed(stage: Stage) -> None:
    stage.subscribed()
    stage.link.send(1, b"a", b"first")
    stage.link.send(1, b"b", b"second")
    calls = stage.accept()
    calls.request()
    calls.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    assert stage.report() == CallAnswered(1, b"a", 503, "")
    stage.subscribed(2)
    stage.link.send(2, b"c", b"third")
    assert stage.accept().request()[1] == b"third"


def waiting_updates(stage: Stage, *updates: tuple[str, str], answer: bytes = ACCEPTED) -> Connection:
    """The calls' connection, on which updates (of a task, and what it says) wait for the answer to one before
    them, which has come.
    """
    stage.subscribed()
    stage.link.send(1, b"first", b"first", "first")
    calls = stage.accept()
    assert calls.request()[1] == b"first"
    calls.send(ACCEPTED)
    assert stage.report() == CallAnswered(1, b"first", 202, "")
    stage.link.send(1, b"before", b"before", "before")
    assert calls.request()[1] == b"before"
    for task, text in updates:
        stage.link.send(1, text.encode(), text.encode(), task)
    calls.send(answer)
    assert stage.report() == CallAnswered(1, b"before", 202, "")
    return calls


def test_updates_that_wait_are_sent_in_one_go_those_of_one_task_never(stage: Stage) -> None:
    calls = waiting_updates(stage, ("t", "t1"), ("u", "u1"), ("v", "v1"), ("t", "t2"), ("u", "u2"))
    assert [calls.request()[1] for _ in range(3)] == [b"t1", b"u1", b"v1"]
    calls.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        calls.request()
    calls.sock.settimeout(PATIENCE)
    calls.send(ACCEPTED + ACCEPTED[:9])
    calls.send(ACCEPTED[9:])
    calls.send(ACCEPTED)
    assert [calls.request()[1] for _ in range(2)] == [b"t2", b"u2"]
    # Another form, and one behind it: h11 has both.
    calls.send(b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + ACCEPTED)
    for each in (b"t1", b"u1", b"v1", b"t2", b"u2"):
        assert stage.report() == CallAnswered(1, each, 202, "")


def test_an_answer_with_a_body_or_none_yet_lets_nothing_be_sent_ahead(stage: Stage) -> None:
    odd = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok"
    stage.subscribed()
    for text in (b"a", b"b", b"c"):
        stage.link.send(1, text, text, text.decode())
    calls = stage.accept()
    for text in (b"a", b"b", b"c"):
        assert calls.request()[1] == text
        calls.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            calls.request()
        calls.sock.settimeout(PATIENCE)
        calls.send(odd)
        assert stage.report() == CallAnswered(1, text, 202, "ok")


@pytest.mark.parametrize("end", [Connection.close, Connection.reset, None])
def test_updates_without_an_answer_are_posted_again_in_order(
    stage: Stage, end: Callable[[Connection], None] | None
) -> None:
    calls = waiting_updates(stage, ("t", "t1"), ("u", "u1"), ("v", "v1"))
    assert [calls.request()[1] for _ in range(3)] == [b"t1", b"u1", b"v1"]
    calls.send(ACCEPTED if end else ACCEPTED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert stage.report() == CallAnswered(1, b"t1", 202, "")
    if end:
        end(calls)
    again = stage.accept()
    for each in (b"u1", b"v1"):
        assert again.request()[1] == each
        again.send(ACCEPTED)
        assert stage.report() == CallAnswered(1, each, 202, "")


def test_who_drops_what_was_sent_ahead_is_told_one_by_one_from_then_on(stage: Stage) -> None:
    calls = waiting_updates(stage, ("t", "t1"), ("u", "u1"), ("v", "v1"))
    assert [calls.request()[1] for _ in range(3)] == [b"t1", b"u1", b"v1"]
    calls.send(ACCEPTED)
    assert stage.report() == CallAnswered(1, b"t1", 202, "")
    again = stage.accept()
    for each in ("w1", "x1", "y1"):
        stage.link.send(1, each.encode(), each.encode(), each)
    again.sock.settimeout(PATIENCE)
    for text in (b"u1", b"v1", b"w1", b"x1", b"y1"):
        assert again.request()[1] == text
        again.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            again.request()
        again.sock.settimeout(PATIENCE)
        again.send(ACCEPTED)
        assert stage.report() == CallAnswered(1, text, 202, "")


def test_nothing_is_heard_of_what_was_sent_behind_an_update_that_failed(stage: Stage) -> None:
    calls = waiting_updates(stage, ("t", "t1"), ("u", "u1"), ("v", "v1"))
    assert [calls.request()[1] for _ in range(3)] == [b"t1", b"u1", b"v1"]
    calls.send(ACCEPTED + b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n" + ACCEPTED)
    assert stage.report() == CallAnswered(1, b"t1", 202, "")
    assert stage.report() == CallAnswered(1, b"u1", 503, "")
    assert calls.request() == (b"", b"")
    stage.subscribed(2)
    stage.link.send(2, b"c", b"third", "v")
    assert stage.accept().request()[1] == b"third"


def test_an_update_that_is_refused_for_good_holds_up_none_behind_it(stage: Stage) -> None:
    calls = waiting_updates(stage, ("t", "t1"), ("u", "u1"), ("v", "v1"))
    assert [calls.request()[1] for _ in range(3)] == [b"t1", b"u1", b"v1"]
    calls.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno" + ACCEPTED + ACCEPTED)
    assert stage.report() == CallAnswered(1, b"t1", 400, "no")
    for each in (b"u1", b"v1"):
        assert stage.report() == CallAnswered(1, each, 202, "")


def test_a_new_attempt_ends_the_old_connections(stage: Stage) -> None:
    stream = stage.subscribed()
    stage.link.send(1, None, b"hangs")
    calls = stage.accept()
    calls.request()
    stage.link.subscribe(2, b"again")
    assert stream.request() == (b"", b"")
    assert calls.request() == (b"", b"")
    assert stage.accept().request()[1] == b"again"


def test_closing_ends_the_threads(stage: Stage) -> None:
    before = set(threading.enumerate())
    stage.subscribed(7)
    stage.link.send(7, None, b"x")
    mine = set(threading.enumerate()) - before
    assert len(mine) == 2
    stage.link.close()
    for thread in mine:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("depth", [0, 3])
def test_unix_sockets_however_long_the_path(tmp_path: Path, depth: int) -> None:
    directory = tmp_path.joinpath(*["d" * 60] * depth)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(directory):
        listener.bind("./agent.sock")
        listener.listen()
        listener.settimeout(PATIENCE)
        stage = staged(listener, Endpoint("", 0, path, ""))
        stage.link.subscribe(1, b"x")
        head, _ = stage.accept().request()
        assert b"Host: localhost" in head
        stage.link.close()
        stage.opened[0].close()


CERTIFICATE = {
    "subject": ((("commonName", "common.example"),),),
    "subjectAltName": (("DNS", "*.agents.example"), ("DNS", "Host.Example"), ("IP Address", "10.0.0.7")),
}


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("10.0.0.7", True),
        ("10.0.0.8", False),
        ("host.example", True),
        ("a.agents.example", True),
        ("a.b.agents.example", False),
        ("agents.example", False),
        ("common.example", False),
    ],
)
def test_names_of_certificates(wanted: str, named: bool) -> None:
    assert names(CERTIFICATE, wanted) is named


def test_the_common_name_counts_only_alone() -> None:
    assert names({"subject": CERTIFICATE["subject"]}, "common.example")
    assert not names({"subjectAltName": (("DNS", "*.com"),)}, "example.com")


def test_files_that_hold_no_certificates_are_named(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    settings = TlsSettings(
        verify=True,
        verify_address=False,
        verify_depth=4,
        scheme=HostnameScheme.LEGACY,
        certificate=garbage,
        key=None,
        authorities_file=garbage,
        authorities_directory=None,
        ciphers="NO-SUCH-CIPHER",
        curve="no-such-curve",
        versions=frozenset({2, 3}),
    )
    with pytest.raises(ConfigError) as raised:
        make_context(settings)
    assert len(raised.value.problems) == 4
