"""The page of `mesokit web` in a real browser, which has no network but the node's.

Pictures of it are in the test's folder: look at them when it was changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns_tests.chromium import Browser, Page, chromium
from netns_tests.node import Node
from netns_tests.policy_box import Box, conf
from netns_tests.test_nine_questions import prepare
from netns_tests.test_view import POINT, WEB, asked, attach, run_of
from netns_tests.web import Web, web

READY = "document.getElementById('status').textContent === 'live'"
ROWS = "[...document.querySelectorAll('#rows tr:not([hidden]) a')].map(link => link.textContent)"
FOCUSED = "document.activeElement.textContent"
OPEN = "document.getElementById('inspect').open"


@pytest.fixture
def served(node: Node) -> Iterator[Web]:
    with web(node, "--listen", "127.0.0.1:0") as found:
        yield found


@pytest.fixture
def browser(node: Node, tmp_path: Path) -> Iterator[Browser]:
    with chromium(node, tmp_path) as found:
        yield found


def loaded(browser: Browser, served: Web, *, width: int = 1200, dark: bool = False) -> Page:
    page = browser.page(served.link, width=width, dark=dark)
    page.until(READY)
    return page


@pytest.mark.parametrize("look", ["light 1200", "dark 1200", "light 360", "dark 360"])
def test_every_view(node: Node, ours: str, served: Web, browser: Browser, look: str) -> None:
    prepare(node, ours)
    dark, width, tmp_path = look.startswith("dark"), int(look.split()[1]), browser.folder
    page = loaded(browser, served, width=width, dark=dark)
    assert page.get(ROWS) == [item["container_id"] for item in asked(node, "ls")["items"]]
    assert page.get("document.title") == "node \u2013 mesokit"
    assert page.get("document.querySelectorAll('#rows tr').length") == 3
    assert page.get("document.getElementById('count').textContent") == "3 attachments"
    page.picture(tmp_path / "list.png")
    background, text = (
        page.get(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
    )
    assert contrast(background, text) > 7
    assert (light(background) < 0.5) == dark
    moods = ["#rows td.good", "#rows td.bad", "#rows td.warn", "#rows a", "th"]
    for each in moods if width > 640 else moods[:-1]:
        colour = page.get(f"getComputedStyle(document.querySelector('{each}')).color")
        assert contrast(background, colour) > 4.5, (each, colour, background)  # WCAG 2.1, 1.4.3
    for name, there in (
        ("picture", "#drawing svg .bad"),
        ("events", "#log .bad"),
        ("policy", "#explain:not([hidden])"),
    ):
        page.click(f"nav a[href='#/{name}']")
        page.until(f"document.querySelector('{there}').getBoundingClientRect().width > 0")
        assert page.get("document.querySelector('nav [aria-current]').hash") == f"#/{name}"
        page.picture(tmp_path / f"{name}.png")
        assert page.get("document.documentElement.scrollWidth") <= width, name
        if name == "picture":
            wider = page.get("$('drawing').scrollWidth > $('drawing').clientWidth")
            assert wider == (width == 360) == page.get("!$('wider').hidden"), "what is cut off is told"
    page.get("location.hash = '#/inspect/9ab2c3d4-db'")
    page.until("document.querySelector('.steps .bad')")
    page.picture(tmp_path / "inspect.png")
    assert page.get("document.getElementById('about').scrollWidth") <= width
    cut = "[...document.querySelectorAll('#about pre')].filter(one => one.scrollWidth > one.clientWidth)"
    assert page.get(f"{cut}.length") == 0, "a command can be read as a whole"
    shown = page.get("document.getElementById('about').textContent")
    (item,) = asked(node, "inspect", "9ab2c3d4-db")["items"]
    for text in (item["mac"], item["nsenter"], *(step["remedy"] for step in item["steps"])):
        assert text in shown, text
    assert page.complaints == []


def light(colour: str) -> float:
    """Relative luminance (WCAG 2.1) of `rgb(…)`."""
    parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_keyboard_is_enough(node: Node, ours: str, served: Web, browser: Browser) -> None:
    for number in range(3):
        attach(node, ours, WEB, f"c{number}")
    page = loaded(browser, served)
    page.press("/")
    assert page.get("document.activeElement.id") == "words"
    assert page.get("document.activeElement.matches(':focus-visible')")
    page.press("ArrowDown", "ArrowDown")
    assert page.get(FOCUSED) == "c1"
    assert page.get("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("End")
    assert page.get(FOCUSED) == "c2"
    page.press("Home", "ArrowDown", "Enter")
    page.until(f"{OPEN} && document.querySelector('.steps li')")
    assert page.get("document.getElementById('inspected').textContent") == "container c1"
    page.press("Escape")
    page.until(f"!{OPEN} && location.hash === '#/list'")
    assert page.get(FOCUSED) == "c1"  # back where one was
    page.press("/", *"10.9.0.4")  # a name like c2 may be a part of a MAC address
    assert page.get(ROWS) == ["c2"]
    page.press("Escape")
    assert page.get(ROWS) == ["c0", "c1", "c2"]
    # Tab order: the views, the filter, one row (arrows do the rest), and round again.
    page.get("document.activeElement.blur(); document.body.tabIndex = -1; document.body.focus()")
    seen = []
    for _ in range(8):
        page.press("Tab")
        seen.append(page.get("document.activeElement.id || document.activeElement.textContent"))
    assert seen == ["Containers", "Picture", "Events", "Policy", "words", "network", "state", "c2"]
    assert page.complaints == []


EVIL = "<img src=x onerror=alert(1)>\u202egnp\x1b]0;x\x07"


def test_hostile_names_are_text(node: Node, ours: str, served: Web, browser: Browser) -> None:
    attach(node, ours, POINT, "c1")
    run_of(node, "c1", "executor", EVIL.replace("/", ""), "<script>boom()</script>".replace("/", "|"))
    record = next(node.path("/run/mesokit/attachments/ptp-net").iterdir())
    text = record.read_text()
    record.write_text(text.replace('"10.8.0.2/28"', '"10.8.0.2/28","x":"\\"><svg onload=alert(1)>"'))
    page = loaded(browser, served)
    page.get("window.alert = () => window.harmed = true")
    for name in ("list", "picture", "events", "inspect/c1"):
        page.get(f"location.hash = '#/{name}'")
        page.until({"picture": "document.querySelector('#drawing svg')"}.get(name, "true"))
    page.until("document.querySelector('.steps li')")
    assert (
        page.get("document.querySelectorAll('img, script:not([src]), iframe, [onerror], [onload]').length")
        == 0
    )
    told = page.get("document.querySelector('#rows').textContent")
    assert "<img src=x onerror=alert(1)>\\u202egnp\\x1b]0;x\\x07" in told and "\u202e" not in told
    assert page.get("window.harmed === undefined")
    # What would be markup does nothing even where it is put as such.
    page.get("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.harmed = true\">')")
    page.get("new Promise(done => setTimeout(done, 200))")
    assert page.get("window.harmed === undefined")
    assert page.get("fetch('http://127.0.0.1:1/').then(() => 'sent', () => 'refused')") == "refused"


def test_what_happens_is_there_without_asking(node: Node, ours: str, served: Web, browser: Browser) -> None:
    attach(node, ours, WEB, "c1")
    page = loaded(browser, served)
    attach(node, ours, WEB, "c0")
    page.until(f"{json.dumps(['c0', 'c1'])}.join() === {ROWS}.join()")
    (row,) = asked(node, "ls", "c0")["items"]
    page.get("location.hash = '#/inspect/c0'")
    page.until(f"{OPEN} && document.querySelector('.facts .good')")
    node.shell(f"ip link set {row['host_interface']} down")
    page.until("document.querySelector('#rows td.bad').textContent === 'down'")
    page.until("document.querySelector('.facts .bad')")  # the open one as well
    node.cni("DEL", f"{ours}/chain", WEB, "c0", "/run/netns/c0").ok()
    page.until(f"{ROWS}.join() === 'c1'")
    page.until("document.querySelector('#about').textContent.startsWith('It is detached')")
    page.press("Escape")
    page.click("nav a[href='#/events']")
    page.until("document.querySelector('#log').textContent.includes('detached')")
    assert page.complaints == []


def test_policy_says_who_refuses(node: Node, ours: str, served: Web, browser: Browser) -> None:
    for name in ("web-1", "db-1"):
        Box(node, ours, name, conf("isolated"))
    page = loaded(browser, served)
    page.click("nav a[href='#/policy']")
    page.click("input[name=from]")
    page.type("web-1")
    page.press("Tab")
    page.type("db-1")
    page.press("Enter")
    page.until("document.querySelectorAll('#verdict .bad').length === 2")
    assert "is refused (by the" in page.get("document.querySelector('#verdict').textContent")
    page.click("input[name=to]")
    page.type("x")
    page.press("Enter")
    page.until("document.querySelector('#verdict').textContent.includes('is no container under policy')")


def test_without_the_link_nothing_is_shown(node: Node, ours: str, served: Web, browser: Browser) -> None:
    attach(node, ours, POINT, "c1")
    page = browser.page(served.link.partition("#")[0])
    page.until("document.getElementById('status').textContent.includes('open the link')")
    assert page.get("document.querySelectorAll('#rows tr').length") == 0
    page.open("about:blank")
    page.open(served.link)
    page.until(READY)
    assert page.get("location.hash") == "#/list"  # the token is not left there
    assert page.get("document.cookie") == ""
    page.do("Page.reload")
    page.until(f"{READY} && document.querySelectorAll('#rows tr').length === 1")


def test_a_thousand_containers(node: Node, ours: str, served: Web, browser: Browser) -> None:
    attach(node, ours, WEB, "c0000")
    clone(node, 1000)
    page = browser.page("about:blank")
    page.do("Page.addScriptToEvaluateOnNewDocument", source=TIMED)
    began = time.monotonic()
    page.open(served.link)
    page.until("window.painted")
    took = time.monotonic() - began
    assert page.get("document.querySelectorAll('#rows tr').length") == 1000
    page.picture(browser.folder / "thousand.png")
    painted = page.get("window.painted")
    changed = page.get(UPDATED)
    figures = (
        f"list painted after {painted:.0f} ms ({took * 1000:.0f} ms asked from here), update {changed:.0f} ms"
    )
    (browser.folder / "figures").write_text(figures)
    # The wish is 1 s and 100 ms; a busy machine may take its time.
    assert painted < 20_000 and changed < 5_000
    page.press("/", *"c0777")
    assert page.get(ROWS) == ["c0777"]
    assert page.complaints == []


TIMED = """
addEventListener('DOMContentLoaded', () => new MutationObserver((_, observer) => {
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.painted = performance.now() }));
}).observe(document.getElementById('rows'), {childList: true}));
"""
UPDATED = """
new Promise(done => {
  const items = [...rows.values()].slice(0, 10).map(row => ({...row.item, state: 'down'}));
  items.push({...items[0], container_id: 'c0500x'});
  const began = performance.now();
  change({items, gone: []});
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
})
"""


def clone(node: Node, count: int) -> None:
    """As many attachments as that, by the record of the only one that there is."""
    (record,) = node.path("/run/mesokit/attachments/web-net").iterdir()
    text = record.read_text()
    for number in range(1, count):
        record.with_name(f"{number:032x}").write_text(text.replace("c0000", f"c{number:04}"))
