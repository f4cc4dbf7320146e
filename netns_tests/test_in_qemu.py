"""What runs tests in QEMU (qemu.py), without a machine."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from netns_tests import observed
from netns_tests.qemu_image import with_bytecode
from netns_tests.qemu_init import Runner

pytest_plugins = ["pytester"]


def ask(pytester: pytest.Pytester, file: str, *requests: tuple[str, str | None]) -> list[dict[str, Any]]:
    """What is told of tests of a file that are asked for: each with the one that follows."""
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.makefile("rwb", buffering=0) as port:
        for name, following in requests:
            request = {"run": f"{file}::test_{name}", "next": following and f"{file}::test_{following}"}
            ours.sendall(json.dumps(request).encode() + b"\n")
        ours.shutdown(socket.SHUT_WR)
        pytester.inline_run("-p", "no:cacheprovider", file, plugins=[Runner(port)])
        theirs.shutdown(socket.SHUT_WR)
        with ours.makefile("rb") as answers:
            return [json.loads(line) for line in answers]


def test_only_what_is_asked_for_runs(pytester: pytest.Pytester) -> None:
    """Each machine ran all that the session had, also what another process of the session ran."""
    tests = (f"def test_{name}(thing): print({name!r}, thing)" for name in "abc")
    thing = "@pytest.fixture(scope='module')\ndef thing(): yield 'made'; print('gone')"
    pytester.makepyfile("\n".join(["import pytest", thing, *tests]))
    file = "test_only_what_is_asked_for_runs.py"
    messages = ask(pytester, file, ("c", "a"), ("a", None))
    reports = [each["report"] for each in messages]
    assert [(each["nodeid"][-1], each["when"], each["outcome"]) for each in reports] == [
        (name, when, "passed") for name in "ca" for when in ("setup", "call", "teardown")
    ]
    gone = [
        each["nodeid"][-1] for each in reports if ["Captured stdout teardown", "gone\n"] in each["sections"]
    ]
    assert gone == ["a"], "what two tests share is made once"


def test_what_is_observed_is_there_for_the_next_machine(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored and forgotten there, before the test's last report."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    monkeypatch.setattr(observed, "FOLDER", inside)
    monkeypatch.setattr(observed, "_FROM_QEMU", outside)
    inside.mkdir()
    pytester.makepyfile(
        test_x=f"""
        from pathlib import Path
        def test_a(): Path({str(inside)!r}, "case-1.json").write_text("seen")
        def test_b(): Path({str(inside)!r}, "case-1.json").unlink()
        """
    )
    messages = ask(pytester, "test_x.py", ("a", "b"), ("b", None))
    assert [next(iter(each)) for each in messages] == ["report", "report", "observed", "report"] * 2
    news = [each["observed"] for each in messages if "observed" in each]
    observed.bring(news[0])
    assert observed.for_qemu() == {"/observed/case-1.json": outside / "case-1.json"}
    assert (outside / "case-1.json").read_text() == "seen"
    observed.bring(news[1])
    assert observed.for_qemu() == {}


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
