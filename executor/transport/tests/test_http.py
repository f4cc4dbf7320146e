"""Answers in every form, cut anywhere, and what is none."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.config.settings import Endpoint
from executor.http1 import Client, HttpError
from executor.transport import Dialler
from executor.transport.connection import BUDGET, HttpConnection

PATIENCE = 30.0


class Asked:
    """A connection on which a request was made. `answer` is what the other end says to the next."""

    def __init__(self, connection: HttpConnection, theirs: socket.socket, answer: bytes) -> None:
        self._connection = connection
        self._theirs = theirs
        self._deadline = time.monotonic() + PATIENCE
        self.ask(answer)

    def ask(self, answer: bytes) -> None:
        self._connection.post("/x", [("Host", "h"), ("Content-Length", "2")], b"hi", self._deadline)
        self._theirs.sendall(answer)

    def end(self) -> None:
        self._theirs.shutdown(socket.SHUT_WR)

    def read_head(self) -> int:
        return self._connection.read_head(self._deadline)

    def read_some(self) -> bytes:
        return self._connection.read_some(self._deadline)

    def read_text(self, limit: int) -> str:
        return self._connection.read_text(limit, self._deadline)

    @property
    def reusable(self) -> bool:
        return self._connection.reusable


@contextmanager
def answered(data: bytes, *, open_: bool = False) -> Iterator[Asked]:
    """A connection on which just these bytes come, and unless it stays open its end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], None, "")
        connection = HttpConnection.to(Dialler.of(endpoint, None, PATIENCE))
        connection.open()
        theirs, _ = listener.accept()
        with theirs:
            asked = Asked(connection, theirs, data)
            if not open_:
                asked.end()
            yield asked
        connection.close()


def body_of(connection: Asked) -> bytes:
    body = b""
    while data := connection.read_some():
        body += data
    return body


def chunked(pieces: list[bytes]) -> bytes:
    return b"".join(b"%X;note=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nSum: 1\r\n\r\n"


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8))
def test_chunks_are_put_together(pieces: list[bytes]) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-ENCODING: Chunked\r\n\r\n"
    second = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
    with answered(head + chunked(pieces), open_=True) as connection:
        assert connection.read_head() == 200
        assert body_of(connection) == b"".join(pieces)
        assert connection.read_some() == b""
        assert connection.reusable
        connection.ask(second)
        assert connection.read_head() == 202
        assert body_of(connection) == b""
        assert connection.reusable


@given(st.binary(max_size=100))
def test_bodies_of_a_known_length(body: bytes) -> None:
    with answered(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as connection:
        assert connection.read_head() == 400
        assert body_of(connection) == body
        assert connection.reusable


def test_a_connection_with_more_than_was_asked_for_is_not_reused() -> None:
    with answered(b"HTTP/1.1 400 Bad\r\nContent-Length: 1\r\n\r\naX") as connection:
        assert connection.read_head() == 400
        assert body_of(connection) == b"a"
        assert not connection.reusable


def test_bodies_that_end_with_the_connection() -> None:
    with answered(b"HTTP/1.0 200 OK\r\n\r\nsome text") as connection:
        connection.read_head()
        assert body_of(connection) == b"some text"
        assert not connection.reusable


def test_interim_answers_are_passed_over() -> None:
    with answered(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n") as connection:
        assert connection.read_head() == 204
        assert connection.read_some() == b""
        assert connection.reusable


def test_a_connection_that_is_to_be_closed_is_not_reused() -> None:
    with answered(b"HTTP/1.1 202 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n") as connection:
        connection.read_head()
        assert not connection.reusable


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (BUDGET.head // 6 + 1),
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with answered(data) as connection, pytest.raises(HttpError):
        connection.read_head()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5\r\nab",
        b"5\r\nabcdeXX",
        b"x\r\n",
        b"-1\r\n",
        b"\r\n",
        b"11111111111111111\r\n",
        b"1" * 5000,
        b"0\r\n",
    ],
)
def test_chunks_that_are_none(body: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answered(head + body) as connection, pytest.raises(HttpError):
        connection.read_head()
        body_of(connection)


def test_a_body_cut_short_is_not_taken_for_whole() -> None:
    with answered(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort") as connection:
        connection.read_head()
        with pytest.raises(HttpError, match="inside"):
            body_of(connection)


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_an_answer_or_an_error(data: bytes, headed: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if headed else b"HTTP/1."
    with answered(head + data) as connection:
        try:
            connection.read_head()
            assert len(body_of(connection)) <= len(data)
        except HttpError as error:
            assert str(error)


SECOND = b"Fri, 27 Nov 2026 19:00:0%d GMT"
ANSWERS = (
    *(b"HTTP/1.1 202 Accepted\r\nDate: %s\r\nContent-Length: 0\r\n\r\n" % (SECOND % n) for n in (1, 1, 1, 2)),
    b"HTTP/1.1 202 Accepted\r\nDate: " + SECOND % 1 + b"\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 204 No Content\r\n\r\n",
)


def parts(answer: bytes, cuts: set[int]) -> list[bytes]:
    ends = sorted(cut % (len(answer) + 1) for cut in {*cuts, len(answer)})
    return [
        answer[start:end] for start, end in zip([0, *ends], [*ends, len(answer)], strict=True) if start < end
    ]


def conversation(client: Client, body: bytes, pieces: list[bytes]) -> tuple[bytes, list[object], bool]:
    """What is sent, what is read, and whether another request may follow."""
    sent = client.request("POST", "/x", [("Host", "h"), ("Content-Length", str(len(body)))], body)
    read: list[object] = []
    for piece in pieces:
        client.receive(piece)
        while not client.ended and (event := client.next()) is not None:
            read += [event] if event else []
    return sent, read, client.ended and client.reusable


@given(st.lists(st.tuples(st.sampled_from(ANSWERS), st.sets(st.integers(0, 99), max_size=3)), max_size=8))
def test_answers_that_come_again_are_read_as_they_were_the_first_time(
    answers: list[tuple[bytes, set[int]]],
) -> None:
    """h11 does not read an answer like the one before; a client of its own for each has none before."""
    client = Client(BUDGET)
    for number, (answer, cuts) in enumerate(answers):
        body, pieces = b"b" * number, parts(answer, cuts)
        assert conversation(client, body, pieces) == conversation(Client(BUDGET), body, pieces)


def joined(pieces: list[object]) -> bytes:
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


@given(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=8), st.sets(st.integers(0, 999), max_size=9))
def test_answers_that_come_ahead_of_their_turn_are_read_as_those_that_do_not(
    answers: list[bytes], cuts: set[int]
) -> None:
    """The bytes of all of them, cut anywhere; a request is told of when its answer is next."""
    client = Client(BUDGET)
    pieces = parts(b"".join(answers), cuts)
    for number, answer in enumerate(answers):
        body, read = b"b" * number, list[object]()
        sent = client.request("POST", "/x", [("Host", "h"), ("Content-Length", str(number))], body)
        while not client.ended:
            while not client.ended and (event := client.next()) is not None:
                read += [event] if event else []
            if not client.ended:
                client.receive(pieces.pop(0))
        head, *data = read
        own_sent, (own_head, *own_data), own_open = conversation(Client(BUDGET), body, [answer])
        assert (sent, head, client.keeps_open) == (own_sent, own_head, own_open)
        assert joined(data) == joined(own_data)
    assert not pieces


def test_a_request_that_cannot_be_written_is_none_behind_a_known_answer_either() -> None:
    for first in ([], [("Content-Length", "0")]):
        client = Client(BUDGET)
        for _ in range(2):
            client.request("POST", "/x", [("Host", "h"), *first])
            client.receive(ANSWERS[0])
            while not client.ended:
                client.next()
        with pytest.raises(HttpError, match="cannot carry"):
            client.request("POST", "/x", [("Host", "h"), ("Content-Length", "1")], b"more")


def test_what_comes_behind_a_known_answer_or_in_its_place_is_noticed() -> None:
    answer = ANSWERS[0]
    for odd in (answer + b"HTTP", answer[:-2] + b"X"):
        client = Client(BUDGET)
        assert [conversation(client, b"", [answer])[2] for _ in range(3)] == [True] * 3
        assert not conversation(client, b"", [odd])[2]
    client = Client(BUDGET)
    for _ in range(2):
        assert conversation(client, b"", [answer])[2]
    with pytest.raises(HttpError, match="closed"):
        conversation(client, b"", [answer[:9], b""])


def test_text_is_one_line_of_bounded_length() -> None:
    with answered(b"HTTP/1.1 503 X\r\nContent-Length: 14\r\n\r\na\n\n b\xff c d e f ") as connection:
        connection.read_head()
        assert connection.read_text(6) == "a b\ufffd"
