"""HTTP and TCP probes against servers that behave and servers that do not."""

import contextlib
import os
import resource
import socket
import ssl
import threading
from functools import partial

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from executor.checks.conversation import MAX_LOOKUPS, SocketProbe
from executor.checks.http import http_steps
from executor.checks.result import Result
from executor.checks.tcp import tcp_steps
from executor.checks.tests.servers import closed_port, endless, self_signed, serving, silent_port, status
from executor.http1 import Answer, Budget, Client, HttpError
from executor.process.tests.fixtures import PATIENCE, running_loop, turn_for, turn_until


def probe(made: SocketProbe) -> Result:
    """Run a probe to its result, and see that it leaves nothing open."""
    results: list[Result] = []
    with running_loop() as loop:
        made.start(loop, results.append)
        turn_until(loop, lambda: bool(results), "a result")
        resolvers_over()
    assert not holds_a_socket(made)
    assert len(results) == 1
    return results[0]


def resolvers_over() -> None:
    """They tell the loop, which must be there."""
    for thread in threading.enumerate():
        if thread.name == "check-resolver":
            thread.join(PATIENCE)


def holds_a_socket(made: SocketProbe) -> bool:
    return made._talk is not None and made._talk.socket is not None


def get(port: int, path: str = "/", scheme: str = "http", host: str = "127.0.0.1") -> Result:
    return probe(SocketProbe(lambda talk: http_steps(talk, scheme, host, port, path)))


def tcp(port: int, host: str = "127.0.0.1") -> Result:
    return probe(SocketProbe(lambda talk: tcp_steps(talk, host, port)))


@pytest.mark.parametrize(
    ("code", "ok"), [(200, True), (204, True), (304, True), (399, True), (400, False), (500, False)]
)
def test_status_codes(code: int, ok: bool) -> None:
    with serving(status(code)) as server:
        result = get(server.port)
    assert (result.ok, result.http_status) == (ok, code)


def test_the_request_is_a_plain_get_of_the_path() -> None:
    with serving(status(200)) as server:
        get(server.port, "/health?deep=1")
        head = server.requests[0].decode().split("\r\n")
    assert head[0] == "GET /health?deep=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{server.port}" in head


def test_redirects_are_followed_to_the_last_status() -> None:
    def elsewhere(port: int) -> bytes:
        return status(302, f"Location: http://127.0.0.1:{port}/b")

    with serving(status(301, "Location: /a"), elsewhere, status(200)) as server:
        assert get(server.port).http_status == 200
        assert [request.split()[1] for request in server.requests] == [b"/", b"/a", b"/b"]


def test_redirect_to_a_name() -> None:
    def elsewhere(port: int) -> bytes:
        return status(302, f"Location: http://localhost.localdomain.invalid:{port}/b")

    with serving(elsewhere) as server:
        result = get(server.port)
    assert not result.ok
    assert "cannot find the address of 'localhost.localdomain.invalid'" in result.text


def test_redirect_without_location_is_an_answer() -> None:
    with serving(status(302)) as server:
        assert get(server.port).http_status == 302


def test_redirect_with_blanks_and_umlauts() -> None:
    with serving(status(302, "Location: /ä b?c=d%20e"), status(200)) as server:
        assert get(server.port).ok
        assert server.requests[1].split(b"\r\n")[0] == b"GET /%C3%A4%20b?c=d%20e HTTP/1.1"


@given(st.binary())
def test_any_head_is_an_answer_or_an_error(head: bytes) -> None:
    client = Client(Budget(), lenient=True)
    client.request("GET", "/", [("Host", "h")])
    with contextlib.suppress(HttpError):
        client.receive(b"HTTP/1.1 2" + head)
        answer = client.next()
        assert answer is None or (isinstance(answer, Answer) and 200 <= answer.status <= 999)


@pytest.mark.parametrize("location", ["http://[", "http://x:99999/", "http:///x", "//", "http://\xff/"])
def test_senseless_redirects_are_failures(location: str) -> None:
    with serving(status(302, f"Location: {location}")) as server:
        result = get(server.port)
    assert (result.ok, result.http_status) == (False, None)


def test_redirects_in_a_circle_end() -> None:
    with serving(status(302, "Location: /")) as server:
        result = get(server.port)
    assert (result.ok, result.http_status) == (False, None)
    assert "more than 20 times" in result.text


def test_redirect_to_another_scheme_is_refused() -> None:
    with serving(status(302, "Location: file:///etc/passwd")) as server:
        assert "neither http nor https" in get(server.port).text


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"SSH-2.0-x\r\n\r\n", b"\xff" * 99 + b"\r\n\r\n"])
def test_what_is_not_http_is_a_failure(answer: bytes) -> None:
    with serving(answer) as server:
        result = get(server.port)
    assert (result.ok, result.http_status) == (False, None)


def test_an_endless_head_is_cut_off() -> None:
    with serving(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000) as server:
        assert not get(server.port).ok


def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n"
    with serving(interim + status(200)) as server:
        assert get(server.port).http_status == 200


def test_one_byte_at_a_time() -> None:
    with serving(status(200), dribble=True) as server:
        assert get(server.port).http_status == 200


def test_refused() -> None:
    result = get(closed_port())
    assert (result.ok, result.http_status) == (False, None)
    assert "Connection refused" in result.text


def test_ipv6() -> None:
    with serving(status(200), host="::1") as server:
        assert get(server.port, host="::1").ok
        assert f"Host: [::1]:{server.port}".encode() in server.requests[0]


def test_https_with_a_certificate_that_nobody_knows() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("somewhere.example").configure_cert(context)
    with serving(status(204), tls=context) as server:
        assert get(server.port, scheme="https").http_status == 204


def test_https_to_a_plain_server() -> None:
    with serving(status(200), eager=True) as server:
        assert not get(server.port, scheme="https").ok


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_hangs_leaves_nothing_open_when_cancelled(scheme: str) -> None:
    results: list[Result] = []
    with serving(hang=True) as server, running_loop() as loop:
        hanging = SocketProbe(lambda talk: http_steps(talk, scheme, "127.0.0.1", server.port, "/"))
        hanging.start(loop, results.append)
        turn_for(loop, 0.1)
        hanging.cancel()
        assert results == []
        assert not holds_a_socket(hanging)


def test_tcp_open_and_closed() -> None:
    with serving(b"") as server:
        assert tcp(server.port) == Result(
            True, f"TCP connection to 127.0.0.1:{server.port} was accepted", connected=True
        )
    refused = tcp(closed_port())
    assert (refused.ok, refused.connected) == (False, False)
    assert "Connection refused" in refused.text


def test_tcp_ipv6() -> None:
    with serving(b"", host="::1") as server:
        assert tcp(server.port, "::1").ok
        assert not tcp(server.port).ok


def test_tcp_filtered_says_nothing_until_cancelled() -> None:
    results: list[Result] = []
    with silent_port() as port, running_loop() as loop:
        made = SocketProbe(partial(tcp_steps, host="127.0.0.1", port=port))
        made.start(loop, results.append)
        turn_for(loop, 0.2)
        made.cancel()
    assert results == []


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1  200  Two Blanks\r\n\r\n",
        b"HTTP/1.0 200 OK\nX: y\n\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX Y: z\r\nName : blank before the colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: \x00\x01\x7f\r\n\r\n",
        b"HTTP/1.1 200 \xff\xfe\r\nX-\xff: \xff\r\n\r\n",
    ],
)
@pytest.mark.parametrize("dribble", [False, True])
def test_sloppy_heads_are_read_as_curl_reads_them(head: bytes, dribble: bool) -> None:
    with serving(head, dribble=dribble) as server:
        assert get(server.port).http_status == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("first", "again", "words"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "more than 16 interim answers"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", "a head of more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\nX:", b"y" * 4096, "a head of more than 65536 bytes"),
        (b"", b"\x16\x03\x01\x00\x00" * 99, "a head of more than 65536 bytes"),
    ],
)
def test_an_endless_answer_is_given_up(scheme: str, first: bytes, again: bytes, words: str) -> None:
    with endless(first, again, tls=self_signed() if scheme == "https" else None) as port:
        result = get(port, scheme=scheme)
    assert (result.ok, result.http_status) == (False, None)
    assert words in result.text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_loop_has_its_turn_between_two_receives(scheme: str) -> None:
    """A server that is always faster than its reader: other callbacks of the loop wait for one receive."""
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1
        loop.post(count)

    results: list[Result] = []
    with (
        endless(
            b"HTTP/1.1 200 OK\r\nX:", b"y" * 4096, tls=self_signed() if scheme == "https" else None
        ) as port,
        running_loop() as loop,
    ):
        made = SocketProbe(lambda talk: http_steps(talk, scheme, "127.0.0.1", port, "/"))
        made.start(loop, results.append)
        loop.post(count)
        turn_until(loop, lambda: bool(results), "a result")
    assert turns >= 3


def test_a_redirect_to_a_long_address_is_told_in_brief() -> None:
    with serving(status(302, "Location: /" + "x" * 60_000), status(500)) as server:
        result = get(server.port)
    assert result.http_status == 500
    assert len(result.text) < 300


def test_a_redirect_of_any_bytes_is_told_in_text() -> None:
    with serving(b"HTTP/1.1 302 F\r\nLocation: //\xff\xfe\xc3/\xff\r\n\r\n") as server:
        result = get(server.port)
    assert not result.ok
    assert result.text.encode("utf-8")


def test_redirects_to_names_that_nobody_answers_for_take_no_thread_each(mocker: MockerFixture) -> None:
    asked = threading.Event()

    def nobody(*_: object, **__: object) -> object:
        asked.wait(PATIENCE)
        raise socket.gaierror("nobody answers")

    mocker.patch("socket.getaddrinfo", nobody)
    results: list[Result] = []
    with serving(status(302, "Location: http://nobody.example/")) as server, running_loop() as loop:
        made = [
            SocketProbe(lambda talk: http_steps(talk, "http", "127.0.0.1", server.port, "/"))
            for _ in range(MAX_LOOKUPS + 3)
        ]
        try:
            for one in made:
                one.start(loop, results.append)
            turn_until(loop, lambda: len(results) == 3, "refusals")
            assert all(result.transient for result in results)
        finally:
            for one in made:
                one.cancel()
            asked.set()
            resolvers_over()


def test_want_of_descriptors_says_nothing_about_the_task() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    results: list[Result] = []
    with serving(status(200)) as server, running_loop() as loop:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            of_http = SocketProbe(lambda talk: http_steps(talk, "http", "127.0.0.1", server.port, "/"))
            of_tcp = SocketProbe(lambda talk: tcp_steps(talk, "127.0.0.1", server.port))
            for made in (of_http, of_tcp):
                made.start(loop, results.append)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [(result.ok, result.transient) for result in results] == [(False, True)] * 2
