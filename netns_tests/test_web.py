"""`mesokit web` on the wire: its answers are the commands', it lets in whom it should, and nothing writes.

The page in a browser: test_web_page.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from netns_tests.node import Node
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, conf
from netns_tests.test_view import POINT, WEB, asked, attach, published, run_of
from netns_tests.web import SOCKET, Web, web

USER = ("setpriv", "--reuid", "1000", "--clear-groups")
MORE = {"node": "node", "hidden": []}
CHANGING = ("counters", "neighbours")


def still(value: Any) -> Any:
    """A document without what traffic and time change."""
    if isinstance(value, dict):
        return {key: still(item) for key, item in value.items() if key not in CHANGING}
    if isinstance(value, list):
        return [still(item) for item in value]
    return value.removesuffix(" tentative") if isinstance(value, str) else value


@pytest.fixture(params=["tcp", "unix"])
def served(request: pytest.FixtureRequest, node: Node) -> Iterator[Web]:
    words = ("--listen", "127.0.0.1:0") if request.param == "tcp" else ()
    with web(node, *words) as found:
        yield found


def test_the_answers_are_those_of_the_commands(node: Node, plugins: str, served: Web) -> None:
    attach(node, plugins, published(WEB, 8080), "c1")
    attach(node, plugins, POINT, "c2")
    run_of(node, "c1", "web", "web.1")
    assert served.ask("v1/attachments").json() == asked(node, "ls") | MORE
    for name in ("c1", "web.1", "10.9.0.2", "tcp/8080"):
        answer = served.ask(f"v1/inspect?name={name}")
        assert still(answer.json()) == still(asked(node, "inspect", name)) | {"hidden": []}, name
    picture = served.ask("v1/graph")
    assert picture.fields["content-type"].startswith("image/svg+xml")
    assert picture.body.decode() == node.run([MESOKIT, "graph", "--svg"]).text
    one = served.ask("v1/graph?network=ptp-net").body.decode()
    assert one == node.run([MESOKIT, "graph", "--svg", "-n", "ptp-net"]).text and 'data-container="c2"' in one


def test_policy_is_explained_as_the_command_does(node: Node, ours: str, served: Web) -> None:
    for name, role in (("web-1", "web"), ("db-1", "db")):
        Box(node, ours, name, conf("isolated"), role=role)
    told = node.run([MESOKIT, "policy", "explain", "web-1", "db-1", "tcp/80", "--json"], check=False).json()
    assert served.ask("v1/explain?from=web-1&to=db-1&traffic=tcp/80").json() == told
    assert {item["allowed"] for item in told} == {False}
    wrong = served.ask("v1/explain?from=web-1&to=nobody&traffic=tcp/80")
    assert wrong.status == 422 and "is no container under policy" in wrong.json()["message"]


REFUSED: list[tuple[str, dict[str, str], int, str]] = [
    ("v1/attachments", {"host": "evil.example"}, 403, "not a name of mine"),
    ("v1/attachments", {"host": "127.0.0.1.evil.example:8099"}, 403, "not a name of mine"),
    ("v1/attachments", {"host": "127.0.0.1@evil.example"}, 403, "not a name of mine"),
    ("v1/attachments", {"host": "10.0.0.1"}, 403, "not a name of mine"),
    ("v1/attachments", {"host": ""}, 400, ""),
    ("", {"host": "evil.example"}, 403, "not a name of mine"),
    ("v1/events", {"host": "evil.example"}, 403, "not a name of mine"),
    ("v1/attachments", {"sec_fetch_site": "cross-site"}, 403, "only my own page"),
    ("v1/attachments", {"sec_fetch_site": "same-site"}, 403, "only my own page"),
    ("v1/attachments", {"origin": "http://127.0.0.1:1"}, 403, "only my own page"),
    ("v1/attachments", {"origin": "null"}, 403, "only my own page"),
    ("v1/attachments", {"content_length": "3"}, 413, "without a body"),
    ("v1/attachments", {"transfer_encoding": "chunked"}, 413, "without a body"),
    ("v1/attachments?all=1", {}, 422, "all: unknown parameter"),
    ("v1/inspect?name=%ff", {}, 400, "cannot be read"),
    ("v1/inspect?name=nobody", {}, 404, "no attachment is recorded"),
    ("v1/events?since=-1", {}, 422, "since: '-1'"),
    ("v1/events?since=9999999999", {}, 422, "2678400 at most"),
    ("v1/attachments/", {}, 404, "nothing of that name"),
    ("../etc/passwd", {}, 404, "nothing of that name"),
    ("v1/../web.py", {}, 404, "nothing of that name"),
]


def test_what_is_refused(served: Web) -> None:
    for path, fields, status, sentence in REFUSED:
        answer = served.ask(path, **fields)
        assert answer.status == status, (path, fields, answer)
        assert not sentence or sentence in answer.json()["message"], (path, answer)
        assert status == 400 or answer.fields["content-security-policy"].startswith("default-src 'none'")
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        answer = served.ask("v1/attachments", method)
        assert (answer.status, answer.fields["allow"]) == (405, "GET"), method
    assert served.ask("v1/attachments", host="[::1]:9", sec_fetch_site="same-origin").status == 200


def test_over_tcp_the_token_or_its_cookie_lets_in(node: Node) -> None:
    with web(node, "--listen", "127.0.0.1:0") as served:
        assert len(served.token) >= 40 and len(served.base) >= 16
        for given in ("", "Bearer", "Bearer x", f"Basic {served.token}", f"Bearer {served.token[:-1]}"):
            for path in ("v1/attachments", "v1/session", "v1/events", "v1/nothing"):
                answer = served.ask(path, authorization=given)
                assert (answer.status, answer.fields["www-authenticate"]) == (401, "Bearer"), (given, path)
        for cookie in ("mesokit=", "mesokit=x", f"mesokit={served.token}", f"other={served.token}"):
            assert served.ask("v1/attachments", cookie=cookie).status == 401, cookie
        cookie, *flags = served.ask("v1/session").fields["set-cookie"].split("; ")
        assert flags == [f"Path={served.base}", "HttpOnly", "SameSite=Strict"]
        assert served.token not in cookie
        assert served.ask("v1/attachments", cookie=cookie).status == 200
        assert served.ask("v1/attachments", cookie=f"a=b; {cookie}").status == 200
        # What a browser loads without it holds nothing of the node.
        for path in ("", "web.js", "web.css"):
            answer = served.ask(path, authorization="")
            assert answer.status == 200 and answer.fields["x-content-type-options"] == "nosniff"
            assert served.token.encode() not in answer.body
        elsewhere = Web(node, f"http://127.0.0.1:{served.port}/#{served.token}", served.running)
        assert elsewhere.ask("").status == elsewhere.ask("v1/attachments").status == 404
        assert served.token.encode() not in served.running.errors()


def take(events: Iterator[tuple[str, Any]], kind: str, wanted: Callable[[Any], bool]) -> Any:
    """The next body of this kind that is wanted."""
    return next(body for told, body in events if told == kind and wanted(body))


def noted(events: Iterator[tuple[str, Any]], told: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    for item in events:
        told.append(item)
        yield item


def test_the_stream_tells_what_happens(node: Node, plugins: str) -> None:
    attach(node, plugins, WEB, "c1")
    with web(node) as served, served.stream() as stream:
        told: list[tuple[str, Any]] = []
        events = noted(stream, told)
        assert next(events) == ("all", asked(node, "ls") | MORE)
        kind, past = next(events)
        assert kind == "past" and [item["kind"] for item in past] == ["attached"]
        attach(node, plugins, WEB, "c2")
        # A look may fall into the attachment: then it is unfinished first.
        take(events, "changes", lambda body: body["items"][0]["state"] == "up")
        (row,) = asked(node, "ls", "c2")["items"]
        node.shell(f"ip link set {row['host_interface']} down")
        changes = take(events, "changes", lambda body: body["items"][0]["state"] == "down")
        assert changes == {"items": [row | {"state": "down"}], "gone": []}
        assert take(events, "event", lambda body: body["about"].endswith("-> down"))["about"] == "up -> down"
        node.cni("ADD", f"{plugins}/chain", WEB | {"plugins": []}, "c3", "/run/netns/c2")
        assert take(events, "event", lambda body: body["kind"] == "failed")["container"] == "c3"
        node.cni("DEL", f"{plugins}/chain", WEB, "c2", "/run/netns/c2").ok()
        assert take(events, "changes", lambda body: body["gone"])["gone"] == [["web-net", "c2", "eth0"]]
        assert take(events, "event", lambda body: body["kind"] == "detached")["container"] == "c2"
    kinds = [body["kind"] for kind, body in told if kind == "event" and body["container"] == "c2"]
    assert kinds[0] == "attached" and kinds.count("attached") == kinds.count("detached") == 1


def test_there_is_a_most_of_streams_and_closed_ones_make_room(node: Node) -> None:
    with web(node) as served:
        streams = [served.connected() for _ in range(16)]
        for each in streams:
            each.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while b"event: past" not in (each.recv(65536)):
                pass
        full = served.ask("v1/events")
        assert full.status == 503 and "too many pages" in full.json()["message"]
        assert served.ask("v1/attachments").status == 200
        for each in streams:
            each.close()
        # Who is gone is noticed when there is something to say.
        node.shell("ip netns add c1")
        with served.connected() as other:
            other.sendall(b"GET /v1/attachments HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert b"200 OK" in other.recv(65536)


def test_the_socket_is_roots_and_goes_with_its_server(node: Node) -> None:
    with web(node) as served:
        assert node.path(SOCKET).stat().st_mode & 0o777 == 0o600
        second = node.run([MESOKIT, "web", "--socket", SOCKET], check=False)
        assert second.status == 1 and b"somebody serves there already" in second.stderr
        node.path(SOCKET).chmod(0o666)  # as a careless hand might
        told = node.run([*USER, "curl", "-s", "--unix-socket", SOCKET, "http://localhost/v1/attachments"])
        assert told.json() == {"message": "user 1000 may not ask here"}
        served.running.kill(signal.SIGTERM)
        assert served.running.wait(30).status == 0
        assert not node.path(SOCKET).exists()
    with web(node) as served:
        served.running.kill()
        served.running.wait(30)
        assert node.path(SOCKET).exists()
    with web(node) as served:  # what a killed one left is in nobody's way
        assert served.ask("v1/attachments").status == 200


def test_a_path_that_is_somebody_elses_is_refused(node: Node) -> None:
    node.shell(
        "mkdir -m 0777 /run/open; mkdir /run/theirs; chown 1000 /run/theirs; echo precious > /run/file"
    )
    for path in ("/run/open/s", "/run/theirs/s"):
        told = node.run([MESOKIT, "web", "--socket", path], check=False)
        assert told.status == 1 and b"choose a directory that they may not" in told.stderr, path
    told = node.run([MESOKIT, "web", "--socket", "/run/file"], check=False)
    assert told.status == 1 and b"is no socket" in told.stderr
    assert node.path("/run/file").read_text() == "precious\n"


@pytest.mark.parametrize(
    ("listen", "sentence"),
    [
        ("0.0.0.0:8099", "on loopback only: 127.0.0.1:8099"),
        ("192.0.2.2:8099", "on loopback only"),
        ("node.example:8099", "on loopback only"),
        ("8099", "expected HOST:PORT"),
        ("127.0.0.1:x", "expected HOST:PORT"),
        ("127.0.0.1:70000", "expected HOST:PORT"),
    ],
)
def test_no_address_but_loopback(node: Node, listen: str, sentence: str) -> None:
    told = node.run([MESOKIT, "web", "--listen", listen], check=False)
    assert told.status == 2 and sentence in " ".join(told.stderr.decode().split())


def test_a_port_that_is_taken_is_named(node: Node) -> None:
    with web(node, "--listen", "127.0.0.1:0") as served:
        second = node.run([MESOKIT, "web", "--listen", f"127.0.0.1:{served.port}"], check=False)
    assert second.status == 1 and b"cannot listen on address '127.0.0.1'" in second.stderr


def test_who_is_not_root_sees_what_he_may_and_is_told_the_rest(node: Node, ours: str) -> None:
    attach(node, ours, POINT, "c1")
    with web(node, "--listen", "127.0.0.1:0", user=USER) as served:
        listing = served.ask("v1/attachments").json()
        assert listing["items"] == [] and "only root may read" in listing["hidden"][0]
        assert "only root may read" in served.ask("v1/inspect?name=c1").json()["message"]
        assert served.ask("v1/graph").body.startswith(b"<svg")
        assert served.ask("v1/explain?from=10.8.0.2&to=10.8.0.3&traffic=tcp/80").status == 503
