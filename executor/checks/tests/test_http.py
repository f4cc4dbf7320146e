"""HTTP and TCP probes against servers that behave and servers that do not."""

import contextlib
import ssl
from functools import partial

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from executor.checks.conversation import SocketProbe
from executor.checks.http import _HttpError, _parse, http_steps
from executor.checks.result import Result
from executor.checks.tcp import tcp_steps
from executor.checks.tests.servers import closed_port, serving, silent_port, status
from executor.process.tests.fixtures import running_loop, turn_for, turn_until


def probe(made: SocketProbe) -> Result:
    """Run a probe to its result, and see that it leaves nothing open."""
    results: list[Result] = []
    with running_loop() as loop:
        made.start(loop, results.append)
        turn_until(loop, lambda: bool(results), "a result")
    assert not holds_a_socket(made)
    assert len(results) == 1
    return results[0]


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
    with contextlib.suppress(_HttpError):
        assert 0 <= _parse(head).status <= 999


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
