"""Measures the page of `mesokit web` in Debian's chromium, in the node it is asked for.

The page shows 1,000 attachments. Milliseconds: `first paint` from the beginning of its loading until the list
is painted, and `update` from a change of ten attachments and a new one until that is painted; both as the
page's own clock tells, after each loading.
"""

from __future__ import annotations

from pathlib import Path

from netns_tests.chromium import chromium
from netns_tests.node import Node
from netns_tests.test_view import WEB, attach
from netns_tests.test_web_page import TIMED, UPDATED, clone
from netns_tests.web import web

CONTAINERS = 1000
_UPDATES = 5


def measured(node: Node, program: str, plugins: str, rounds: int, folder: Path) -> dict[str, list[float]]:
    attach(node, plugins, WEB, "c0000")
    clone(node, CONTAINERS)
    found: dict[str, list[float]] = {"first paint": [], "update": []}
    with web(node, "--listen", "127.0.0.1:0", program=program) as served, chromium(node, folder) as browser:
        for _ in range(rounds):
            page = browser.page("about:blank")
            page.do("Page.addScriptToEvaluateOnNewDocument", source=TIMED)
            page.open(served.link)
            page.until("window.painted")
            found["first paint"].append(page.get("window.painted"))
            found["update"] += [page.get(UPDATED) for _ in range(_UPDATES)]
            page.open("about:blank")  # its stream ends
    return found
