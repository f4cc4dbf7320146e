"""Programs of others: their end is the end of their process, whatever they leave behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cni_plugins.kernel import program
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
def pids(tmp_path: Path) -> Iterator[Path]:
    """A file for the numbers of processes, which are ended after the test."""
    path = tmp_path / "pids"
    yield path
    for pid in path.read_text().split() if path.exists() else ():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def run(namespace: Namespace, script: str, stdin: bytes = b"", seconds: float = 60) -> program.Finished:
    return program.run(namespace, ["/bin/sh", "-c", script], ENV, stdin, after(seconds))


def test_a_child_that_keeps_the_output_does_not_hold_the_call(namespace: Namespace, pids: Path) -> None:
    began = time.monotonic()
    done = run(namespace, f"sleep 1000 & echo $! > {pids}; echo answer; echo noise >&2; exit 3")
    assert (done.status, done.out, done.err) == (3, b"answer\n", b"noise\n")
    assert time.monotonic() - began < 30
    os.kill(int(pids.read_text()), 0)  # it may live on


def test_a_child_that_writes_for_ever_does_not_hold_the_call(namespace: Namespace, pids: Path) -> None:
    began = time.monotonic()
    done = run(namespace, f"yes & echo $! > {pids}; exit 0")
    assert done.status == 0
    assert time.monotonic() - began < 30


def test_all_of_its_group_is_killed_at_the_deadline(namespace: Namespace, pids: Path) -> None:
    with pytest.raises(CniError) as caught:
        run(namespace, f"sleep 1000 & echo $! $$ > {pids}; trap '' TERM; wait", seconds=0.5)
    assert caught.value.code == Code.TRY_AGAIN
    end = time.monotonic() + 30
    for pid in map(int, pids.read_text().split()):
        while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
            assert time.monotonic() < end, "still there"
            time.sleep(0.01)


def test_much_goes_both_ways(namespace: Namespace) -> None:
    data = os.urandom(3 << 20)
    assert run(namespace, "cat", data).out == data


def test_who_does_not_read_is_no_failure(namespace: Namespace) -> None:
    assert run(namespace, "exec <&-; sleep 0.1; echo done", b"x" * (1 << 20)).out == b"done\n"
    assert run(namespace, "echo done", b"x" * (1 << 20)).out == b"done\n"


def test_who_closes_its_output_is_waited_for(namespace: Namespace) -> None:
    assert run(namespace, "exec >&- 2>&-; sleep 0.2; exit 5").status == 5


def test_a_flood_is_an_error(namespace: Namespace) -> None:
    with pytest.raises(CniError, match="wrote more than 16 MiB"):
        run(namespace, "exec yes")


def test_nothing_stays_open(namespace: Namespace) -> None:
    run(namespace, "true")
    before = sorted(Path("/proc/self/fd").iterdir())
    for script in ("cat", "exit 1", "kill -9 $$"):
        run(namespace, script, b"x" * 100_000)
    with pytest.raises(CniError):
        run(namespace, "sleep 100", seconds=0.05)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_what_is_not_there_is_named(namespace: Namespace) -> None:
    with pytest.raises(CniError, match="cannot run /nothing/here"):
        program.run(namespace, ["/nothing/here"], ENV, b"", after(10))
