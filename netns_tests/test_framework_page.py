"""The framework's page in a real browser: apps with their state, one app with why it is not placed, what
happens as it happens; hostile names; light and dark, wide and narrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netns_tests.chromium import Page, chromium
from netns_tests.node import Node, started, until
from netns_tests.plugins import MESOKIT

BASE = "http://127.0.0.1:8080"


@pytest.fixture
def page(node: Node, tmp_path: Path) -> Iterator[Page]:
    store = str(tmp_path / "state.db")
    running = node.popen([MESOKIT, "framework", "--fake-master", "--store", store])
    with started(running):
        until(lambda: running.ended() or _ask(node, "/v1/status").get("connected"), what="it is subscribed")
        with chromium(node, tmp_path) as browser:
            yield browser.page(f"{BASE}/")


def _ask(node: Node, path: str, document: Any = None) -> Any:
    more = [] if document is None else ["-d", json.dumps(document), "-H", "Content-Type: application/json"]
    answer = node.run(["curl", "-s", *more, f"{BASE}{path}"], check=False)
    return json.loads(answer.text or "{}")


def _deploy(node: Node, name: str, **keys: Any) -> None:
    app = {"name": name, "command": {"cmd": "sleep 1000"}, "resources": {"cpu": 0.1, "mem": 16}, **keys}
    answer = _ask(node, "/v1/apps", app)
    assert answer.get("app") == name, answer


HOSTILE = "<img src=x onerror=alert(1)>"


def test_apps_and_why_one_is_not_placed(node: Node, page: Page, tmp_path: Path) -> None:
    page.until("document.body.innerText.includes('No app yet')")
    _deploy(node, "web", instances=2)
    page.until("document.body.innerText.includes('2 / 2')")
    _deploy(node, "huge", resources={"cpu": 4000, "mem": 16}, labels={HOSTILE: HOSTILE})
    page.until("document.querySelectorAll('#view button').length === 2")
    page.picture(tmp_path / "apps.png")
    page.get("[...document.querySelectorAll('button')].find(b => b.textContent === 'huge').focus()")
    page.press("Enter")
    page.until("document.body.innerText.includes('1 missing')")
    page.until("document.getElementById('events').innerText.includes('huge')")
    page.resize(360, 640)
    page.picture(tmp_path / "app.png")
    assert page.get("document.documentElement.scrollWidth") <= 360
    assert page.get("document.images.length") == 0
    assert page.complaints == []


def test_what_a_task_printed_comes_through_its_agent_and_goes_on(
    node: Node, page: Page, tmp_path: Path
) -> None:
    _deploy(node, "web")
    page.until("document.body.innerText.includes('1 / 1')")
    page.get("[...document.querySelectorAll('#view button')].find(b => b.textContent === 'web').click()")
    page.until("document.querySelectorAll('#view button').length === 3")
    page.get("document.querySelector('button[aria-label^=\\'stdout of\\']').focus()")
    page.press("Enter")
    page.until("document.querySelector('#output pre').textContent.includes('TASK_RUNNING')")
    assert page.get("document.getElementById('of').textContent").startswith("stdout of web.")
    (instance,) = _ask(node, "/v1/apps/web")["live"]
    node.run(["curl", "-s", "-X", "DELETE", f"{BASE}/v1/instances/{instance['id']}"])
    # It goes on, without being asked for again, and stays when the instance has ended.
    page.until("document.querySelector('#output pre').textContent.includes('TASK_KILLED')")
    page.get("document.querySelector('button[aria-label^=\\'stderr of\\']').click()")
    page.until("document.getElementById('of').textContent.startsWith('stderr of')")
    assert page.get("document.querySelector('#output p').textContent") == ""
    page.resize(360, 640)
    page.picture(tmp_path / "output.png")
    assert page.get("document.documentElement.scrollWidth") <= 360
    page.get(
        "[...document.querySelectorAll('#view button')].find(b => b.textContent.includes('all')).click()"
    )
    page.until("document.getElementById('output').hidden")
    assert page.complaints == []
