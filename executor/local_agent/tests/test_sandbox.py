"""Sandboxes, what follows them, and what is fetched into them."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from executor.local_agent.environment import Identity
from executor.local_agent.fetch import FetchError, fetch
from executor.local_agent.sandbox import Follower, make_sandbox
from executor.local_agent.task_file import read_description

IDENTITY = Identity("S0", "F", "an executor")


def fetched(uri: dict[str, object], sandbox: Path) -> None:
    task = {"name": "t", "task_id": {"value": "t"}, "command": {"value": "true", "uris": [uri]}}
    (request,) = read_description(json.dumps(task).encode(), "test")
    asyncio.run(fetch(request, sandbox))


def test_layout_is_an_agents(tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path, IDENTITY, "c1", "")
    assert sandbox == tmp_path / "slaves/S0/frameworks/F/executors/an executor/runs/c1"
    assert (sandbox.parent / "latest").resolve() == sandbox
    assert sorted(path.name for path in sandbox.iterdir()) == ["stderr", "stdout"]
    second = make_sandbox(tmp_path, IDENTITY, "c2", "")
    assert (sandbox.parent / "latest").resolve() == second


def test_follower_tells_what_is_new_and_survives_rotation(tmp_path: Path) -> None:
    sandbox = make_sandbox(tmp_path, IDENTITY, "c1", "")
    follower = Follower(sandbox)
    (sandbox / "stdout").write_bytes(b"one")
    assert follower.read() == [("stdout", b"one")]
    assert follower.read() == []
    (sandbox / "stderr").write_bytes(b"two")
    assert follower.read() == [("stderr", b"two")]
    (sandbox / "stdout").write_bytes(b"3")
    assert follower.read() == [("stdout", b"3")]


def test_files_are_copied_and_made_executable(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("x")
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    fetched({"value": f"file://{tmp_path}/tool", "executable": True, "output_file": "bin/t"}, sandbox)
    assert (sandbox / "bin/t").stat().st_mode & 0o111 == 0o111


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_archives_are_unpacked_unless_told_otherwise(name: str, tmp_path: Path) -> None:
    (tmp_path / "inner").write_text("x")
    if name.endswith("zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as zipped:
            zipped.write(tmp_path / "inner", "inner")
    else:
        with tarfile.open(tmp_path / name, "w:gz") as tape:
            tape.add(tmp_path / "inner", "inner")
    for extract in (False, True):
        sandbox = tmp_path / f"sandbox-{extract}"
        sandbox.mkdir()
        fetched({"value": str(tmp_path / name), "extract": extract}, sandbox)
        assert (sandbox / "inner").exists() is extract


def test_http(tmp_path: Path) -> None:
    (tmp_path / "served").write_text("x")
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        fetched({"value": f"http://127.0.0.1:{server.server_port}/served"}, sandbox)
        server.shutdown()
        thread.join()
    assert (sandbox / "served").read_text() == "x"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ({"value": "/nothing/there"}, "No such file"),
        ({"value": "hdfs://x/y"}, "expected http, https, file"),
        ({"value": "http://x/"}, "no file name"),
        ({"value": "/etc/hostname", "output_file": "../../escape"}, "outside the sandbox"),
    ],
)
def test_failures_name_the_uri(uri: dict[str, object], reason: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"cannot fetch '{uri['value']}'.*{reason}"):
        fetched(uri, tmp_path)


def test_what_a_task_puts_in_the_place_of_its_output_neither_blocks_nor_misleads(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.mkfifo(tmp_path / "stdout")
    (tmp_path / "stderr").symlink_to("secret")
    assert Follower(tmp_path).read() == []
