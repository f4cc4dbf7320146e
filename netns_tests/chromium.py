"""Debian's chromium in a node, driven over a pipe: the Chrome DevTools Protocol as JSON, NUL behind each.

    with chromium(node, folder) as browser:
        page = browser.page("http://127.0.0.1:8099/")
        page.until("document.title != ''")
        page.press("Tab")
        page.picture(folder / "page.png")

The node has no way out but its own interfaces, so the browser has none either. What the page itself does
wrong (errors, what its policy forbids) is in `page.complaints`.
"""

from __future__ import annotations

import base64
import json
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netns_tests.node import Node, NodeError, started, until

_LONGEST = 60.0  # seconds for one answer
_OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--password-store=basic",
)
#: Key: virtual key code, text.
_KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "End": (35, ""),
    "Home": (36, ""),
    "ArrowUp": (38, ""),
    "ArrowDown": (40, ""),
}


@dataclass(slots=True)
class Browser:
    """Commands in, answers and events out; one thread at a time. `folder` is for what a test
    wants to keep.
    """

    folder: Path
    _out: int
    _in: int
    _rest: bytearray = field(default_factory=bytearray)
    _count: int = 0
    _pages: dict[str, Page] = field(default_factory=dict)

    def do(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """One command's answer. NodeError with what the browser says against it."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + _LONGEST
        while True:
            told = self._next(deadline)
            if told.get("id") != self._count:
                page = self._pages.get(told.get("sessionId", ""))
                if page is not None:
                    page.heard(told.get("method", ""), told.get("params", {}))
                continue
            if "error" in told:
                raise NodeError(f"{method}: {told['error']['message']}")
            answer: dict[str, Any] = told["result"]
            return answer

    def _next(self, deadline: float) -> dict[str, Any]:
        while (end := self._rest.find(0)) < 0:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise TimeoutError("chromium does not answer")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise NodeError("chromium has ended")
            self._rest += data
        told: dict[str, Any] = json.loads(self._rest[:end])
        del self._rest[: end + 1]
        return told

    def page(self, url: str, *, width: int = 1200, height: int = 800, dark: bool = False) -> Page:
        """A new page at `url`; it may still be loading."""
        context = self.do("Target.createBrowserContext")["browserContextId"]
        target = self.do("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.do(f"{domain}.enable")
        page.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.do("Emulation.setEmulatedMedia", features=[scheme])
        page.open(url)
        return page


@dataclass(slots=True)
class Page:
    """One page with its own cookies."""

    browser: Browser
    session: str
    complaints: list[str] = field(default_factory=list)

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.do(method, self.session, **parameters)

    def heard(self, method: str, body: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(body["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and body["entry"]["level"] == "error":
            self.complaints.append(f"{body['entry']['text']} {body['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        failed = self.do("Page.navigate", url=url).get("errorText")
        if failed:
            raise NodeError(f"{url}: {failed}")

    def resize(self, width: int, height: int) -> None:
        self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def get(self, expression: str) -> Any:
        """The value of an expression (a promise's result). NodeError for an exception."""
        told = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise NodeError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait for an expression to be true; its value."""
        found: list[Any] = []

        def holds() -> bool:
            try:
                found.append(self.get(f"(found => found instanceof Node || found)({expression})"))
            except NodeError as error:
                if "chromium has ended" in str(error):
                    raise
                return False  # between two documents there is none
            return bool(found[-1])

        until(holds, what=expression)
        return found[-1]

    def press(self, *keys: str) -> None:
        """Keys by name, or single characters."""
        for key in keys:
            code, text = _KEYS.get(key, (0, key))
            shape = {"key": key, "windowsVirtualKeyCode": code, "text": text}
            self.do("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **shape)
            self.do("Input.dispatchKeyEvent", type="keyUp", **shape)

    def type(self, text: str) -> None:
        self.do("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of the first element that is so."""
        spot = self.until(
            "(e => { if (!e) return null; e.scrollIntoView({block: 'center'}); "
            "const r = e.getBoundingClientRect(); return r.width && [r.x + r.width / 2, r.y + r.height / 2] "
            f"}})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=spot[0], y=spot[1], button="left", clickCount=1)

    def picture(self, path: Path, *, whole: bool = False) -> Path:
        """What one sees, as a PNG."""
        told = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))
        return path


@contextmanager
def chromium(node: Node, folder: Path, options: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser in the node, while the block runs; what it writes is below `folder`."""
    own = folder / "chromium"
    own.mkdir()
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    program = ["chromium", *_OPTIONS, f"--user-data-dir={own}", *options, "about:blank"]
    # Programs of a node get three descriptors; the browser wants its pipes as the next two.
    argv = ["sh", "-c", 'exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null', "sh", *program]
    env = {"HOME": str(own), "XDG_RUNTIME_DIR": str(own)}
    with (own / "errors").open("wb") as errors:
        running = node.popen(argv, env=env, stdin=to_read, stdout=from_write, stderr=errors.fileno())
    os.close(to_read)
    os.close(from_write)
    try:
        with started(running):
            yield Browser(folder, to_write, from_read)
    finally:
        os.close(to_write)
        os.close(from_read)
