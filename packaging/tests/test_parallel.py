"""How the tests are spread over processes (netns_tests/parallel.py)."""

from __future__ import annotations

from importlib.util import source_hash
from pathlib import Path

import pytest

from netns_tests.parallel import LONG, QEMU, WAITING, kept_together

pytest_plugins = ["pytester"]
TOP = Path(__file__).resolve().parents[2]


def test_what_takes_long_begins_first(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the table at first, then by what the last run has told."""
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    pytester.makepyfile(
        test_a="def test_a(): pass",
        test_b="def test_b(): pass",
        test_c="import time\ndef test_c(): time.sleep(0.3)",
    )
    options = ("-p", "netns_tests.parallel", "-n", "1", "--dist", "loadfile", "-v")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=3)
    second = pytester.runpytest_subprocess(*options)
    lines = [line for line in second.outlines if "PASSED" in line]
    assert "test_c" in lines[0]


def test_one_process_begins_with_what_waits(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever takes longer is left to the others, and no test is left out."""
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    text = "import time\ndef test_x(): time.sleep(0.2)\ndef test_y(): pass\n"
    pytester.makepyfile(**{f"test_{name}": text for name in "abcde"})
    (pytester.mkdir("netns_tests") / "test_dhcp.py").write_text(text)
    (pytester.path / "netns_tests" / "test_policy.py").write_text(text)
    options = ("-p", "netns_tests.parallel", "-n", "4", "--dist", "loadfile", "-v", "--import-mode=importlib")
    run = pytester.runpytest_subprocess(*options)
    run.assert_outcomes(passed=14)
    done = {line.split()[-1]: line.split()[0] for line in run.outlines if "PASSED" in line}
    assert {worker for test, worker in done.items() if test.startswith("netns_tests/")} == {"[gw0]"}


def test_what_takes_long_to_rewrite_is_made_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the processes that want it begin; a file that is no Python is told as ever."""
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    pytester.makepyfile(test_a="def test_a(): assert 1 + 1 == 3", test_b="this is none")
    options = ("-p", "netns_tests.parallel", "-n", "1", "--dist", "loadfile")
    for wrong in ("3", "4"):
        pytester.makepyfile(test_a=f"def test_a(): assert 1 + 1 == {wrong}")
        pytester.runpytest_subprocess(*options, "test_a.py").stdout.fnmatch_lines(
            [f"*assert (1 + 1) == {wrong}"]
        )
        (made,) = pytester.path.glob("__pycache__/test_a.*-pytest-*.pyc")
        assert source_hash(pytester.path.joinpath("test_a.py").read_bytes()) == made.read_bytes()[8:16]
    pytester.runpytest_subprocess(*options, "test_b.py").stdout.fnmatch_lines(["*this is none"])


def test_the_table_names_files_that_are_there() -> None:
    for group in {*LONG, *WAITING}:
        assert group == QEMU or (TOP / group).is_file(), group


def test_a_file_stays_together() -> None:
    assert kept_together("netns_tests/test_gc.py::test_x[1]") == "netns_tests/test_gc.py"
    assert kept_together("netns_tests/test_qemu_links.py::test_x") == QEMU
    assert kept_together("netns_tests/test_qemu_differential.py::test_x") == QEMU
