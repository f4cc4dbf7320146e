from __future__ import annotations

import json
import os
import re
import select
import socket
import threading
from pathlib import Path

import pytest

from cni_plugins.node import ask, wire
from cni_plugins.node.listen import ListenError, Origin, obtain
from cni_plugins.node.tests.service_at import answer, connect, request, running, send
from cni_plugins.spec.call import Reply, Request
from cni_plugins.store.sockets import identity, remove


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "node.sock"


def echo(request: Request) -> Reply:
    assert request.host_netns is not None
    document = {
        "plugin": request.plugin,
        "env": dict(request.env),
        "stdin": len(request.stdin),
        "netns": request.netns is not None,
    }
    return Reply(json.dumps(document).encode(), b"warned\n", 0)


def failing(_request: Request) -> Reply:
    return Reply(b'{"cniVersion":"1.0.0","code":7,"msg":"no"}', b"", 1)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def call(path: Path, message: bytes, descriptors: int = 1) -> tuple[bytes, int, bytes, bytes]:
    with connect(path) as connection:
        send(connection, message, descriptors)
        return answer(connection)


def test_a_call_reaches_the_handler_with_everything(path: Path) -> None:
    with running(path, echo):
        env = {"CNI_COMMAND": "ADD", "CNI_ARGS": "A=b;C==d\n", "EMPTY": ""}
        taken, status, stdout, stderr = call(path, request("bridge", env, b"x" * 300_000, netns=True), 2)
    assert (taken, status, stderr) == (wire.TAKEN, 0, b"warned\n")
    assert json.loads(stdout) == {"plugin": "bridge", "env": env, "stdin": 300_000, "netns": True}


def test_a_connection_wakes_one_worker_of_those_that_listen(path: Path) -> None:
    """As the kernel has it: the others sleep on, and what they share with it is not written a second time."""
    with running(path, echo) as there:
        listening = there.service.listening.fileno()
        told = "".join(item.read_text() for item in Path("/proc/self/fdinfo").iterdir() if item.exists())
        found = re.findall(r"tfd: +(\d+) events: +([0-9a-f]+)", told)
        masks = [int(events, 16) for descriptor, events in found if int(descriptor) == listening]
    assert [mask & select.EPOLLEXCLUSIVE for mask in masks] == [select.EPOLLEXCLUSIVE]


def test_bytes_that_are_no_utf8_survive(path: Path) -> None:
    with running(path, lambda request: Reply(os.fsencode(request.env["CNI_ARGS"]), b"", 0)):
        message = request("bridge", {"CNI_ARGS": os.fsdecode(b"\xff\xfe")}, b"")
        assert call(path, message)[2] == b"\xff\xfe"


def test_a_caller_of_another_root_is_refused(path: Path) -> None:
    with running(path, echo) as there:
        assert call(path, request("bridge", {}, b"", root=(1, 2)))[0] == wire.REFUSED
        assert there.told.refused == 1


@pytest.mark.parametrize(
    ("message", "descriptors"),
    [
        (b"MSK1", 1),
        (b"MSK1" + b"\xff" * 28, 1),
        (request("bridge", {}, b"", netns=True), 1),
        (request("bridge", {}, b""), 2),
        (request("bridge", {}, b"") + b"more", 1),
        (b"\0" * 100, 1),
    ],
)
def test_nonsense_is_dropped_without_a_leak(path: Path, message: bytes, descriptors: int) -> None:
    with running(path, echo):
        call(path, request("bridge", {}, b""))
        before = open_files()
        assert call(path, message, descriptors)[0] == b""
        assert call(path, request("bridge", {}, b""))[0] == wire.TAKEN
        assert open_files() == before


def test_a_slow_call_holds_up_nobody_and_threads_go_away_again(path: Path) -> None:
    slow = threading.Event()
    arrived = threading.Semaphore(0)

    def handle(request: Request) -> Reply:
        if request.plugin == "slow":
            arrived.release()
            assert slow.wait(60)
        return Reply(b"", b"", 0)

    with running(path, handle) as there:
        service = there.service
        waiting = [connect(path) for _ in range(20)]
        for connection in waiting:
            send(connection, request("slow", {}, b""))
        for _ in waiting:
            assert arrived.acquire(timeout=60)
        assert call(path, request("quick", {}, b""))[0] == wire.TAKEN
        assert there.told.running == 20
        slow.set()
        for connection in waiting:
            with connection:
                assert answer(connection)[0] == wire.TAKEN
        for _ in range(10):
            call(path, request("quick", {}, b""))
        with service._count:
            assert service._count.wait_for(lambda: service.threads <= 5, 60)
        assert there.told.running == 0


def test_the_number_of_threads_is_bounded_and_the_rest_waits(path: Path) -> None:
    gate = threading.Event()
    most = 0
    now = 0
    lock = threading.Lock()

    def handle(_request: Request) -> Reply:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        assert gate.wait(60)
        with lock:
            now -= 1
        return Reply(b"", b"", 0)

    with running(path, handle, threads=3):
        waiting = [connect(path) for _ in range(12)]
        for connection in waiting:
            send(connection, request("bridge", {}, b""))
        gate.set()
        for connection in waiting:
            with connection:
                assert answer(connection)[0] == wire.TAKEN
    assert most <= 3


def test_what_was_taken_is_finished_after_stop(path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    def handle(_request: Request) -> Reply:
        entered.set()
        assert gate.wait(60)
        return Reply(b"done", b"", 0)

    with running(path, handle) as there, connect(path) as connection:
        send(connection, request("bridge", {}, b""))
        assert entered.wait(60)
        there.service.stop()
        assert not there.service.until_idle(0.05)
        gate.set()
        assert answer(connection)[2] == b"done"


def test_a_mistake_in_the_handler_costs_one_call_only(path: Path) -> None:
    def handle(request: Request) -> Reply:
        if request.plugin == "bad":
            raise RuntimeError("a mistake")
        return Reply(b"", b"", 0)

    with running(path, handle):
        assert call(path, request("bad", {}, b""))[2] == b""
        assert call(path, request("good", {}, b""))[0] == wire.TAKEN


def test_the_journal_is_told_of_calls_and_questions_are_passed_on(path: Path) -> None:
    with running(path, failing) as there:
        call(path, request("bridge", {"CNI_COMMAND": "ADD"}, b""))
        with connect(path) as connection:
            connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
            assert connection.recv(100) == b"an answer"
    assert there.told.calls == [("bridge", "ADD", 7)]
    assert there.told.queries == [b"GET /status HTTP/1.0\r\n\r\n"]


def test_nobody_there_is_said_with_the_way_out(path: Path) -> None:
    with pytest.raises(ask.NotRunning, match="mesokit node"):
        ask.status(path)


def test_a_dead_service_leaves_a_socket_that_the_next_one_replaces(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    listening, origin = obtain(path, {})
    listening.close()
    assert origin is Origin.OWN
    with running(path, echo):
        assert path.stat().st_mode & 0o777 == 0o600
        assert call(path, request("bridge", {}, b""))[0] == wire.TAKEN


def test_the_socket_is_taken_from_systemd(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(os.fspath(path))
        given.listen()
        env = {
            "LISTEN_PID": str(os.getpid()),
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "node.socket",
            "PATH": "/bin",
        }
        listening, origin = obtain(path, env, os.dup(given.fileno()))
        with listening:
            assert origin is Origin.SYSTEMD
            assert env == {"PATH": "/bin"}
            assert not listening.get_inheritable()


def test_two_sockets_from_systemd_are_a_mistake(path: Path) -> None:
    with pytest.raises(ListenError, match="one ListenStream"):
        obtain(path, {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


def test_a_file_in_the_way_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ListenError):
        obtain(path, {})
    assert path.read_text() == "precious"


def test_only_our_own_socket_is_removed(path: Path) -> None:
    listening, _ = obtain(path, {})
    ours = identity(path)
    assert ours is not None
    path.unlink()
    later, _ = obtain(path, {})
    remove(path, ours)
    listening.close()
    assert path.exists()
    found = identity(path)
    assert found is not None
    remove(path, found)
    assert not path.exists()
    later.close()
