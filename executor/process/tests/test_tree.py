"""Whole trees, made of processes that refuse to die."""

import os
import signal
import time
from pathlib import Path

import pytest

from executor.process import procfs
from executor.process.launch import Process
from executor.process.tests.fixtures import (
    WaitingSupervisor,
    alive,
    ending,
    eventually,
    launch,
    left,
    pid_in,
    python,
    shell,
    supervised,
    unopenable,
)
from executor.process.tree import Lineage

DAEMON = """
import os, sys, time
if os.fork():
    {parent}
os.setsid()
if os.fork():
    os._exit(0)
os.chdir("/")
with open({file!r}, "w") as note:
    note.write(f"{{os.getpid()}}\\n")
time.sleep(1000)
"""

HOPPERS = """
import os, time
end = time.monotonic() + 40
for _ in range(8):
    if os.fork() == 0:
        while time.monotonic() < end:
            os.setsid()
            if os.fork():
                os._exit(0)
        os._exit(0)
time.sleep(40)
"""


def growing(supervisor: WaitingSupervisor, process: Process) -> bool:
    """Kill the tree of a process; whether new ones appeared to the last."""
    return process.cookie in supervisor.signal_trees([process], signal.SIGKILL).growing


def test_term_reaches_children_and_sessions(tmp_path: Path) -> None:
    script = f"sleep 1000 & setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 1000' & wait"
    with supervised() as supervisor:
        process = supervisor.start(shell(script))
        pid_in(tmp_path / "pid")
        assert supervisor.signal_tree(process, signal.SIGTERM) == 3
        assert ending(supervisor, process).signal == signal.SIGTERM
        eventually(lambda: left(supervisor) == [], "an empty tree")


def test_trapped_term_then_kill(tmp_path: Path) -> None:
    script = f"trap 'echo got >>{tmp_path}/got' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 0.05; done"
    with supervised() as supervisor:
        process = supervisor.start(shell(script))
        pid_in(tmp_path / "pid")
        supervisor.signal_tree(process, signal.SIGTERM)
        eventually((tmp_path / "got").exists, "the trap")
        assert supervisor.reap(process) is None
        supervisor.signal_tree(process, signal.SIGKILL)
        assert ending(supervisor, process).signal == signal.SIGKILL
        eventually(lambda: left(supervisor) == [], "an empty tree")


def test_double_forked_daemon_is_found_while_its_task_lives(tmp_path: Path) -> None:
    with supervised() as supervisor:
        script = DAEMON.format(parent="time.sleep(1000)", file=str(tmp_path / "pid"))
        process = supervisor.start(python(script))
        daemon = pid_in(tmp_path / "pid")
        assert daemon in [entry.pid for entry in supervisor.survivors(process)]
        supervisor.signal_tree(process, signal.SIGKILL)
        ending(supervisor, process)
        eventually(lambda: not alive(daemon), "the daemon's end")


def test_daemon_is_found_after_its_task_ended(tmp_path: Path) -> None:
    with supervised() as supervisor:
        script = DAEMON.format(parent="os._exit(0)", file=str(tmp_path / "pid"))
        process = supervisor.start(python(script))
        other = supervisor.start(launch("sleep", "1000"))
        daemon = pid_in(tmp_path / "pid")
        assert ending(supervisor, process).code == 0
        eventually(lambda: [entry.pid for entry in supervisor.survivors(process)] == [daemon], "it alone")
        supervisor.signal_tree(process, signal.SIGKILL)
        eventually(lambda: supervisor.survivors(process) == [], "the daemon's end")
        assert [entry.pid for entry in supervisor.survivors(other)] == [other.pid]


def test_daemon_without_cookie_is_remembered(tmp_path: Path) -> None:
    daemon_file = tmp_path / "pid"
    script = f"env -i /usr/bin/setsid /bin/sh -c 'echo $$ >{daemon_file}; sleep 1000' & read line"
    held, other_end = os.pipe()
    with supervised() as supervisor:
        process = supervisor.start(shell(script, stdin=held))
        daemon = pid_in(daemon_file)
        assert daemon in [entry.pid for entry in supervisor.survivors(process)]
        os.close(other_end)
        ending(supervisor, process)
        assert daemon in [entry.pid for entry in supervisor.survivors(process)]
        supervisor.signal_tree(process, signal.SIGKILL)
        eventually(lambda: not alive(daemon), "the daemon's end")
    os.close(held)


def test_daemon_that_sheds_its_environment_unseen_is_found_by_its_mark(tmp_path: Path) -> None:
    daemon_file = tmp_path / "pid"
    inner = f"/usr/bin/setsid /bin/sh -c 'echo $$ >{daemon_file}; exec sleep 1000'"
    with supervised() as supervisor:
        other = supervisor.start(launch("sleep", "1000"))
        process = supervisor.start(shell(f"env -i {inner} & until test -s {daemon_file}; do :; done"))
        ending(supervisor, process)
        daemon = pid_in(daemon_file)
        assert procfs.cookie(daemon) is None
        assert [entry.pid for entry in supervisor.survivors(other)] == [other.pid]
        assert [entry.pid for entry in supervisor.survivors(process)] == [daemon]
        supervisor.signal_tree(process, signal.SIGKILL)
        eventually(lambda: not alive(daemon), "the daemon's end")


def test_stopped_task_is_continued_by_term() -> None:
    with supervised() as supervisor:
        process = supervisor.start(shell("kill -STOP $$; sleep 1000"))
        eventually(lambda: _state(process.pid) == "T", "the stop")
        supervisor.signal_tree(process, signal.SIGTERM)
        assert ending(supervisor, process).signal == signal.SIGTERM


def test_other_tasks_are_left_alone() -> None:
    with supervised() as supervisor:
        first = supervisor.start(shell("sleep 1000 & sleep 1000"))
        second = supervisor.start(shell("sleep 1000 & sleep 1000"))
        eventually(lambda: len(supervisor.survivors(second)) == 3, "the second tree")
        supervisor.signal_tree(first, signal.SIGKILL)
        ending(supervisor, first)
        assert len(supervisor.survivors(second)) == 3
        assert not {_state(entry.pid) for entry in supervisor.survivors(second)} & set("TtZX")


def test_a_tree_that_moves_is_stopped_whole() -> None:
    # Thirty processes that each make another and die, again and again: no single look sees the whole tree.
    script = """
import os, time
end = time.monotonic() + 60
for _ in range(30):
    if os.fork() == 0:
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
            time.sleep(0.002)
        os._exit(0)
time.sleep(60)
"""
    with supervised() as supervisor:
        process = supervisor.start(python(script))
        eventually(lambda: len(supervisor.survivors(process)) > 20, "a moving tree")
        eventually(lambda: not growing(supervisor, process), "a tree that grows no more")
        ending(supervisor, process)
        eventually(lambda: left(supervisor) == [], "an empty tree")


def test_who_is_another_process_in_another_session_at_every_look_is_caught() -> None:
    """Beside another task, so that nothing but the mark and the cookie tells whose they are."""
    with supervised() as supervisor:
        other = supervisor.start(launch("sleep", "1000"))
        process = supervisor.start(python(HOPPERS))
        eventually(lambda: len(supervisor.survivors(process)) > 3, "a moving tree")
        eventually(lambda: not growing(supervisor, process), "a tree that grows no more")
        ending(supervisor, process)
        eventually(lambda: left(supervisor) == [other.pid], "the other task alone")
        entry = procfs.stat(other.pid)
        assert entry is not None
        assert entry.state == "S"


def test_processes_that_cannot_stop_are_waited_for_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent of a vfork(2) is in the kernel until its child has come to its program."""
    script = f"""
import os
for _ in range(40):
    if os.fork() == 0:
        os.posix_spawn({str(tmp_path / "hangs")!r}, ["hangs"], {{}})
os.wait()
"""
    pauses: list[float] = []
    pause = time.sleep
    with unopenable(tmp_path / "hangs"), supervised() as supervisor:
        process = supervisor.start(python(script))
        eventually(lambda: len(supervisor.survivors(process)) == 81, "forty pairs")
        monkeypatch.setattr("executor.process.tree.time.sleep", pauses.append)
        assert supervisor.signal_tree(process, signal.SIGKILL) == 81
        monkeypatch.setattr("executor.process.tree.time.sleep", pause)
        ending(supervisor, process)
        eventually(lambda: left(supervisor) == [], "an empty tree")
    assert len(pauses) <= 100


def test_orphans_are_never_zombies(tmp_path: Path) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.05 &) ; done; read line"
    held, other_end = os.pipe()
    with supervised() as supervisor:
        process = supervisor.start(shell(script, stdin=held))
        eventually(lambda: len(procfs.descendants(supervisor.warden_pid)) == 1, "all orphans collected")
        os.close(other_end)
        ending(supervisor, process)
    os.close(held)


def test_many_trees_at_once() -> None:
    with supervised() as supervisor:
        processes = [supervisor.start(shell("sleep 1000 & sleep 1000")) for _ in range(20)]
        eventually(lambda: sum(map(len, supervisor.members(processes).values())) == 60, "sixty processes")
        assert supervisor.signal_trees(processes, signal.SIGTERM).count == 60
        for process in processes:
            assert ending(supervisor, process).signal == signal.SIGTERM


def test_signal_to_a_reused_number_is_not_sent() -> None:
    with supervised() as supervisor:
        process = supervisor.start(shell("sleep 1000"))
        entry = procfs.stat(process.pid)
        assert entry is not None
        entry.started += 1
        assert procfs.send_signal(entry, signal.SIGKILL) is False
        assert alive(process.pid)


@pytest.mark.parametrize("walk", [True, False])
def test_descendants_with_and_without_the_kernels_lists(walk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not walk:
        real = procfs._read
        monkeypatch.setattr(procfs, "_read", lambda path: None if path.endswith("children") else real(path))
    with supervised() as supervisor:
        process = supervisor.start(shell("sleep 1000 & sleep 1000"))
        eventually(lambda: len(supervisor.survivors(process)) == 3, "three processes")


THREADS = """
import os, threading, time
threading.stack_size(65536)
for _ in range(1000):
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
os.spawnlp(os.P_WAIT, "sleep", "sleep", "1000")
"""


def test_a_look_at_a_task_of_many_threads_does_not_read_a_list_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every look for any task looks at them too."""
    real = procfs._read
    with supervised() as supervisor:
        process = supervisor.start(python(THREADS))
        eventually(lambda: len(supervisor.survivors(process)) == 2, "the last thing it makes")
        paths: list[str] = []

        def read(path: str) -> bytes | None:
            paths.append(path)
            return real(path)

        monkeypatch.setattr(procfs, "_read", read)
        assert supervisor.signal_tree(process, signal.SIGKILL) == 2
        monkeypatch.setattr(procfs, "_read", real)
        ending(supervisor, process)
    assert len([path for path in paths if path.endswith("/children")]) < 1000


def test_a_list_of_children_that_is_new_at_every_look_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with processes that fork and end, and whose children do the same."""
    numbers = iter(range(10**8, 10**8 + 10_000))
    monkeypatch.setattr(procfs, "children", lambda *_: [next(numbers)])
    assert procfs.descendants(1) == []


def _state(pid: int) -> str:
    entry = procfs.stat(pid)
    return entry.state if entry else ""


WASHED = """
import ctypes, os, sys, time
if os.fork():
    time.sleep(1000)
os.setsid()
if os.fork():
    os._exit(0)
ctypes.CDLL(None).prctl(29, ctypes.c_ulong(60000), 0, 0, 0)  # timer slack
environment = {forged!r}
program = "import os, time; open({file!r}, 'w').write(f'{{os.getpid()}}\\\\n'); time.sleep(1000)"
os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", program], environment)
"""


@pytest.mark.parametrize("forged", [{}, {"MESOKIT_TASK": "no.such"}, {"MESOKIT_TASK": ""}])
def test_who_forges_its_cookie_and_washes_its_mark_dies_with_its_task(
    tmp_path: Path, forged: dict[str, str]
) -> None:
    with supervised() as supervisor:
        process = supervisor.start(python(WASHED.format(forged=forged, file=str(tmp_path / "pid"))))
        escaped = pid_in(tmp_path / "pid")
        supervisor.signal_tree(process, signal.SIGKILL)
        ending(supervisor, process)
        eventually(lambda: not alive(escaped), "the end of what escaped")


def test_who_might_be_of_two_tasks_outlives_one_and_never_both(tmp_path: Path) -> None:
    with supervised() as supervisor:
        other = supervisor.start(launch("sleep", "1000"))
        process = supervisor.start(python(WASHED.format(forged={}, file=str(tmp_path / "pid"))))
        escaped = pid_in(tmp_path / "pid")
        time.sleep(0.05)  # start times are told in hundredths of a second
        younger = supervisor.start(launch("sleep", "1000"))
        supervisor.signal_tree(process, signal.SIGKILL)
        ending(supervisor, process)
        assert [entry.pid for entry in supervisor.survivors(younger)] == [younger.pid]
        supervisor.signal_tree(other, signal.SIGKILL)
        ending(supervisor, other)
        eventually(lambda: not alive(escaped), "the end of what escaped")
        assert [entry.pid for entry in supervisor.survivors(younger)] == [younger.pid]


def test_a_start_that_has_not_come_to_its_program_is_nobody_elses() -> None:
    """What the warden has forked for one task must not be taken for another's orphan."""
    with supervised() as supervisor:
        process = supervisor.start(launch("sleep", "1000"))
        lineage = Lineage(lambda: supervisor.warden_pid)
        lineage.add(process)
        lineage.expect("another", 7)
        starting = supervisor.start(launch("sleep", "1000"))
        assert [entry.pid for entry in lineage.members([process])[process.cookie]] == [process.pid]
        lineage.abandon(7)
        assert starting.pid in [entry.pid for entry in lineage.members([process])[process.cookie]]
