"""Nothing outlives an executor, however it ends, nor a warden that is killed."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from executor.process import procfs
from executor.process.launch import LaunchError, Stage
from executor.process.tests.fixtures import (
    WaitingSupervisor,
    alive,
    apart,
    ending,
    eventually,
    launch,
    left,
    pid_in,
    python,
    shell,
    supervised,
)
from executor.process.tests.test_tree import DAEMON, HOPPERS
from executor.process.warden import spawn

# An executor in small: it starts the commands of its arguments and waits.
EXECUTOR = """
import sys
from executor.process.warden import spawn
warden = spawn()
import os, time
from pathlib import Path
from executor.process.launch import Launch
from executor.process.tests.fixtures import WaitingSupervisor
supervisor = WaitingSupervisor(warden)
for script in sys.argv[1:]:
    supervisor.start(Launch("task", [sys.executable, "-I", "-S", "-c", script], dict(os.environ), Path("/")))
print(warden.pid, flush=True)
time.sleep(1000)
"""

STUBBORN = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
with open({file!r}, "w") as note:
    note.write(f"{{os.getpid()}}\\n")
time.sleep(1000)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_no_task_outlives_a_killed_executor(tmp_path: Path, end: signal.Signals) -> None:
    scripts = [
        STUBBORN.format(file=str(tmp_path / "stubborn")),
        DAEMON.format(parent="os._exit(0)", file=str(tmp_path / "daemon")),
        DAEMON.format(parent="time.sleep(1000)", file=str(tmp_path / "other")),
    ]
    with subprocess.Popen(
        [sys.executable, "-c", EXECUTOR, *scripts], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as executor:
        assert executor.stdout is not None
        warden = int(executor.stdout.readline())
        pids = [pid_in(tmp_path / name) for name in ("stubborn", "daemon", "other")]
        # The group too, as an agent does: the warden must not be in it.
        os.killpg(executor.pid, end)
    eventually(lambda: not any(map(alive, [*pids, warden])), "the end of all")


def test_who_is_another_process_at_every_look_outlives_no_executor(tmp_path: Path) -> None:
    """A walk through all processes never came to its end, and so the warden to no signal."""
    with subprocess.Popen(
        [sys.executable, "-c", EXECUTOR, f"{HOPPERS}# {tmp_path}"], stdout=subprocess.PIPE, text=True
    ) as executor:
        assert executor.stdout is not None
        warden = int(executor.stdout.readline())
        eventually(lambda: len(procfs.descendants(warden)) > 3, "a moving tree")
        executor.kill()
    eventually(lambda: not alive(warden), "the warden's end")
    assert not _running(str(tmp_path))


def _running(word: str) -> list[int]:
    """The processes with this in their command; they may end while they are looked at."""
    found: list[int] = []
    for entry in procfs.everything():
        with suppress(FileNotFoundError, ProcessLookupError):
            if not entry.dead and word.encode() in Path(f"/proc/{entry.pid}/cmdline").read_bytes():
                found.append(entry.pid)
    return found


ROOTS = """
import os, time
os.setresuid(0, 0, 0)
if os.fork() == 0:
    os.setsid()
    with open({file!r}, "w") as note:
        note.write(f"{{os.getpid()}}\\n")
    time.sleep(1000)
os._exit(0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a setuid program")
def test_a_process_that_is_not_ours_to_kill_saves_nobody_else_from_the_warden(tmp_path: Path) -> None:
    """An ordinary user's executor, with a task that a setuid program has made root's."""
    for name, mode in (("setuid", 0o4755), ("ordinary", 0o755)):
        shutil.copyfile(Path(sys.executable).resolve(), tmp_path / name)
        (tmp_path / name).chmod(mode)
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    note = tmp_path / "root's"
    read, write = os.pipe()
    apart(partial(_as_an_ordinary_user, note, write))
    os.close(write)
    with os.fdopen(read) as told:
        warden = int(told.readline())
    roots = pid_in(note)
    try:
        eventually(lambda: not _running(f"# {tmp_path}"), "the hoppers' end")
        assert alive(roots)
        assert alive(warden)
    finally:
        os.kill(roots, signal.SIGKILL)
    eventually(lambda: not alive(warden), "the warden's end")


def _as_an_ordinary_user(note: Path, write: int) -> None:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    supervisor = WaitingSupervisor(spawn())
    for program, script in (
        ("setuid", ROOTS.format(file=str(note))),
        ("ordinary", f"{HOPPERS}# {note.parent}"),
    ):
        supervisor.start(launch(str(note.with_name(program)), "-I", "-S", "-c", script, env={}))
    pid_in(note)
    eventually(lambda: len(left(supervisor)) > 4, "a moving tree")
    os.write(write, b"%d\n" % supervisor.warden_pid)


def test_a_killed_warden_takes_its_tasks_along_and_is_noticed(tmp_path: Path) -> None:
    apart(partial(_kill_the_warden, tmp_path))


def _kill_the_warden(tmp_path: Path) -> None:
    supervisor = WaitingSupervisor(spawn())
    process = supervisor.start(launch("sleep", "1000"))
    parent = supervisor.start(python(DAEMON.format(parent="os._exit(0)", file=str(tmp_path / "daemon"))))
    ending(supervisor, parent)
    daemon = pid_in(tmp_path / "daemon")
    os.kill(supervisor.warden_pid, signal.SIGKILL)
    assert ending(supervisor, process).signal == signal.SIGKILL
    with pytest.raises(LaunchError) as caught:
        supervisor.start(launch("true"))
    assert caught.value.stage == Stage.WARDEN
    eventually(lambda: [entry.pid for entry in supervisor.survivors(parent)] == [daemon], "it alone")
    supervisor.signal_tree(parent, signal.SIGKILL)
    eventually(lambda: not alive(daemon), "the daemon's end")
    supervisor.close()


def test_close_after_a_killed_warden_kills_what_it_left(tmp_path: Path) -> None:
    # In a process of its own, see apart().
    script = EXECUTOR.replace("time.sleep(1000)", "os.kill(warden.pid, 9); supervisor.close()")
    daemon_script = DAEMON.format(parent="time.sleep(1000)", file=str(tmp_path / "daemon"))
    waiting = f"while not os.path.exists({str(tmp_path / 'daemon')!r}): time.sleep(0.01)\nprint"
    script = script.replace("print", waiting, 1)
    subprocess.run([sys.executable, "-c", script, daemon_script], check=True, stdout=subprocess.PIPE)
    assert not alive(pid_in(tmp_path / "daemon"))


def test_close_kills_what_is_left(tmp_path: Path) -> None:
    with supervised() as supervisor:
        supervisor.start(shell(f"trap '' TERM; echo $$ >{tmp_path}/pid; sleep 1000 & wait"))
        pid = pid_in(tmp_path / "pid")
        warden = supervisor.warden_pid
    assert not alive(pid)
    assert not alive(warden)


def test_the_warden_holds_no_pipe_of_the_executor() -> None:
    read, write = os.pipe()
    with supervised():
        os.close(write)
        assert os.read(read, 1) == b""
    os.close(read)


def test_the_warden_ignores_polite_signals() -> None:
    with supervised() as supervisor:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(supervisor.warden_pid, number)
        assert ending(supervisor, supervisor.start(shell("exit 7"))).code == 7


def test_a_start_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # The warden is forked with these in place: its children stop before they exec, as on a dead file server.
    monkeypatch.setattr("executor.process.warden._START_LIMIT", 0.3)
    monkeypatch.setattr("executor.process.child._move", lambda _: signal.pause())
    with supervised() as supervisor:
        for _ in range(2):
            with pytest.raises(LaunchError, match="did not start within the time allowed"):
                supervisor.start(launch("true"))
        eventually(lambda: left(supervisor) == [], "the end of both")
