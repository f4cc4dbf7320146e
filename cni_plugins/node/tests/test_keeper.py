"""The keeper and its workers, as processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from cni_plugins.node import ask, wire
from cni_plugins.node.keeper import Keeper, default_count
from cni_plugins.node.listen import Origin
from cni_plugins.node.metrics import Metrics
from cni_plugins.node.tests.service_at import answer, connect, kept, request, send
from cni_plugins.node.worker import Journal
from cni_plugins.spec.call import Reply, Request


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run/mesokit/node.sock"


def handle(request: Request) -> Reply:
    """What `plugin` says: its process, an error, a wait for a file, or an end."""
    match request.plugin:
        case "bad":
            return Reply(b'{"cniVersion":"1.0.0","code":7,"msg":"no"}', b"", 1)
        case "wait":
            while not Path(request.env["FILE"]).exists():
                time.sleep(0.01)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
    return Reply(str(os.getpid()).encode(), b"", 0)


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
    with kept(tmp_path, handle) as pid:
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
    assert answered["pid"] == pid
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
    with kept(tmp_path, handle):
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
    with kept(tmp_path, handle) as pid:
        call(path, "good")
        before = status(path)
        assert call(path, "die") == (b"A", b"")  # the launcher does that call itself
        until(lambda: len(set(status(path)["workers"]) - set(before["workers"])) == 1)
        after = status(path)
        assert after["pid"] == pid
        assert len(after["workers"]) == 2
        assert after["calls"] == before["calls"], "what was counted stays counted"
        assert {call(path, "good")[0] for _ in range(10)} == {wire.TAKEN}
        for worker in after["workers"]:
            os.kill(worker, signal.SIGKILL)
        until(lambda: not set(status(path)["workers"]) & set(after["workers"]))
        assert call(path, "good")[0] == wire.TAKEN


def test_what_was_taken_is_finished_after_sigterm(tmp_path: Path, path: Path) -> None:
    gate = tmp_path / "gate"
    with kept(tmp_path, handle) as pid, connect(path) as connection:
        send(connection, request("wait", {"FILE": str(gate)}, b""))
        assert connection.recv(1) == wire.TAKEN
        os.kill(pid, signal.SIGTERM)
        until(lambda: not path.exists())
        gate.touch()
        with connection.makefile("rb") as stream:
            assert len(stream.read()) > 16, "a reply, with the worker's number"
        assert os.waitpid(pid, 0)[1] == 0


def test_workers_end_with_their_keeper(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path, handle) as pid:
        workers = status(path)["workers"]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        until(lambda: not any(Path(f"/proc/{worker}/exe").exists() for worker in workers))


def test_a_successor_takes_over_without_a_moment_of_refusal(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path, handle, version="old") as old:
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
        successor = os.fork()
        if successor == 0:
            with kept(tmp_path, handle, version="new"):
                until(lambda: stop_file(tmp_path).exists())
            os._exit(0)
        try:
            until(lambda: os.waitpid(old, os.WNOHANG)[0] == old)
            until(lambda: status(path)["version"] == "new")
        finally:
            stop.set()
            for caller in callers:
                caller.join()
            stop_file(tmp_path).touch()
            os.waitpid(successor, 0)
    assert not refused


def stop_file(root: Path) -> Path:
    return root / "stop"


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


def test_a_worker_that_finds_no_room_is_tried_again(mocker: MockerFixture) -> None:
    def work(control: socket.socket) -> int:
        return len(control.recv(1))

    fork, tries = os.fork, iter([OSError("no room"), None, OSError("no room"), None])

    def grudging() -> int:
        error = next(tries)
        if error is not None:
            raise error
        return fork()

    mocker.patch("cni_plugins.node.keeper.os.fork", side_effect=grudging)
    with socket.socket() as listening:
        keeper = Keeper(listening, Origin.OWN, Metrics("1"), work, 2)
        keeper.start()
        assert not keeper.workers
        watching = threading.Thread(target=keeper.until_stopped)
        watching.start()
        until(lambda: len(keeper.workers) == 2)
        keeper.stop()
        watching.join()
        keeper.until_idle()
    assert not keeper.workers


def test_there_is_a_worker_for_every_machine() -> None:
    assert default_count() in {1, 2}
