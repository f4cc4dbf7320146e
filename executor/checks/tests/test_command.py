"""COMMAND checks with real processes, those that hang and fork included."""

import math
import os
import resource
from pathlib import Path

from executor.checks.check import Plan, Runner
from executor.checks.command import CommandCheck, CommandProbe
from executor.checks.result import Result
from executor.process.identity import resolve
from executor.process.launch import Launch, Limit
from executor.process.tests.fixtures import (
    alive,
    launch,
    left,
    pid_in,
    running_loop,
    shell,
    supervised,
    turn_for,
    turn_until,
)


def run(given: Launch) -> Result:
    results: list[Result] = []
    with running_loop() as loop, supervised(loop) as supervisor:
        CommandProbe(supervisor, given).start(loop, results.append)
        turn_until(loop, lambda: bool(results), "a result")
    return results[0]


def test_exit_codes() -> None:
    assert run(shell("exit 0")) == Result(True, "command exited with status 0", exit_code=0)
    assert run(shell("exit 3")) == Result(False, "command exited with status 3", exit_code=3)
    assert run(shell("kill -KILL $$")).exit_code == 137


def test_a_missing_program_is_a_failure() -> None:
    result = run(launch("/no/such/check"))
    assert (result.ok, result.exit_code, result.transient) == (False, None, False)
    assert "No such file" in result.text


def test_no_room_for_a_process_is_nobodys_failure() -> None:
    user = resolve("54322")
    limit = Limit(resource.RLIMIT_NPROC, 0, 0)
    with running_loop() as loop, supervised(loop) as supervisor:
        results: list[Result] = []
        supervisor.start(launch("sleep", "1000", user=user))
        CommandProbe(supervisor, launch("true", user=user, rlimits=[limit])).start(loop, results.append)
        turn_until(loop, lambda: bool(results), "a result")
    assert results[0].transient


def test_no_descriptor_for_a_check_is_nobodys_failure() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    results: list[Result] = []
    with running_loop() as loop, supervised(loop) as supervisor:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            CommandProbe(supervisor, shell("exit 0")).start(loop, results.append)
            turn_until(loop, lambda: bool(results), "a result")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert results[0].transient
        assert not results[0].ok


def test_a_hanging_check_is_killed_with_its_children_and_does_not_overlap(tmp_path: Path) -> None:
    script = f"echo run >>{tmp_path}/runs; setsid sh -c 'echo $$ >{tmp_path}/pid; sleep 1000' & wait"
    results: list[Result] = []
    with running_loop() as loop, supervised(loop) as supervisor:
        plan = Plan(CommandCheck(shell(script)), delay=0, interval=1000, timeout=0.5)
        runner = Runner(loop, supervisor, plan, results.append)
        runner.start()
        turn_until(loop, lambda: bool(results), "the timeout")
        assert results == [Result(False, "timed out after 0.5 s")]
        pid = pid_in(tmp_path / "pid")
        turn_until(loop, lambda: not alive(pid), "the end of the child")
        turn_until(loop, lambda: left(supervisor) == [], "nothing left")
        runner.pause()
    assert (tmp_path / "runs").read_text() == "run\n"


def test_a_check_that_leaves_a_daemon_behind_is_tidied_up(tmp_path: Path) -> None:
    script = f"setsid sh -c 'echo $$ >{tmp_path}/pid; sleep 1000' & until test -s {tmp_path}/pid; do :; done"
    results: list[Result] = []
    with running_loop() as loop, supervised(loop) as supervisor:
        CommandProbe(supervisor, shell(script)).start(loop, results.append)
        turn_until(loop, lambda: bool(results), "a result")
        assert results[0].ok
        pid = pid_in(tmp_path / "pid")
        turn_until(loop, lambda: not alive(pid), "the end of the daemon")


def test_pausing_kills_the_run_that_is_under_way(tmp_path: Path) -> None:
    script = f"echo $$ >{tmp_path}/pid; sleep 1000"
    results: list[Result] = []
    with running_loop() as loop, supervised(loop) as supervisor:
        plan = Plan(CommandCheck(shell(script)), delay=0, interval=0, timeout=math.inf)
        runner = Runner(loop, supervisor, plan, results.append)
        runner.start()
        turn_until(loop, (tmp_path / "pid").exists, "the run")
        pid = pid_in(tmp_path / "pid")
        runner.pause()
        turn_until(loop, lambda: not alive(pid), "its end")
        turn_for(loop, 0.05)
    assert results == []
