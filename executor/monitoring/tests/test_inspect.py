"""The inspect endpoint, asked by its client and by clients that misbehave; `mesokit ps` on top of it."""

import contextlib
import itertools
import json
import os
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner

from cni_plugins.cli.ps import command
from executor.eventloop import SelectorLoop
from executor.monitoring.cgroup import GroupUsage
from executor.monitoring.client import NAME, InspectError, connect, fetch, look
from executor.monitoring.server import InspectServer, listen
from executor.monitoring.snapshot import (
    CheckRun,
    ConnectionView,
    ExecutorView,
    StateChange,
    TaskView,
    UpdateView,
)
from executor.monitoring.usage import Usage
from executor.output.directory import Directory
from executor.output.progress_reporter import Progress
from executor.process.tests.fixtures import PATIENCE, descriptors, running_loop

T = TypeVar("T")


def document(name: str = 'tä"sk\n1') -> ExecutorView:
    task = TaskView(
        id=name,
        name="web",
        state="RUNNING",
        history=[StateChange("STARTING", 90.0), StateChange("RUNNING", 91.0)],
        pid=42,
        pids=[42, 43],
        healthy=False,
        health_checks=[CheckRun(95.0, 0.1, False, "GET / returned status 500")],
        usage=Usage("processes", 1.5, 0.5, 1 << 20, 2 << 20, 2, 3),
        progress=Progress(4, 70, "on the way"),
    )
    return ExecutorView(
        framework_id="f-1",
        executor_id="e-1",
        agent_id="a-1",
        pid=os.getpid(),
        warden_pid=2,
        started_at=0.0,
        now=100.0,
        connection=ConnectionView("subscribed", "127.0.0.1:5051", 2),
        tasks=[task],
        unacknowledged=[UpdateView("old", "FINISHED", "ab" * 16, 99.0)],
        container=GroupUsage(memory_bytes=1 << 21, memory_limit_bytes=1 << 25),
        ended_by_state={"FINISHED": 3},
    )


@contextlib.contextmanager
def serving(directory: Path, make: Callable[[], ExecutorView] = document) -> Iterator[SelectorLoop]:
    with running_loop() as loop:
        opened = Directory.of(directory)
        server = InspectServer(loop, opened, make)
        try:
            yield loop
        finally:
            server.close()
            opened.close()


def meanwhile(loop: SelectorLoop, act: Callable[[], T]) -> T:
    """Run `act` in a thread while the loop turns."""
    results: list[T | BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:
            results.append(error)

    threading.Thread(target=run, daemon=True).start()
    deadline = time.monotonic() + PATIENCE
    while not results:
        assert time.monotonic() < deadline
        loop.run_once(0.02)
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def test_json(tmp_path: Path) -> None:
    with serving(tmp_path) as loop:
        state = meanwhile(loop, lambda: look(tmp_path))
    assert state["tasks"][0]["id"] == 'tä"sk\n1'
    assert state["tasks"][0]["usage"]["memory_bytes"] == 1 << 20
    assert state["connection"] == {"phase": "subscribed", "endpoint": "127.0.0.1:5051", "attempts": 2}
    assert state["unacknowledged"][0]["uuid"] == "ab" * 16
    assert not (tmp_path / NAME).exists()


def test_prometheus(tmp_path: Path) -> None:
    with serving(tmp_path) as loop:
        lines = meanwhile(loop, lambda: fetch(tmp_path, "/metrics")).decode().splitlines()
    assert "mesokit_executor_subscribed 1" in lines
    assert 'mesokit_executor_tasks{state="RUNNING"} 1' in lines
    assert 'mesokit_executor_tasks_ended_total{state="FINISHED"} 3' in lines
    assert 'mesokit_executor_task_cpu_seconds_total{task="tä\\"sk\\n1",mode="user"} 1.5' in lines
    assert 'mesokit_executor_task_healthy{task="tä\\"sk\\n1"} 0' in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert all(line.startswith(("#", "mesokit_executor_")) for line in lines)


def test_a_sandbox_with_a_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    with serving(deep) as loop:
        assert meanwhile(loop, lambda: look(deep))["executor_id"] == "e-1"


def test_the_socket_is_its_owners_and_replaces_an_old_one(tmp_path: Path) -> None:
    listen(Directory.of(tmp_path)).close()
    with serving(tmp_path) as loop:
        assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
        assert meanwhile(loop, lambda: look(tmp_path))["executor_id"] == "e-1"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /etc HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /?x=1 HTTP/1.0\r\n\r\n", b"200"),
        (b"\xff\r\n\r\n", b"400"),
        (b"x" * 10000, b""),
    ],
)
def test_requests_of_all_kinds(tmp_path: Path, request_: bytes, status: bytes) -> None:
    def ask() -> bytes:
        with connect(tmp_path, 10) as connection:
            connection.sendall(request_)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := connection.recv(65536):
                    answer += chunk
            return answer

    with serving(tmp_path) as loop:
        assert meanwhile(loop, ask).split(b" ")[1:2] == ([status] if status else [])


def test_clients_that_say_nothing_are_bounded_and_leave_nothing(tmp_path: Path) -> None:
    before = descriptors()
    with serving(tmp_path) as loop:
        idle = [connect(tmp_path, 10) for _ in range(16)]
        for _ in range(20):
            loop.run_once(0.01)
        with pytest.raises(InspectError):
            meanwhile(loop, lambda: look(tmp_path))
        idle.pop().close()
        for _ in range(5):
            loop.run_once(0.01)
        assert meanwhile(loop, lambda: look(tmp_path))["executor_id"] == "e-1"
        for connection in idle:
            connection.close()
    assert descriptors() <= before


def test_without_descriptors_it_waits_and_does_not_spin(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(tmp_path) as loop, connect(tmp_path, 10) as client:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            loop.run_once(0.1)
            assert not loop._selector.select(0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert meanwhile(loop, lambda: client.recv(12)) == b"HTTP/1.1 200"


def test_a_document_that_cannot_be_made_is_an_answer_and_no_crash(tmp_path: Path) -> None:
    def broken() -> ExecutorView:
        raise RuntimeError("oops")

    with serving(tmp_path, broken) as loop, pytest.raises(InspectError, match="500"):
        meanwhile(loop, lambda: look(tmp_path))


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(InspectError, match="no executor answers"):
        look(tmp_path)
    listen(Directory.of(tmp_path)).close()
    with pytest.raises(InspectError, match="refused"):
        look(tmp_path)


def ps(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, list(arguments))
    return result.exit_code, result.output


def test_ps_of_a_sandbox(tmp_path: Path) -> None:
    with serving(tmp_path, lambda: document("web-1")) as loop:
        code, text = meanwhile(loop, lambda: ps(str(tmp_path)))
    assert code == 0
    lines = [line.strip() for line in text.splitlines()]
    assert lines[0] == "executor e-1 of framework f-1"
    assert lines[1].endswith("up 0:01:40, subscribed with 127.0.0.1:5051")
    assert "container memory 2.0MB of 32.0MB" in lines
    assert "web-1  RUNNING  42   2      2.00s  1.0MB   unhealthy  70% on the way  0:00:09" in lines
    assert "ended: 3 FINISHED" in lines
    assert "unacknowledged: FINISHED of task old" in lines
    assert "task web-1: GET / returned status 500" in lines


def test_ps_by_process_from_below_the_sandbox(tmp_path: Path) -> None:
    below = tmp_path / "some" / "where"
    below.mkdir(parents=True)
    with serving(tmp_path) as loop, subprocess.Popen(["sleep", "1000"], cwd=below) as process:
        try:
            code, text = meanwhile(loop, lambda: ps("--json", str(process.pid)))
            found = meanwhile(loop, lambda: ps("--json"))
        finally:
            process.kill()
    assert code == 0
    state = json.loads(text)
    assert (state["executor_id"], state["sandbox"]) == ("e-1", str(tmp_path))
    assert any('"executor_id": "e-1"' in line for line in found[1].splitlines())


@pytest.mark.parametrize(
    "answer",
    [b"{}", b"[]", b"[" * 100_000, b'{"connection": 1}', b"\xff", json.dumps({"tasks": "\x1b[2J"}).encode()],
)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_ps_meets_somebody_elses_socket(tmp_path: Path, answer: bytes, options: tuple[str, ...]) -> None:
    with listen(Directory.of(tmp_path)) as listener:
        listener.settimeout(PATIENCE)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + answer)

        server = threading.Thread(target=serve)
        server.start()
        code, text = ps(*options, str(tmp_path))
        server.join()
    assert "Traceback" not in text
    assert "\x1b" not in text
    assert code == (0 if options and answer.startswith(b"{") else 1)


def test_ps_shows_no_control_characters(tmp_path: Path) -> None:
    with serving(tmp_path, lambda: document("a\x1b[2J\u202eb")) as loop:
        for options in ((), ("--json",)):
            code, text = meanwhile(loop, partial(ps, *options, str(tmp_path)))
            assert (code, "\x1b" in text, "\u202e" in text) == (0, False, False)


def test_an_answer_without_end_is_given_up(tmp_path: Path) -> None:
    with listen(Directory.of(tmp_path)) as listener:
        listener.settimeout(PATIENCE)

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.005)

        server = threading.Thread(target=drip)
        server.start()
        with pytest.raises(InspectError, match="does not come to the end"):
            fetch(tmp_path, timeout=0.05)
        server.join()


def test_ps_says_what_is_wrong(tmp_path: Path) -> None:
    for name in ("x" * 300, "²"):
        code, text = ps(name)
        assert (code, "Error: " in text) == (1, True)
    code, text = ps(str(tmp_path))
    assert (code, "no executor answers in" in text) == (1, True)
    code, text = ps(str(tmp_path / "gone"))
    assert (code, "neither a directory nor the number of a process" in text) == (1, True)
    code, text = ps(str(2**22 + 1))
    assert (code, "is gone" in text) == (1, True)


def test_however_many_ask_tasks_come_first(tmp_path: Path) -> None:
    """Documents that are dear to make are made one after the other, with four times as long between them."""
    began: list[float] = []

    def dear() -> ExecutorView:
        began.append(time.monotonic())
        time.sleep(0.05)
        return document()

    def ask() -> None:
        clients = [connect(tmp_path, PATIENCE) for _ in range(4)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()

    with serving(tmp_path, dear) as loop:
        meanwhile(loop, ask)
    assert min(after - before for before, after in itertools.pairwise(began)) >= 0.05 * 5 - 0.01


def test_a_request_of_one_byte_at_a_time_and_one_with_endless_fields(tmp_path: Path) -> None:
    def ask(request_: bytes, step: int) -> bytes:
        with connect(tmp_path, PATIENCE) as client, contextlib.suppress(OSError):
            for start in range(0, len(request_), step):
                client.sendall(request_[start : start + step])
            return client.recv(12)
        return b""

    whole = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(tmp_path) as loop:
        assert meanwhile(loop, lambda: ask(whole, 1)) == b"HTTP/1.1 200"
        assert meanwhile(loop, lambda: ask(whole[:-2] + b"a: b\r\n" * 5000, 100)) == b""
        assert meanwhile(loop, lambda: ask(whole[:-2] + b"a: b\r\n" * 200 + b"\r\n", 8000)) == b"HTTP/1.1 400"
