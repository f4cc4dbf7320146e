"""A running task from stage to stage, by a clock made by hand."""

import errno
import os
import signal
from typing import Any

import pytest
from mesos.v1 import mesos_pb2

from executor.app.task_event import Event, Stage
from executor.app.task_run import TABLE
from executor.app.tests.by_hand import World, task, world
from executor.checks.health import Health
from executor.process.launch import LaunchError
from executor.process.launch import Stage as LaunchStage
from executor.process.procfs import Stat
from executor.task.status import make_status

Reason = mesos_pb2.TaskStatus.Reason


def launched(made: World, *infos: mesos_pb2.TaskInfo, grouped: bool = False) -> None:
    """Launched and told so; their starts are asked for."""
    made.tasks.launch(infos, grouped=grouped)
    made.loop.advance(0.0)


def running(made: World, info: mesos_pb2.TaskInfo) -> None:
    launched(made, info)
    made.started.runs()
    assert made.said() == [f"{info.task_id.value} STARTING", f"{info.task_id.value} RUNNING"]


def test_every_event_means_something_somewhere_and_nothing_when_all_is_over() -> None:
    assert set(TABLE) == set(Stage)
    assert set().union(*TABLE.values()) == set(Event)
    assert not TABLE[Stage.OVER]


def test_a_task_that_runs_and_ends() -> None:
    made = world()
    launched(made, task("t"))
    assert made.said() == ["t STARTING"]
    made.started.runs()
    assert made.said() == ["t RUNNING"]
    made.started.ends(0)
    made.loop.advance(0.0)
    (final,) = made.statuses()
    assert (final.state, final.message) == (mesos_pb2.TASK_FINISHED, "Command exited with status 0")
    # Whatever it left behind is gone before that is told.
    assert made.processes.signals == [(1, signal.SIGKILL)]
    assert made.tasks.living == ()


@pytest.mark.parametrize("wait", [0.3, 20.0])
def test_one_that_makes_processes_faster_than_they_are_killed_holds_up_its_own_end_alone(wait: float) -> None:
    """And that not for ever."""
    made = world()
    running(made, task("bomb"))
    bomb = made.started
    running(made, task("other"))
    made.processes.growing.add(bomb.number)
    bomb.ends(0)
    made.started.ends(0)
    made.loop.advance(0.0)
    assert made.said() == ["other FINISHED"]
    made.loop.advance(wait)
    made.processes.growing.clear()
    assert len(made.processes.signals) > 10
    made.loop.advance(0.1)
    assert made.said() == ["bomb FINISHED"]
    assert made.tasks.living == ()


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EMFILE])
def test_a_start_that_fails_is_told_and_nothing_else(number: int) -> None:
    made = world()
    launched(made, task("t"))
    made.started.fails(LaunchError(LaunchStage.EXEC, number, "cannot run it"))
    _, final = made.statuses()
    assert (final.state, final.reason) == (mesos_pb2.TASK_FAILED, Reason.REASON_CONTAINER_LAUNCH_FAILED)
    assert final.message == "cannot run it"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), MemoryError(), RuntimeError("no thread")])
def test_want_of_anything_at_the_start_is_told(error: Exception) -> None:
    made = world()
    made.processes.refuse = error
    launched(made, task("t"))
    assert made.said() == ["t STARTING", "t FAILED"]
    made.processes.refuse = None
    running(made, task("after"))


def test_a_kill_before_its_turn() -> None:
    made = world()
    made.tasks.launch([task("t")], grouped=False)
    made.tasks.kill("t", mesos_pb2.KillPolicy())
    made.loop.advance(0.0)
    assert made.said() == ["t STARTING", "t KILLED"]
    assert made.processes.starts == []


def test_a_kill_while_it_is_being_started_counts_from_then_on() -> None:
    made = world("--kill-grace", "3secs")
    launched(made, task("t"))
    made.tasks.kill("t", mesos_pb2.KillPolicy())
    made.loop.advance(2.0)
    made.started.runs()
    made.loop.advance(0.0)
    assert made.processes.signals == [(1, signal.SIGTERM)]
    made.loop.advance(1.0)
    assert made.processes.signals[-1] == (1, signal.SIGKILL)
    made.started.ends(None, signal.SIGKILL)
    made.loop.advance(0.0)
    assert made.said() == ["t STARTING", "t RUNNING", "t KILLED"]


def test_a_start_that_hangs_is_given_up_when_the_grace_of_its_kill_is_over() -> None:
    made = world("--kill-grace", "3secs")
    launched(made, task("hangs"), task("other"))
    made.tasks.kill("hangs", mesos_pb2.KillPolicy())
    made.processes.starts[1].runs()
    made.loop.advance(2.9)
    assert made.said() == ["hangs STARTING", "other STARTING", "other RUNNING"]
    made.loop.advance(0.2)
    assert made.said() == ["hangs KILLED"]
    assert made.processes.cancelled == [1]


def test_a_stubborn_task_gets_sigkill_at_its_deadline_again_and_again() -> None:
    made = world()
    running(made, task("t", grace=5.0))
    made.tasks.kill("t", mesos_pb2.KillPolicy())
    made.loop.advance(4.9)
    assert made.processes.signals == [(1, signal.SIGTERM)]
    made.loop.advance(2.2)
    assert made.processes.signals == [(1, signal.SIGTERM), *[(1, signal.SIGKILL)] * 3]
    made.started.ends(None, signal.SIGKILL)
    made.loop.advance(0.0)
    assert made.said() == ["t KILLED"]


def test_a_second_kill_brings_the_deadline_nearer_never_further() -> None:
    made = world()
    running(made, task("t", grace=50.0))
    made.tasks.kill("t", mesos_pb2.KillPolicy())
    made.loop.advance(5.0)
    shorter = mesos_pb2.KillPolicy()
    shorter.grace_period.nanoseconds = 6 * 10**9
    made.tasks.kill("t", shorter)
    made.tasks.kill("t", mesos_pb2.KillPolicy())
    made.loop.advance(0.9)
    assert made.processes.signals == [(1, signal.SIGTERM)]
    made.loop.advance(0.2)
    assert made.processes.signals[-1] == (1, signal.SIGKILL)


def test_what_a_killed_task_leaves_behind_has_the_rest_of_the_grace() -> None:
    made = world()
    running(made, task("t", grace=5.0))
    made.tasks.kill("t", mesos_pb2.KillPolicy())
    line = f"{os.getpid()} (x) S 1 1 1" + " 0" * 20
    # Nobody has that number any more: who was alive when it was looked for has ended since.
    made.processes.living[1] = [Stat(2**22 + 5, line.encode())]
    made.started.ends(0)
    made.loop.advance(0.0)
    assert made.said() == ["t KILLED"]


def test_max_completion_time() -> None:
    made = world()
    info = task("t")
    info.max_completion_time.nanoseconds = 10 * 10**9
    running(made, info)
    made.loop.advance(10.0)
    assert made.processes.signals == [(1, signal.SIGKILL)]
    made.started.ends(None, signal.SIGKILL)
    made.loop.advance(0.0)
    (final,) = made.statuses()
    assert (final.state, final.reason) == (
        mesos_pb2.TASK_FAILED,
        Reason.REASON_MAX_COMPLETION_TIME_REACHED,
    )


def test_news_of_health_is_told_until_the_task_is_killed_by_it() -> None:
    made = world()
    running(made, task("t"))
    (run,) = made.tasks.living
    feed = run.feed
    feed(run, Event.HEALTH, Health(True, False, 0, "fine"))
    feed(run, Event.HEALTH, Health(False, True, 3, "bad"))
    feed(run, Event.HEALTH, Health(True, False, 0, "too late"))
    told = made.statuses()
    assert [(one.healthy, one.message) for one in told] == [(True, "fine"), (False, "bad")]
    assert run.task.kill is not None


def test_killing_is_told_to_those_who_want_to_hear_of_it() -> None:
    made = world()
    made.tasks.tell_killing(True)
    running(made, task("t"))
    made.tasks.kill("t", mesos_pb2.KillPolicy())
    made.tasks.kill("t", mesos_pb2.KillPolicy())
    assert made.said() == ["t KILLING"]


def test_a_defect_ends_the_task_that_met_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = world()
    running(made, task("t"))
    first = made.started
    running(made, task("other"))
    (run, _) = made.tasks.living

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    handlers = {**TABLE[Stage.RUNNING], Event.CHECK: broken}
    monkeypatch.setitem(TABLE, Stage.RUNNING, handlers)
    run.feed(run, Event.CHECK, None)
    made.loop.advance(0.0)
    assert made.processes.signals == [(1, signal.SIGKILL)]
    first.ends(None, signal.SIGKILL)
    made.loop.advance(0.0)
    (final,) = made.statuses()
    assert (final.task_id.value, final.state) == ("t", mesos_pb2.TASK_FAILED)
    assert "a mistake of ours" in final.message
    assert [one.task.id for one in made.tasks.living] == ["other"]


def test_a_defect_met_at_the_very_end_is_met_again_until_the_end_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = world()
    running(made, task("t"))
    calls: list[int] = []

    def make_scarce(*arguments: Any, **options: Any) -> mesos_pb2.TaskStatus:
        """No memory for a status, the first times."""
        calls.append(1)
        if len(calls) <= 3:
            raise MemoryError
        return make_status(*arguments, **options)

    monkeypatch.setattr("executor.app.task_run.make_status", make_scarce)
    made.started.ends(0)
    made.loop.advance(0.0)
    assert made.said() == []
    made.loop.advance(2.0)
    assert len(made.said()) == 1
    assert made.tasks.living == ()
