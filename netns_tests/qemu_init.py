"""Process 1 of the machine that qemu.py boots: runs pytest in there.

Requests and answers are lines of JSON on a virtio port:

    {"collect": [node ids]}               at first, and once
    {"run": node id, "next": id or null}  ->  {"report": ...} for each phase of the test; before the last one
                                              {"observed": ...} if there is news (observed.Changes)
    when pytest has ended                 ->  {"end": status, "output": text}

Only what is asked for runs, because whoever asks may be one of several that share the tests of a session.
pytest has a process of its own, forked from this one when it is imported already, and so has warm.py.
"""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[1]
MODULES = ("bridge", "br_netfilter", "nf_tables", "overlay", "veth")
ENVIRONMENT = {
    "PATH": f"{TOP}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "MESOKIT_IN_QEMU": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def prepare() -> None:
    """What the shell that executed us (qemu.py) has left to do."""
    for module in MODULES:
        subprocess.run(["modprobe", module], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Runner:
    """A plugin of pytest that runs tests on request and sends every report on."""

    def __init__(self, port: Any) -> None:
        from netns_tests import observed

        self._port = port
        self._config: Any = None
        self._changes = observed.Changes()

    def pytest_configure(self, config: Any) -> None:
        self._config = config

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        while request := json.loads(self._port.readline() or "null"):
            item, following = items[request["run"]], items.get(request["next"])
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "teardown" and (changes := self._changes()):
            tell(self._port, {"observed": changes})
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        tell(self._port, {"report": data})


def tell(port: Any, message: dict[str, Any]) -> None:
    """The port takes as much at once as it has room for."""
    rest = memoryview(json.dumps(message, default=str).encode() + b"\n")
    while rest:
        rest = rest[port.write(rest) :]


def run(port: Any, tests: list[str]) -> None:
    import pytest

    said = io.StringIO()
    options = ["-p", "pytest_mock", "-p", "pytest_timeout", "-p", "no:cacheprovider", "--timeout=400"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main([*options, *tests], plugins=[Runner(port)])
    tell(port, {"end": int(status), "output": said.getvalue()[-20000:]})


def serve(port: Any) -> None:
    tests = json.loads(port.readline())["collect"]
    child = os.fork()
    if child == 0:
        try:
            run(port, tests)
        except BaseException:
            tell(port, {"end": 3, "output": traceback.format_exc()})
        os._exit(0)
    ended, status = 0, 0
    while ended != child:  # others are orphans that came to process 1
        ended, status = os.wait()
    if status != 0:
        tell(port, {"end": 3, "output": f"pytest's process ended with wait status {status}"})


def main() -> None:
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    os.chdir(TOP)
    prepare()
    sys.path[:1] = [str(TOP), str(TOP / "proto")]  # for this file's own folder
    from netns_tests import node, warm

    node.Node.maker = warm.forked()
    for module in ("pytest", "netns_tests.snapshot"):  # run()'s, before it is forked
        importlib.import_module(module)

    # A line is read byte by byte: what follows it is another process's.
    with open(sys.argv[1], "r+b", buffering=0) as raw:  # noqa: PTH123 - a device
        tell(raw, {"ready": os.uname().release})
        serve(raw)


if __name__ == "__main__":
    try:
        main()
    finally:
        traceback.print_exc()
        os.sync()
        subprocess.run(["busybox", "poweroff", "-f"], check=False)
