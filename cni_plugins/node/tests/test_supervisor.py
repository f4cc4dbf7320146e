"""The supervisor and its workers, as processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.node import ask, wire
from cni_plugins.node.metrics import Metrics
from cni_plugins.node.supervisor import default_count
from cni_plugins.node.tests.service_at import answer, connect, kept, request, send
from cni_plugins.node.worker import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run/mesokit/node.sock"


def call(path: Path, plugin: str, **env: str) -> tuple[bytes, bytes]:
    """The first byte and the output."""
    with connect(path) as connection:
        send(connection, request(plugin, {"CNI_COMMAND": "ADD", **env}, b""))
        taken, _, output, _ = answer(connection)
        return taken, output


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def status(path: Path) -> dict[str, Any]:
    return ask.status(path)


def test_calls_are_counted_wherever_they_are_done(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path) as supervisor:
        for _ in range(20):
            call(path, "good")
        for _ in range(3):
            call(path, "bad")
        call(path, "good", CNI_COMMAND="NONSENSE")
        answered = status(path)
        text = ask.get(path, "/metrics").decode()
        with pytest.raises(OSError, match="404"):
            ask.get(path, "/elsewhere")
    assert answered["version"] == "1.2.3"
    assert answered["pid"] == supervisor.pid
    assert len(answered["workers"]) == 2
    kinds = {(row["plugin"], row["verb"]): row["calls"] for row in answered["calls"]}
    assert kinds == {("good", "ADD"): 20, ("bad", "ADD"): 3, ("good", "other"): 1}
    assert answered["errors"] == [{"plugin": "bad", "verb": "ADD", "code": 7, "count": 3}]
    assert set(answered["calls"][0]["milliseconds"]) == {"p50", "p90", "p99", "max"}
    assert answered["memory_bytes"]["pss"] > 1 << 20
    assert 'mesokit_node_errors_total{plugin="bad",verb="ADD",code="7"} 3' in text
    assert 'mesokit_node_call_seconds_bucket{plugin="good",verb="ADD",le="+Inf"} 20' in text


def test_slow_calls_hold_up_nobody(tmp_path: Path, path: Path) -> None:
    gate = tmp_path / "gate"
    with kept(tmp_path):
        file = {"FILE": str(gate)}
        waiting = [threading.Thread(target=call, args=(path, "wait"), kwargs=file) for _ in range(20)]
        for thread in waiting:
            thread.start()
        until(lambda: status(path)["running_calls"] == 20)
        assert call(path, "good")[0] == wire.TAKEN
        gate.touch()
        for thread in waiting:
            thread.join()
        until(lambda: status(path)["running_calls"] == 0)


def test_a_worker_that_dies_costs_its_calls_and_is_replaced(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path) as supervisor:
        call(path, "good")
        before = status(path)
        assert call(path, "die") == (b"A", b"")  # the launcher does that call itself
        until(lambda: len(set(status(path)["workers"]) - set(before["workers"])) == 1)
        after = status(path)
        assert after["pid"] == supervisor.pid
        assert len(after["workers"]) == 2
        assert after["calls"] == before["calls"], "what was counted stays counted"
        assert {call(path, "good")[0] for _ in range(10)} == {wire.TAKEN}
        for worker in after["workers"]:
            os.kill(worker, signal.SIGKILL)
        until(lambda: not set(status(path)["workers"]) & set(after["workers"]))
        assert call(path, "good")[0] == wire.TAKEN


def test_a_worker_that_has_grown_is_replaced_when_nobody_calls(tmp_path: Path, path: Path) -> None:
    """By a fresh one, which has the place in the status too; one that is as it was goes on."""
    with kept(tmp_path, workers=1, rest_seconds=0.2):
        call(path, "good")
        before = status(path)
        call(path, "grow")
        until(lambda: status(path)["workers"] not in (before["workers"], []))
        after = status(path)
        assert after["memory_bytes"]["pss"] < before["memory_bytes"]["pss"] + (20 << 20)
        assert call(path, "good") == (wire.TAKEN, str(after["workers"][-1]).encode())
        assert {row["plugin"]: row["calls"] for row in after["calls"]} == {"good": 1, "grow": 1}


def test_a_call_in_work_is_finished_by_a_worker_that_is_replaced(tmp_path: Path, path: Path) -> None:
    gate = tmp_path / "gate"
    with kept(tmp_path, workers=1, rest_seconds=60), connect(path) as connection:
        send(connection, request("wait", {"FILE": str(gate)}, b""))
        assert connection.recv(1) == wire.TAKEN
        before = status(path)["workers"]
        call(path, "grow")
        for _ in range(1000):  # then its memory is looked at
            call(path, "good")
        until(lambda: call(path, "good") != (wire.TAKEN, str(before[0]).encode()))
        assert call(path, "good") == (wire.TAKEN, str(status(path)["workers"][-1]).encode())
        gate.touch()
        with connection.makefile("rb") as stream:
            assert stream.read()[16:] == str(before[0]).encode()
        until(lambda: before[0] not in status(path)["workers"])


def test_what_was_taken_is_finished_after_sigterm(tmp_path: Path, path: Path) -> None:
    gate = tmp_path / "gate"
    with kept(tmp_path) as supervisor, connect(path) as connection:
        send(connection, request("wait", {"FILE": str(gate)}, b""))
        assert connection.recv(1) == wire.TAKEN
        supervisor.terminate()
        until(lambda: not path.exists())
        gate.touch()
        with connection.makefile("rb") as stream:
            assert len(stream.read()) > 16, "a reply, with the worker's number"
        assert supervisor.wait(60) == 0


def test_workers_end_with_their_keeper(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path) as supervisor:
        workers = status(path)["workers"]
        supervisor.kill()
        supervisor.wait()
        until(lambda: not any(Path(f"/proc/{worker}/exe").exists() for worker in workers))


def test_a_successor_takes_over_without_a_moment_of_refusal(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path, version="old") as old:
        stop = threading.Event()
        refused = []

        def work() -> None:
            while not stop.is_set():
                try:
                    if call(path, "good")[0] != wire.TAKEN:
                        refused.append("not taken")
                except OSError as error:
                    refused.append(str(error))

        callers = [threading.Thread(target=work) for _ in range(4)]
        for caller in callers:
            caller.start()
        try:
            with kept(tmp_path, version="new"):
                assert old.wait(60) == 0
                assert status(path)["version"] == "new"
                assert call(path, "good")[0] == wire.TAKEN
                stop.set()
                for caller in callers:
                    caller.join()
        finally:
            stop.set()
    assert not refused


def test_what_the_keeper_has_no_time_for_is_told_later() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        journal = Journal(theirs)
        for _ in range(5000):
            journal.begin()
            journal.end("bridge", "ADD", 0.001, 0)
        metrics = Metrics("1")

        def hear() -> None:
            while data := ours.recv(1 << 18):
                for plugin, verb, seconds, code in json.loads(data)["calls"]:
                    metrics.add(plugin, verb, seconds, code)

        hearing = threading.Thread(target=hear)
        hearing.start()
        journal.close()
        hearing.join()
    assert metrics.status(0, [os.getpid()])["calls"][0]["calls"] == 5000


NO_ROOM = """
import os, socket, threading, time
from cni_plugins.node.supervisor import Supervisor
from cni_plugins.node.listen import Origin
from cni_plugins.node.metrics import Metrics

fork, tries = os.fork, iter([OSError("no room"), None, OSError("no room"), None])

def grudging():
    error = next(tries)
    if error is not None:
        raise error
    return fork()

os.fork = grudging
supervisor = Supervisor(socket.socket(), Origin.OWN, Metrics("1"), lambda control: len(control.recv(1)), 2)
supervisor.start()
assert not supervisor.workers
threading.Timer(4, supervisor.stop).start()
supervisor.until_stopped()
print(len(supervisor.workers))
supervisor.until_idle()
print(len(supervisor.workers))
"""


def test_a_worker_that_finds_no_room_is_tried_again() -> None:
    top = Path(__file__).resolve().parents[3]
    env = {**os.environ, "PYTHONPATH": f"{top}:{top / 'proto'}"}
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM], env=env, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["2", "0"]
    assert done.stderr.count("cannot start a worker: no room") == 2


def test_there_is_a_worker_for_every_machine() -> None:
    assert default_count() in {1, 2}
