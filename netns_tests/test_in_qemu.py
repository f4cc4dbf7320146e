"""What runs tests in QEMU (qemu.py), without a machine."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from netns_tests.qemu_image import with_bytecode
from netns_tests.qemu_init import Runner

pytest_plugins = ["pytester"]


def test_only_what_is_asked_for_runs(pytester: pytest.Pytester) -> None:
    """Each machine ran all that the session had, also what another process of the session ran."""
    tests = (f"def test_{name}(thing): print({name!r}, thing)" for name in "abc")
    thing = "@pytest.fixture(scope='module')\ndef thing(): yield 'made'; print('gone')"
    pytester.makepyfile("\n".join(["import pytest", thing, *tests]))
    file = "test_only_what_is_asked_for_runs.py"
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("rwb", buffering=0) as port:
        for name, following in (("c", "a"), ("a", None)):
            request = {"run": f"{file}::test_{name}", "next": following and f"{file}::test_{following}"}
            ours.sendall(json.dumps(request).encode() + b"\n")
        ours.shutdown(socket.SHUT_WR)
        pytester.inline_run("-p", "no:cacheprovider", file, plugins=[Runner(port)])
        port.flush()
        theirs.shutdown(socket.SHUT_WR)
        with ours.makefile("rb") as answers:
            reports: list[dict[str, Any]] = [json.loads(line)["report"] for line in answers]
    assert [(each["nodeid"][-1], each["when"], each["outcome"]) for each in reports] == [
        (name, when, "passed") for name in "ca" for when in ("setup", "call", "teardown")
    ]
    gone = [
        each["nodeid"][-1] for each in reports if ["Captured stdout teardown", "gone\n"] in each["sections"]
    ]
    assert gone == ["a"], "what two tests share is made once"


def test_python_is_compiled_once_for_each_content(tmp_path: Path) -> None:
    """In QEMU compiling takes ten times as long, and each process did it where the checkout has none."""
    source, cache = tmp_path / "a.py", tmp_path / "cache"
    for text in ("x = 1\n", "x = 12\n"):
        source.write_text(text)
        os.utime(source, (10, len(text)))
        entries = with_bytecode({str(source): source}, cache)
        made = entries.pop(importlib.util.cache_from_source(str(source)))
        assert entries == {str(source): source}
        before = made.stat().st_mtime_ns
        with_bytecode({str(source): source}, cache)
        assert made.stat().st_mtime_ns == before
        loader = importlib.util.spec_from_file_location("a", made)
        assert loader is not None and loader.loader is not None
        module = importlib.util.module_from_spec(loader)
        loader.loader.exec_module(module)
        assert f"x = {module.x}\n" == text
        assert module.__file__ == str(made)
    assert not (tmp_path / "__pycache__").exists()
    assert len(list((cache / "bytecode").iterdir())) == 1
