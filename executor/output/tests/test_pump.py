"""Streams through the executor: floods, last words, daemons that hold on."""

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.eventloop import SelectorLoop
from executor.output.directory import Directory
from executor.output.pump import Pump
from executor.output.rotating_file import RotatingFile, SharedStream
from executor.output.task_output import OutputPolicy, TaskOutput
from executor.process.tests.fixtures import (
    descriptors,
    ending,
    pid_in,
    python,
    running_loop,
    shell,
    supervised,
    turn_until,
)


@contextlib.contextmanager
def pumping() -> Iterator[tuple[SelectorLoop, Pump]]:
    with running_loop() as loop:
        pump = Pump(loop)
        try:
            yield loop, pump
        finally:
            pump.close()


def drained(loop: SelectorLoop, output: TaskOutput) -> None:
    done: list[bool] = []
    output.drain(loop, lambda: done.append(True))
    turn_until(loop, lambda: bool(done), "the drain")


def contents(folder: Path, name: str) -> bytes:
    files = sorted(folder.glob(f"{name}*"), key=lambda path: -int(path.suffix[1:] or 0))
    return b"".join(path.read_bytes() for path in files)


def test_a_thread_that_could_not_be_made_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pumping() as (loop, pump):
        policy = OutputPolicy(Directory.of(tmp_path), 1 << 20)
        before = descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_room)
            with pytest.raises(OSError, match="no thread"):
                TaskOutput(pump, policy, "refused")
        assert descriptors() == before
        output = TaskOutput(pump, policy, "t")
        os.write(output.stdout, b"said")
        output.started()
        drained(loop, output)
        assert (tmp_path / "tasks" / "t" / "stdout").read_bytes() == b"said"


def test_without_rotation_and_listener_nothing_is_in_between() -> None:
    with pumping() as (loop, pump):
        before = descriptors()
        output = TaskOutput(pump, OutputPolicy(), "t")
        assert (output.stdout, output.stderr) == (1, 2)
        assert descriptors() <= before
        output.started()
        done: list[bool] = []
        output.drain(loop, lambda: done.append(True))
        assert done == [True]


@pytest.mark.parametrize("listening", [False, True])
def test_output_is_complete_and_in_order_before_the_drain_ends(tmp_path: Path, listening: bool) -> None:
    heard: list[bytes] = []
    tap = (lambda: heard.append) if listening else None
    with pumping() as (loop, pump), supervised() as supervisor:
        output = TaskOutput(pump, OutputPolicy(Directory.of(tmp_path), 1000, 100), "a b/ü", tap)
        script = "for i in $(seq 2000); do echo $i; done; echo oops >&2; kill -KILL $$"
        process = supervisor.start(shell(script, stdout=output.stdout, stderr=output.stderr))
        output.started()
        assert ending(supervisor, process).signal == signal.SIGKILL
        drained(loop, output)
        folder = tmp_path / "tasks" / "a b%2Fü"
        assert contents(folder, "stdout") == b"".join(b"%d\n" % number for number in range(1, 2001))
        assert contents(folder, "stderr") == b"oops\n"
        assert max(path.stat().st_size for path in folder.iterdir()) == 1000
        assert output.problem == ""
        assert b"oops\n" in heard or not listening


def test_a_daemon_that_holds_the_pipe_does_not_hold_up_the_drain(tmp_path: Path) -> None:
    daemon = f"setsid sh -c 'echo $$ >{tmp_path}/pid; sleep 1000'"
    script = f"{daemon} & until test -s {tmp_path}/pid; do :; done; echo end"
    with pumping() as (loop, pump), supervised() as supervisor:
        output = TaskOutput(pump, OutputPolicy(Directory.of(tmp_path), 1000, 1), "t")
        process = supervisor.start(shell(script, stdout=output.stdout, stderr=output.stderr))
        output.started()
        ending(supervisor, process)
        pid_in(tmp_path / "pid")
        drained(loop, output)
        assert contents(tmp_path / "tasks" / "t", "stdout") == b"end\n"


def test_a_flood_costs_no_memory_and_files_stay_bounded(tmp_path: Path) -> None:
    script = "import os\nblock = b'x' * 65536\nfor _ in range(1000): os.write(1, block)"
    with pumping() as (loop, pump), supervised() as supervisor:
        output = TaskOutput(pump, OutputPolicy(Directory.of(tmp_path), 1 << 20, 2), "t")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        process = supervisor.start(python(script, stdout=output.stdout, stderr=output.stderr))
        output.started()
        assert ending(supervisor, process).code == 0
        drained(loop, output)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        sizes = [path.stat().st_size for path in (tmp_path / "tasks" / "t").glob("stdout*")]
    assert grown < 8192, "KiB"
    assert sorted(sizes)[-2:] == [1 << 20, 1 << 20]
    assert sum(sizes) <= 3 << 20


def test_streams_end_with_their_writers_and_leave_nothing_open(tmp_path: Path) -> None:
    with pumping() as (loop, pump), supervised() as supervisor:
        policy = OutputPolicy(Directory.of(tmp_path), 1000, 1)
        warm_up = TaskOutput(pump, policy, "warm")
        warm_up.started()
        turn_until(loop, lambda: not pump._streams, "the end of the first streams")
        before = descriptors()
        for number in range(20):
            output = TaskOutput(pump, policy, f"t{number}")
            process = supervisor.start(shell("echo x", stdout=output.stdout, stderr=output.stderr))
            output.started()
            ending(supervisor, process)
            drained(loop, output)
        turn_until(loop, lambda: not pump._streams, "the end of all streams")
        assert descriptors() <= before


def test_a_stream_that_cannot_be_made_leaves_nothing_open(tmp_path: Path) -> None:
    with pumping() as (loop, pump):
        policy = OutputPolicy(Directory.of(tmp_path), 1000, 1)
        TaskOutput(pump, policy, "warm").started()
        turn_until(loop, lambda: not pump._streams, "the end of the first streams")
        before = descriptors()
        (tmp_path / "tasks" / "t" / "stderr").mkdir(parents=True)
        with pytest.raises(IsADirectoryError):
            TaskOutput(pump, policy, "t")
        turn_until(loop, lambda: not pump._streams, "the end of the other stream")
        turn_until(loop, lambda: descriptors() <= before, "every descriptor closed")


def test_through_to_a_shared_stream() -> None:
    read, write = os.pipe()
    heard: list[bytes] = []
    with pumping() as (loop, pump):
        stream = pump.open(SharedStream(write), heard.append)
        os.write(stream.descriptor, b"hello")
        done: list[bool] = []
        pump.drain(stream, lambda: done.append(True))
        turn_until(loop, lambda: bool(done), "the drain")
        assert os.read(read, 100) == b"hello"
        assert heard == [b"hello"]
        stream.close_writer()
    os.close(read)
    os.close(write)


def test_an_agent_that_reads_nothing_holds_up_the_drain_for_a_while_only() -> None:
    read, write = os.pipe()
    with running_loop() as loop:
        pump = Pump(loop)
        stream = pump.open(SharedStream(write), lambda _: None)
        output = TaskOutput(pump, OutputPolicy(), "t")
        output._streams = [stream]
        os.set_blocking(stream.descriptor, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(stream.descriptor, b"x" * 4096)
        done: list[bool] = []
        output.drain(loop, lambda: done.append(True), limit=0.1)
        turn_until(loop, lambda: bool(done), "patience running out")
        os.close(read)  # the writer gets EPIPE and the thread goes on
        pump.close()
        stream.close_writer()
    os.close(write)


def test_a_disk_that_is_full_is_reported_and_the_task_goes_on(tmp_path: Path) -> None:
    with pumping() as (loop, pump), supervised() as supervisor:
        sink = RotatingFile(Directory.of(tmp_path), "out", 1 << 30, 0)
        with Path("/dev/full").open("wb") as full:
            os.dup2(full.fileno(), sink.fileno())
        stream = pump.open(sink)
        process = supervisor.start(shell("head -c 1000000 /dev/zero", stdout=stream.descriptor))
        stream.close_writer()
        assert ending(supervisor, process).code == 0
        turn_until(loop, lambda: sink.lost == 1_000_000, "all bytes counted as lost")
        assert "No space left" in sink.problem
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0]
