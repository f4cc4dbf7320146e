"""`mesokit app` against a server that answers whatever a framework, or something else, may answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result

from cni_plugins.cli.app import command

EVIL = "exit 1\x1b]0;owned\x07\x1b[2J"
INSTANCE = {
    "id": "web.1", "state": "failed", "healthy": True, "host": EVIL, "addresses": [], "ports": {},
    "launched": 1, "ended": 2, "killed_for": "", "message": EVIL,
}  # fmt: skip
APP = {
    "name": "web", "kind": "service", "ready": 0, "instances": 1, "version": "1", "live": [INSTANCE],
    "deployment": {"id": "1", "status": "failed", "message": EVIL},
}  # fmt: skip
WHY = {"missing": 1, "why": EVIL, "reasons": [{"offers": 1, "reason": EVIL, "example": EVIL}]}
EVENTS = f"id: 7\ndata: {json.dumps({'time': 1, 'kind': 'instance.failed', 'message': EVIL})}\n\n"


class Answers(BaseHTTPRequestHandler):
    """`pages`: path → body. What is not there is 404 with an odd reason."""

    pages: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        body = self.pages.get(self.path)
        self.send_response(404 if body is None else 200)
        data = json.dumps({"message": f"no {EVIL}"}).encode() if body is None else body.encode()
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_DELETE = do_POST = do_GET

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def framework() -> Iterator[str]:
    Answers.pages = {
        "/v1/apps": json.dumps([APP]),
        "/v1/apps/web": json.dumps(APP),
        "/v1/apps/web/history": json.dumps([INSTANCE]),
        "/v1/apps/web/why": json.dumps(WHY),
        "/v1/events": EVENTS,
        "/v1/instances": "[]",
        "/v1/volumes": "<html>a server of somebody else</html>",
    }
    Answers.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def said(api: str, *words: str) -> Result:
    return CliRunner().invoke(command, ["--api", api, *words])


@pytest.mark.parametrize(
    "words", [["ls"], ["instances", "web"], ["why", "web"], ["events"], ["kill", "other", "--yes"]]
)
def test_what_a_task_or_an_agent_says_does_nothing_to_a_terminal(framework: str, words: list[str]) -> None:
    result = said(framework, *words)
    assert "\\x1b]0;ow" in result.output  # a narrow table ends it there
    assert "\x1b" not in result.output and "\x07" not in result.output


def test_what_is_no_framework_is_said(framework: str) -> None:
    result = said(framework, "volumes")
    assert result.exit_code == 1 and "answers /v1/volumes with something that is not JSON" in result.output
    result = said("http://127.0.0.1:1", "ls")
    assert "does not answer: Connection refused: say with --api or MESOKIT_FRAMEWORK" in result.output
    for odd in ("ftp://127.0.0.1", "http://", ""):
        result = said(odd, "ls")
        assert result.exit_code == 2 and f"{odd!r} is not http://HOST:PORT" in result.output


def test_events_that_end_say_how_to_go_on(framework: str) -> None:
    result = said(framework, "events")
    assert result.exit_code == 1
    assert "it ended the stream; go on with: mesokit app events --since 7" in result.output


def test_a_name_is_one_part_of_a_path_whatever_is_in_it(framework: str) -> None:
    said(framework, "kill", "web?destroy_volumes=true", "--yes")
    said(framework, "scale", "a/b", "0")
    assert "DELETE /v1/apps/web%3Fdestroy_volumes%3Dtrue" in Answers.asked
    assert "POST /v1/apps/a%2Fb/scale" in Answers.asked
