"""`mesokit framework --local`: volumes of real instances, and what they print, on one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from netns_tests.node import Node, started, until
from netns_tests.plugins import MESOKIT

BASE = "http://127.0.0.1:8080"

COUNTS = {
    "version": 1,
    "name": "db",
    "command": {"cmd": "echo start >> data/starts; wc -l < data/starts; exec sleep 1000"},
    "resources": {"cpu": 0.1, "mem": 32},
    "volumes": [{"name": "data", "size": 16, "path": "data"}],
    "kill": {"grace": "1secs"},
}


def _ask(node: Node, method: str, path: str, document: Any = None) -> Any:
    more = [] if document is None else ["-d", json.dumps(document), "-H", "Content-Type: application/json"]
    answer = node.run(["curl", "-s", "-X", method, *more, f"{BASE}{path}"], check=False)
    return json.loads(answer.text or "{}")


def _running(node: Node, but: str = "") -> str:
    """The instance that runs, "" while there is none, or only `but`."""
    live = _ask(node, "GET", "/v1/apps/db").get("live", ())
    return next((it["id"] for it in live if it["state"] == "running" and it["id"] != but), "")


def _printed(node: Node, instance: str) -> str:
    return str(_ask(node, "GET", f"/v1/instances/{instance}/logs/stdout").get("data", ""))


def test_volume(node: Node, tmp_path: Path) -> None:
    """It is there for the next instance, and goes when that is asked for, and then only."""
    root = tmp_path / "r"
    options = ["--local", "--role", "db", "--store", str(tmp_path / "state.db")]
    running = node.popen([MESOKIT, "framework", *options], env={"MESOKIT_ROOT": str(root)})
    with started(running):
        until(
            lambda: running.ended() or _ask(node, "GET", "/v1/status").get("connected"),
            what="it is subscribed",
        )
        answer = _ask(node, "POST", "/v1/apps", COUNTS)
        assert answer.get("app") == "db", answer
        until(lambda: _running(node), what="the first instance runs")
        first = _running(node)
        until(lambda: _printed(node, first).split() == ["1"], what="it found an empty volume")
        _ask(node, "DELETE", f"/v1/instances/{first}")
        until(lambda: _running(node, first), what="the next instance runs")
        second = _running(node, first)
        until(lambda: _printed(node, second).split() == ["2"], what="it found what the first had left")
        logs = [MESOKIT, "app", "--api", BASE, "logs"]
        assert node.run([*logs, "db"]).text.split() == ["2"]  # the app's name will do: it has one instance
        bad = tmp_path / "typo.json"
        bad.write_text(json.dumps({**COUNTS, "resource": {}}))
        failed = node.run([MESOKIT, "app", "--api", BASE, "deploy", str(bad)], check=False)
        assert f"{bad}: resource: unknown key" in failed.stderr.decode()
        (folder,) = (root / "var/lib/mesokit/agent/volumes").iterdir()
        node.run([MESOKIT, "app", "--api", BASE, "kill", "db", "--destroy-volumes"])
        until(lambda: not folder.exists(), what="the volume is destroyed")
        until(lambda: not _ask(node, "GET", "/v1/volumes"), what="nothing is known of it")
