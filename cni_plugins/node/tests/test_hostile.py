"""Callers that are slow, silent, many or senseless, and a machine without room: the service goes on."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from cni_plugins.node import ask, wire
from cni_plugins.node.tests.service_at import answer, connect, kept, request, running, send
from cni_plugins.node.tests.test_supervisor import call, until
from cni_plugins.spec.call import Reply, Request


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run/mesokit/node.sock"


def quick(_request: Request) -> Reply:
    return Reply(b"done", b"", 0)


@contextmanager
def silent(path: Path, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections that say `first` and no more."""
    with ExitStack() as opened:
        connections = [opened.enter_context(connect(path)) for _ in range(count)]
        for connection in connections:
            if first:
                with suppress(OSError):  # dropped by now, as one of too many
                    connection.sendall(first)
        yield connections


def test_a_name_that_is_no_text_ends_nothing(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path) as supervisor:
        call(path, os.fsdecode(b"\xff\xfe"))
        until(lambda: bool(ask.status(path)["calls"]))
        text = ask.get(path, "/metrics").decode()
        assert 'plugin="unknown"' in text
        assert "good" not in text
        assert ask.status(path)["pid"] == supervisor.pid


def test_names_that_callers_make_up_do_not_grow_the_metrics(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path):
        for number in range(50):
            call(path, f"name-{number}", CNI_COMMAND=f"VERB-{number}" * 1000)
        call(path, "good")
        until(lambda: sum(row["calls"] for row in ask.status(path)["calls"]) == 51)
        assert len(ask.status(path)["calls"]) == 2


def test_an_endless_name_is_dropped_and_counting_goes_on(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path):
        with connect(path) as connection:
            send(connection, request("x" * 400_000, {"CNI_COMMAND": "ADD"}, b""))
            assert answer(connection)[0] == b""
        call(path, "good")
        until(lambda: [row["plugin"] for row in ask.status(path)["calls"]] == ["good"])


@pytest.mark.parametrize("first", [b"", b"M", b"MSK2" + b"\0" * 20, b"G"])
def test_many_who_do_not_speak_on_cost_a_caller_nothing(path: Path, first: bytes) -> None:
    gate = threading.Event()

    def handle(request: Request) -> Reply:
        assert request.plugin == "quick" or gate.wait(60)
        return quick(request)

    with running(path, handle, threads=8), silent(path, 300, first):
        began = time.monotonic()
        for _ in range(20):
            with connect(path) as connection:
                send(connection, request("quick", {}, b""))
                assert answer(connection)[2] == b"done"
        assert time.monotonic() - began < 4, "as long as it takes, not as long as they are waited for"
        gate.set()


def test_one_who_drips_is_dropped_in_time(path: Path) -> None:
    whole = request("quick", {}, b"x" * 100)
    with running(path, quick), connect(path) as connection:
        began = time.monotonic()
        with pytest.raises(OSError, match=r"Broken pipe|reset"):
            for byte in whole:
                connection.sendall(bytes([byte]))
                time.sleep(0.1)
        assert time.monotonic() - began < 20


def test_a_message_in_many_pieces_is_served(path: Path) -> None:
    whole = request("quick", {"A": "b"}, b"x" * 3000)
    with running(path, quick), connect(path) as connection:
        send(connection, whole[:3])
        for start in range(3, len(whole), 500):
            time.sleep(0.01)
            connection.sendall(whole[start : start + 500])
        assert answer(connection)[2] == b"done"


@pytest.mark.parametrize("said", [b"", b"G", b"GET /metrics HTTP/1.0\r\n\r\n"])
def test_who_asks_and_does_not_listen_holds_up_no_other(tmp_path: Path, path: Path, said: bytes) -> None:
    with kept(tmp_path) as supervisor, silent(path, 64, said):
        began = time.monotonic()
        for _ in range(5):
            assert ask.status(path)["pid"] == supervisor.pid
        assert time.monotonic() - began < 10


def test_nonsense_is_no_query(tmp_path: Path, path: Path) -> None:
    chance = random.Random(20261126)
    said = [b"GET", b"GET /\xff\xfe HTTP/1.0\r\n\r\n", b"HANDOVE", b"\r\n\r\n", b"GET /status", b"?{}"]
    said += [chance.randbytes(chance.randrange(1, 6000)) for _ in range(150)]
    said += [b"GET /" + chance.randbytes(40) + b" HTTP/1.1\r\n\r\n" for _ in range(50)]
    with kept(tmp_path) as supervisor:
        workers = ask.status(path)["workers"]
        with ExitStack() as opened:
            for text in said:
                connection = opened.enter_context(connect(path))
                try:
                    connection.sendall(text)
                except OSError:
                    continue
        found = ask.status(path)
        assert (found["pid"], found["workers"]) == (supervisor.pid, workers)
        assert call(path, "good")[0] == wire.TAKEN


def test_without_descriptors_callers_are_sent_home_at_once(tmp_path: Path, path: Path) -> None:
    """The service's table is full: whoever calls learns it at once, and all is well when there is room."""
    with kept(tmp_path) as supervisor:
        processes = [supervisor.pid, *ask.status(path)["workers"]]
        usual = resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE)
        for pid in processes:
            used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, usual[1]))
        began = time.monotonic()
        for _ in range(10):
            with connect(path) as connection:
                try:
                    send(connection, request("good", {}, b""))
                    assert answer(connection)[0] in {b"", wire.REFUSED}
                except OSError:
                    pass  # closed before it was read
            with connect(path) as connection:
                try:
                    connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
                    connection.recv(100)
                except OSError:
                    pass
        assert time.monotonic() - began < 4
        for pid in processes:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        assert call(path, "good")[0] == wire.TAKEN
        until(lambda: answered(path) == supervisor.pid)
        assert sorted(ask.status(path)["workers"]) == sorted(processes[1:]), "nobody had to die"


def answered(path: Path) -> int:
    try:
        return int(ask.status(path)["pid"])
    except OSError:
        return 0


def test_few_descriptors_left_are_kept_for_the_calls_in_work(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path):
        for pid in ask.status(path)["workers"]:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (40, 40))
        assert call(path, "good")[0] == wire.REFUSED
        assert ask.status(path)["refused_calls"] == 1


def test_a_service_without_threads_does_its_calls_one_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(path, quick) as there:
        with connect(path) as connection:
            send(connection, request("quick", {}, b""))
            assert answer(connection)[2] == b"done"

        def no_thread(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with there.service._count:
            assert there.service._count.wait_for(lambda: not there.service._busy, 60)
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        for _ in range(5):
            with connect(path) as connection:
                send(connection, request("quick", {}, b""))
                assert answer(connection)[2] == b"done"
    # `running` has asserted that it ends: no thread is counted that never was.


def test_a_caller_that_sees_other_mounts_is_refused(path: Path) -> None:
    with running(path, quick) as there, connect(path) as connection:
        send(connection, request("quick", {}, b"", mounts=(4, 1)))
        assert answer(connection)[0] == wire.REFUSED
    assert there.told.refused == 1


def test_namespaces_are_let_go_before_the_answer(path: Path) -> None:
    """The descriptors of a call are a pipe's end here: its other end tells when the last one is closed."""
    later = threading.Event()

    def work() -> None:
        assert later.wait(60)

    def handle(_request: Request) -> Reply:
        return Reply(b"done", b"", 0, (work,))

    with running(path, handle):
        for mounts in (None, (4, 1)):
            reading, writing = os.pipe()
            with connect(path) as connection:
                socket.send_fds(connection, [request("quick", {}, b"", mounts=mounts)], [writing])
                os.close(writing)
                assert connection.recv(1) == (wire.TAKEN if mounts is None else wire.REFUSED)
                if mounts is None:
                    connection.recv(100)
                os.set_blocking(reading, False)
                assert os.read(reading, 1) == b"", "BlockingIOError while somebody has the other end"
            os.close(reading)
        later.set()


def test_told_to_end_it_ends_whatever_comes_at_that_moment(tmp_path: Path, path: Path) -> None:
    for round_ in range(12):
        with kept(tmp_path) as supervisor:
            stop = threading.Event()

            def work(stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    try:
                        with connect(path) as connection:
                            connection.settimeout(5)
                            send(connection, request("good", {}, b""))
                            answer(connection)
                    except OSError:
                        continue

            callers = [threading.Thread(target=work) for _ in range(4)]
            for caller in callers:
                caller.start()
            time.sleep(round_ / 200)
            supervisor.terminate()
            try:
                assert supervisor.wait(30) == 0
            finally:
                stop.set()
                for caller in callers:
                    caller.join()


def test_a_worker_that_does_not_end_is_killed(tmp_path: Path, path: Path) -> None:
    with kept(tmp_path, end_seconds=1.0) as supervisor, connect(path) as connection:
        send(connection, request("wait", {"FILE": str(tmp_path / "never")}, b""))
        assert connection.recv(1) == wire.TAKEN
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(30) == 0
        assert connection.recv(100) == b"", "its launcher does the call itself"
