"""Starts: what the process finds, and what is said when it does not come to be."""

import errno
import os
import resource
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from executor.process import oom
from executor.process.identity import Identity, UnknownUserError, resolve
from executor.process.launch import Launch, LaunchError, Limit, Stage
from executor.process.tests.fixtures import (
    WaitingSupervisor,
    apart,
    descriptors,
    ending,
    eventually,
    launch,
    left,
    python,
    shell,
    supervised,
)
from executor.process.warden import spawn


def output(given: Launch, file: Path) -> str:
    """What a launch prints, having exited with 0."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        with supervised() as supervisor:
            exit_ = ending(supervisor, supervisor.start(_with_output(given, descriptor)))
            assert exit_.code == 0, exit_
    finally:
        os.close(descriptor)
    return file.read_text()


def _with_output(given: Launch, descriptor: int) -> Launch:
    return replace(given, stdout=descriptor, stderr=descriptor)


def failure(given: Launch) -> LaunchError:
    with supervised() as supervisor, pytest.raises(LaunchError) as caught:
        supervisor.start(given)
    return caught.value


def test_exit_code_and_signal() -> None:
    with supervised() as supervisor:
        assert ending(supervisor, supervisor.start(shell("exit 3"))).code == 3
        killed = ending(supervisor, supervisor.start(shell("kill -SEGV $$")))
        assert (killed.code, killed.signal) == (None, signal.SIGSEGV)


def test_a_start_without_room_for_its_pidfd_leaves_nothing() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with supervised() as supervisor:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(LaunchError) as caught:
                supervisor.start(launch("sleep", "1000"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (caught.value.stage, caught.value.errno) == (Stage.FORK, errno.EMFILE)
        eventually(lambda: not left(supervisor), "nothing left below the warden")
        assert ending(supervisor, supervisor.start(shell("exit 3"))).code == 3


def test_reap_of_a_running_process_is_none() -> None:
    with supervised() as supervisor:
        process = supervisor.start(launch("sleep", "1000"))
        assert supervisor.reap(process) is None
        supervisor.signal_tree(process, signal.SIGKILL)
        assert ending(supervisor, process).signal == signal.SIGKILL


def test_session_directory_arguments_and_environment(tmp_path: Path) -> None:
    script = (
        "import os, sys; pid = os.getpid(); print(os.getsid(0) == pid == os.getpgrp());"
        "print(os.getcwd()); print(sys.argv[1:]); print(sorted(os.environ)); print(os.environ['Ü'])"
    )
    given = python(script, cwd=tmp_path, env={"Ü": "wért", "B": ""})
    given = Launch(given.key, [*given.argv, "a b", "", "ü"], given.env, given.cwd)
    lines = output(given, tmp_path / "out").splitlines()
    assert lines[0] == "True"
    assert lines[1] == str(tmp_path)
    assert lines[2] == "['a b', '', 'ü']"
    assert set(eval(lines[3])) - {"LC_CTYPE"} == {"B", "MESOKIT_TASK", "Ü"}
    assert lines[4] == "wért"


def test_program_may_differ_from_its_first_argument(tmp_path: Path) -> None:
    given = Launch("t", ["called-so", "-c", "echo $0"], dict(os.environ), tmp_path, program="/bin/sh")
    assert output(given, tmp_path / "out") == "called-so\n"


def test_a_script_without_interpreter_line_is_run_by_sh(tmp_path: Path) -> None:
    script = tmp_path / "plain"
    script.write_text('echo "ran $1"\n')
    script.chmod(0o755)
    assert output(launch("./plain", "it", cwd=tmp_path), tmp_path / "out") == "ran it\n"


def test_only_standard_descriptors_are_inherited(tmp_path: Path) -> None:
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        listed = output(python("import os; print(sorted(os.listdir('/proc/self/fd')))"), tmp_path / "out")
    finally:
        os.close(leak)
    # The fourth is that of the listing.
    assert listed == "['0', '1', '2', '3']\n"


def test_signals_are_at_their_defaults(tmp_path: Path) -> None:
    listed = output(launch("/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"), tmp_path / "out")
    assert [int(line.split()[1], 16) for line in listed.splitlines()] == [0, 0]


def test_limits_are_set(tmp_path: Path) -> None:
    given = shell("ulimit -n; ulimit -Hn", rlimits=[Limit(resource.RLIMIT_NOFILE, 50, 60)])
    assert output(given, tmp_path / "out") == "50\n60\n"


def test_user_switch_takes_groups_too(tmp_path: Path) -> None:
    nobody = resolve("nobody")
    identity = Identity("nobody", nobody.uid, nobody.gid, (nobody.gid, 12345), "/")
    lines = output(shell("id -u; id -g; id -G", user=identity, cwd=Path("/")), tmp_path / "out").splitlines()
    assert lines == [str(nobody.uid), str(nobody.gid), f"{nobody.gid} 12345"]


def test_unknown_user_is_named() -> None:
    with pytest.raises(UnknownUserError, match="'no-such-user'"):
        resolve("no-such-user")


def test_numeric_user_without_account() -> None:
    assert resolve("54321").uid == 54321


def test_missing_program() -> None:
    error = failure(launch("/no/such/program"))
    assert (error.stage, error.errno) == (Stage.EXEC, errno.ENOENT)
    assert error.text == "cannot run '/no/such/program': No such file or directory"


def test_program_not_in_path() -> None:
    error = failure(launch("no-such-program", env={"PATH": "/bin:/sbin"}))
    assert error.errno == errno.ENOENT
    assert "looked in PATH=/bin:/sbin" in error.text


def test_permission_denied(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    error = failure(launch("./data", cwd=tmp_path))
    assert (error.stage, error.errno) == (Stage.EXEC, errno.EACCES)
    assert "Permission denied" in error.text


def test_missing_interpreter_is_named(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter -x\n")
    script.chmod(0o755)
    error = failure(launch(str(script)))
    assert error.errno == errno.ENOENT
    assert "No such file or directory: its interpreter '/no/such/interpreter'" in error.text


def test_missing_directory(tmp_path: Path) -> None:
    error = failure(launch("true", cwd=tmp_path / "gone"))
    assert (error.stage, error.errno) == (Stage.DIRECTORY, errno.ENOENT)
    assert str(tmp_path / "gone") in error.text


def test_too_long_arguments() -> None:
    error = failure(launch("true", "x" * 3_000_000))
    assert (error.stage, error.errno) == (Stage.EXEC, errno.E2BIG)
    assert len(error.text) < 500
    assert "2 arguments of 3000006 bytes" in error.text


def test_too_large_an_environment_is_told_as_that() -> None:
    error = failure(launch("true", env={f"A{number}": "v" * 1000 for number in range(4000)}))
    assert (error.stage, error.errno) == (Stage.EXEC, errno.E2BIG)
    assert "4000 environment variables of 40" in error.text


def test_zero_byte_in_an_argument() -> None:
    assert failure(launch("true", "a\0b")).stage == Stage.EXEC


def test_no_processes_left_for_the_user() -> None:
    user = resolve("54321")
    with supervised() as supervisor:
        supervisor.start(launch("sleep", "1000", user=user))
        with pytest.raises(LaunchError) as caught:
            supervisor.start(launch("true", user=user, rlimits=[Limit(resource.RLIMIT_NPROC, 0, 0)]))
    error = caught.value
    assert error.errno == errno.EAGAIN
    assert "Resource temporarily unavailable" in error.text


def test_limit_that_cannot_be_set() -> None:
    error = failure(launch("true", rlimits=[Limit(resource.RLIMIT_NOFILE, 10, 5)]))
    assert error.stage == Stage.RLIMIT
    assert "RLIMIT_NOFILE to 10:5" in error.text


def test_a_failed_start_leaves_nothing_behind() -> None:
    with supervised() as supervisor:
        before = descriptors()
        for _ in range(20):
            with pytest.raises(LaunchError):
                supervisor.start(launch("/no/such/program"))
        assert descriptors() <= before
        eventually(lambda: not left(supervisor), "nothing left below the warden")


def test_tasks_are_ended_first_when_memory_runs_out() -> None:
    """A task of many small processes reaches a control group's limit with none as large as the executor."""

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    with supervised() as supervisor:
        process = supervisor.start(launch("sleep", "1000"))
        eventually(
            lambda: score(process.pid) - score(supervisor.warden_pid) == 500, "half of the memory apart"
        )
        assert score(os.getpid()) == score(supervisor.warden_pid)
        supervisor.signal_tree(process, signal.SIGKILL)
        ending(supervisor, process)


def test_where_scores_may_be_lowered_tasks_start_with_the_one_that_the_executor_came_with() -> None:
    """Without CAP_SYS_RESOURCE too, down to where its last holder has set it: so one is raised first."""
    apart(_lower_the_score)


def _lower_the_score() -> None:
    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    came = score("self") + 600
    Path("/proc/self/oom_score_adj").write_text(str(came))
    with subprocess.Popen(["sleep", "1000"]) as loader:
        try:
            supervisor = WaitingSupervisor(spawn(loader.pid))
            process = supervisor.start(launch("sleep", "1000"))
            assert score(process.pid) == came
            assert {score(pid) for pid in ("self", loader.pid, supervisor.warden_pid)} == {came - 500}
            supervisor.signal_tree(process, signal.SIGKILL)
            assert ending(supervisor, process).signal == signal.SIGKILL
            assert score("self") == came - 500
            supervisor.close()
        finally:
            loader.kill()


def test_a_process_that_has_ended_is_not_put_forward() -> None:
    with supervised() as supervisor:
        process = supervisor.start(launch("sleep", "1000"))
        before = Path(f"/proc/{process.pid}/oom_score_adj").read_text()
        oom.put_forward(process.pid, process.started + 1)
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == before
        supervisor.signal_tree(process, signal.SIGKILL)
        ending(supervisor, process)
        oom.put_forward(process.pid, process.started)


def test_many_short_processes_each_with_its_own_exit_code() -> None:
    with supervised() as supervisor:
        before = descriptors()
        for code in range(100):
            assert ending(supervisor, supervisor.start(shell(f"exit {code}"))).code == code
        assert descriptors() <= before
