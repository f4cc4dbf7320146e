"""The API over real HTTP: good requests, bad ones, events, files; by `requests`, as a client would."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.framework.fake_master.master import Master
from executor.framework.fake_master.options import Options
from executor.framework.fake_master.server import FakeMasterServer, serve
from executor.framework.service import serve as serving
from executor.framework.service.api import Site
from executor.framework.service.journal import KEPT
from executor.framework.service.serve import Place, Stored
from executor.framework.service.spec import read_apps
from executor.framework.service.tests.setup import QUICK, agent, settings_for, until
from executor.local_agent.validation import DescriptionError

WEB = {"version": 1, "name": "web", "instances": 2, "command": {"cmd": "sleep 1000"}}
TALK = [
    {
        "name": "test-app",
        "resources": {"cpu": 0.1, "mem": 32.0, "disk": {"size": 64.0}},
        "instances": 2,
        "command": {"cmd": "/bin/sleep 500"},
        "container": {"network": [{"name": "internal-network"}]},
        "strategy": {"type": "unique"},
    }
]


class Client:
    """Asks the API from another thread, since the server has this one."""

    def __init__(self, base: str, token: str = "") -> None:
        self.base = base
        self.token = token
        self.site: Site | None = None

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> requests.Response:
        data = body if isinstance(body, (bytes, str)) or body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= more.pop("headers", {})
        return await asyncio.to_thread(
            requests.request, method, self.base + path, data=data, headers=headers, timeout=20, **more
        )


@asynccontextmanager
async def served(
    folder: Path, *, token: str = "", files: tuple[Path, ...] = (), options: Options = QUICK, **changes: Any
) -> AsyncIterator[tuple[FakeMasterServer, Client]]:
    async with serve(Master(options)) as master:
        for number in (1, 2):
            master.master.register(agent(number), master.now())
        token_file = None
        if token:
            token_file = folder / "token"
            token_file.write_text(f"{token}\n")
        made = serving.Instance()
        place = Place(port=0, token_file=token_file, files=files)
        stored = Stored(sqlite=folder / "state.db")
        task = asyncio.create_task(
            serving.run(settings_for(master.address, **changes), place, stored, made=made)
        )
        try:
            await until(lambda: made.leading.is_set() or task.done())
            site = made.site
            assert site is not None
            await until(lambda: site.framework is not None and site.framework.books.connected)
            found = Client(f"http://127.0.0.1:{made.port}", token)
            found.site = site
            yield master, found
        finally:
            made.stop.set()
            await task


def _tasks(master: FakeMasterServer) -> list[str]:
    return [
        task_id
        for entry in master.master.books.agents.values()
        for task_id, task in entry.agent.tasks.items()
        if not task.ended
    ]


def test_the_talks_routes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (master, client):
            answer = await client.ask("POST", "/v1/api/app", TALK)
            assert answer.status_code == 201, answer.text
            await until(lambda: len(_tasks(master)) == 2)
            hosts = {
                task.info.agent_id.value
                for e in master.master.books.agents.values()
                for task in e.agent.tasks.values()
            }
            assert hosts == {"A1", "A2"}, "strategy unique"
            found = (await client.ask("GET", "/v1/api/app?name=test-app")).json()
            assert found["spec"]["kind"] == "job" and len(found["live"]) == 2
            assert len((await client.ask("GET", "/v1/api/app/all")).json()) == 1
            assert (await client.ask("POST", "/v1/api/app", TALK)).status_code == 409
            assert (await client.ask("DELETE", "/v1/api/app", {"name": "test-app"})).status_code == 202
            await until(lambda: not _tasks(master))

    asyncio.run(scenario())


def test_without_a_token_no_other_sites_page_may_ask(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (_, client):
            for fields in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.example"}):
                request = requests.Request("POST", f"{client.base}/v1/apps", fields, data=json.dumps(WEB))
                with requests.Session() as session:
                    answer = await asyncio.to_thread(session.send, request.prepare(), timeout=20)
                assert answer.status_code == 403 and "only my own page may ask" in answer.json()["message"]
            assert (await client.ask("GET", "/v1/apps")).json() == []

    asyncio.run(scenario())


def test_by_a_name_that_is_not_its_own_nobody_asks(tmp_path: Path) -> None:
    """DNS rebinding: a site whose name leads to 127.0.0.1 by now is of the same origin as what it asks."""

    async def scenario() -> None:
        async with served(tmp_path) as (_, client):
            port = client.base.rpartition(":")[2]
            for host, status in (
                (f"evil.example:{port}", 403),
                (f"127.0.0.1.evil.example:{port}", 403),
                (f"LOCALHOST:{port}", 200),
                (f"192.0.2.7:{port}", 200),
                (f"[2001:db8::7]:{port}", 200),
                (f"{socket.gethostname()}:{port}", 200),
            ):
                answer = await client.ask("GET", "/v1/apps", headers={"Host": host})
                assert answer.status_code == status, host
                assert status == 200 or "--advertise" in answer.json()["message"]

    asyncio.run(scenario())


def test_the_page_may_do_nothing_but_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (_, client):
            answer = await client.ask("GET", "/")
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'; script-src 'sha256-" in policy and "unsafe" not in policy
            assert "connect-src 'self'" in policy

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "refusal",
    [
        ("POST", "/v1/apps", b"{", 400, "line 1"),
        ("POST", "/v1/apps", b"\xff", 400, "UTF-8"),
        ("POST", "/v1/apps", {**WEB, "comand": {}}, 422, "comand: unknown key: expected 'command'"),
        ("POST", "/v1/apps", {**WEB, "instances": 10**6}, 422, "instances: 1000000"),
        ("POST", "/v1/apps", {**WEB, "name": "a/b"}, 422, "name"),
        ("POST", "/v1/apps", {**WEB, "command": {"cmd": ""}}, 422, "command.cmd"),
        ("POST", "/v1/apps", {**WEB, "resources": {"cpu": -1}}, 422, "resources.cpu"),
        ("POST", "/v1/apps", {**WEB, "restart": {"delay": "soon"}}, 422, "restart.delay"),
        (
            "POST",
            "/v1/apps",
            {**WEB, "constraints": [{"field": "@x", "operator": "is"}]},
            422,
            "constraints[0]",
        ),
        ("POST", "/v1/apps", {**WEB, "schedule": {"cron": "* *"}}, 422, "schedule.cron"),
        ("POST", "/v1/apps", b"[" * 100_000, 422, "lists"),
        ("POST", "/v1/apps", b" " * 3_000_000, 413, "2048 kB"),
        ("PUT", "/v1/apps/other", WEB, 422, "'web'"),
        ("GET", "/v1/apps/nobody", None, 404, "nobody"),
        ("GET", "/v1/nothing", None, 404, "/v1/nothing"),
        ("PATCH", "/v1/apps", None, 405, "PATCH"),
        ("POST", "/v1/apps/web/scale", {"instances": "two"}, 422, "instances"),
        ("DELETE", "/v1/instances/x", None, 404, "x"),
        ("GET", "/v1/events?since=x", None, 422, "since"),
        ("DELETE", "/v1/api/app", {}, 422, "name: missing"),
    ],
)
def test_what_is_refused_says_why(tmp_path: Path, refusal: tuple[str, str, Any, int, str]) -> None:
    method, path, body, status, words = refusal

    async def scenario() -> None:
        async with served(tmp_path) as (_, client):
            answer = await client.ask(method, path, body)
            assert answer.status_code == status, answer.text
            assert words in answer.json()["message"]

    asyncio.run(scenario())


def test_a_token_is_asked_for_everywhere_but_where_it_would_help_nobody(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path, token="letmein") as (_, client):  # noqa: S106 (a test's own)
            stranger = Client(client.base)
            assert (await stranger.ask("GET", "/v1/apps")).status_code == 401
            assert (await stranger.ask("POST", "/v1/apps", WEB)).status_code == 401
            assert (await stranger.ask("GET", "/health")).status_code == 200
            assert (await client.ask("GET", "/v1/apps")).status_code == 200

    asyncio.run(scenario())


def test_events_are_numbered_and_go_on_where_one_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (master, client):
            await client.ask("POST", "/v1/apps", WEB)
            await until(lambda: len(_tasks(master)) == 2)
            first = await asyncio.to_thread(_events, client.base, 0, 4)
            assert [number for number, _ in first] == [1, 2, 3, 4]
            rest = await asyncio.to_thread(_events, client.base, 2, 2)
            assert rest == first[2:4]
            behind = await asyncio.to_thread(_events, client.base, 10**6, 1)
            assert behind == [(0, "behind")]

    asyncio.run(scenario())


def test_a_reader_that_does_not_keep_up_is_told_so_and_dropped(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (_, client):
            assert client.site is not None and client.site.framework is not None
            books = client.site.framework.books
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.settimeout(20)
                slow.connect(("127.0.0.1", int(client.base.rpartition(":")[2])))
                slow.sendall(b"GET /v1/events?since=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                await until(lambda: books.journal.watchers == 1)
                for number in range(KEPT):
                    books.say("noise", "web", {"number": number, "text": "x" * 20_000})
                    await asyncio.sleep(0)
                assert books.journal.watchers == 0
                data = await asyncio.to_thread(_all_of, slow)
            assert data.rindex(b"event: behind") > data.rindex(b"event: noise")
            assert len(data) < 20_000 * KEPT
            # Whoever reads is not troubled by one who did not.
            again = await asyncio.to_thread(_events, client.base, books.journal.last - 2, 2)
            assert [kind for _, kind in again] == ["noise", "noise"]

    asyncio.run(scenario())


def _all_of(connection: socket.socket) -> bytes:
    found = bytearray()
    while not found.endswith(b"0\r\n\r\n") and (data := connection.recv(1 << 20)):
        found += data
    return bytes(found)


def _events(base: str, since: int, wanted: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    number = 0
    with requests.get(f"{base}/v1/events?since={since}", stream=True, timeout=20) as response:
        for line in response.iter_lines(chunk_size=1):
            key, _, value = line.decode().partition(": ")
            if key == "id":
                number = int(value)
            elif key == "event":
                found.append((number, value))
                if len(found) == wanted:
                    break
    return found


def test_files_lie_at_paths_made_of_their_content(tmp_path: Path) -> None:
    bundle = tmp_path / "mesokit-executor"
    bundle.write_bytes(b"#!/bin/sh\n" * 1000)

    async def scenario() -> None:
        async with served(tmp_path, files=(bundle,)) as (master, client):
            await client.ask("POST", "/v1/apps", WEB)
            await until(lambda: len(_tasks(master)) == 2)
            executors = [
                e for entry in master.master.books.agents.values() for e in entry.agent.executors.values()
            ]
            (uri,) = executors[0].info.command.uris
            assert uri.executable and uri.cache and uri.value.endswith("/mesokit-executor")
            got = await asyncio.to_thread(requests.get, uri.value, timeout=20)
            assert got.content == bundle.read_bytes()
            head = await asyncio.to_thread(requests.head, uri.value, timeout=20)
            assert head.status_code == 200 and head.headers["content-length"] == str(len(got.content))
            for bad in ("/files/x/mesokit-executor", "/files/../state.db", "/files/"):
                assert (await client.ask("GET", bad)).status_code == 404

    asyncio.run(scenario())


def test_what_is_described_is_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (_, client):
            document = (await client.ask("GET", "/openapi.json")).json()
            for path, operations in document["paths"].items():
                for method in operations:
                    target = path.replace("{name}", "x").replace("{id}", "x").replace("{what}", "approve")
                    if target == "/v1/events":
                        continue
                    answer = await client.ask(method.upper(), target)
                    assert answer.status_code != 405, (method, path)
            assert "<title>mesokit framework" in (await client.ask("GET", "/")).text
            assert "mesokit_framework_leading 1" in (await client.ask("GET", "/metrics")).text

    asyncio.run(scenario())


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
KEYS: tuple[str, ...] = (
    "version",
    "name",
    "kind",
    "instances",
    "command",
    "tasks",
    "resources",
    "ports",
    "container",
    "constraints",
)
KEYS += (
    "healthcheck",
    "readiness",
    "update",
    "restart",
    "kill",
    "schedule",
    "labels",
    "replace_after",
    "role",
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), anything, max_size=8), st.booleans())
def test_any_document_is_an_app_or_has_faults(document: dict[str, Any], based: bool) -> None:
    try:
        apps = read_apps({**WEB, **document} if based else document, "test")
    except DescriptionError as error:
        assert error.faults
    else:
        assert apps


def test_what_an_instance_printed_is_read_from_its_agent_in_pieces(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (master, client):
            await client.ask("POST", "/v1/apps", {**WEB, "instances": 1})
            assert client.site is not None and client.site.framework is not None
            books = client.site.framework.books
            await until(lambda: any(item.state.value == "running" for item in books.instances.values()))
            (live,) = (await client.ask("GET", "/v1/apps/web")).json()["live"]
            path = f"/v1/instances/{live['id']}/logs/stdout"
            first = (await client.ask("GET", path)).json()
            assert "TASK_RUNNING" in first["data"] and first["offset"] == len(first["data"])
            assert (await client.ask("GET", f"{path}?offset={first['offset']}")).json()["data"] == ""
            # Bytes that are no text, and a character that is cut, are counted as they are.
            (found,) = [it for it in (e.agent for e in master.master.books.agents.values()) if it.sandboxes]
            (folder,) = found.sandboxes.values()
            found.said[folder] = ["a\udcff\u00e9\udcc3"]
            strange = (await client.ask("GET", path)).json()
            assert strange == {"data": "a\ufffd\u00e9\ufffd", "offset": 5}
            assert (await client.ask("GET", "/v1/instances/none/logs/stdout")).status_code == 404
            assert (await client.ask("GET", f"{path.removesuffix('stdout')}passwd")).status_code == 404

    asyncio.run(scenario())


def test_a_fault_of_the_talks_form_has_the_key_that_was_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (_, client):
            document = {"name": "web", "command": {"cmd": "true"}, "retry": {"time": "2"}}
            answer = await client.ask("POST", "/v1/api/app", [document])
            assert answer.status_code == 422
            assert answer.json()["message"].startswith('the body: [0].retry.time: "2": expected a duration')
            answer = await client.ask("POST", "/v1/api/app", {**document, "version": 7})
            assert "version: 7: expected 1" in answer.json()["message"]

    asyncio.run(scenario())


def test_an_answer_says_what_a_document_changes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (_, client):
            said = []
            first = {**WEB, "instances": 1}
            second = {**first, "command": {"cmd": "sleep 2000"}}
            for document in (first, first, {**first, "instances": 2}, second, second):
                answer = await client.ask("PUT", "/v1/api/app?force=true", document)
                said.append(answer.json()["message"].split(" from ")[0])
            same = "web is like that already"
            assert said == ["deploying web", same, "scaling web", "updating web", same]
            # Saying the same again takes nobody's way back.
            answer = await client.ask("POST", "/v1/apps/web/deployment/rollback")
            assert answer.json()["status"] == "rolling back"
            answer = await client.ask("POST", "/v1/apps/web/deployment/rollback")
            assert answer.status_code == 409
            assert answer.json()["message"] == "cannot roll 'web' back: no version before it is kept"

    asyncio.run(scenario())
