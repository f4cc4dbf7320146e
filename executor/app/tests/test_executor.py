"""When an executor leaves, and with which status; and what its own mistakes do to it."""

import pytest
from mesos.v1 import mesos_pb2

from executor.app.executor import DEFECT_WINDOW, TOLERATED_DEFECTS
from executor.app.tests.by_hand import Event, Whole, launch_event, task, whole
from executor.transport import EventReceived, StreamLost


def finish(made: Whole, code: int = 0) -> None:
    made.world.started.ends(code)
    made.turn()


def test_it_leaves_shortly_after_the_last_acknowledgement() -> None:
    made = whole("--linger", "100ms")
    made.run(task("t"))
    finish(made)
    assert made.turn(30.0) is None
    made.acknowledge_all()
    assert made.turn(0.05) is None
    assert made.turn(0.06) == 0


def test_a_launch_that_answers_the_last_update_is_served() -> None:
    made = whole("--linger", "100ms")
    made.run(task("t"))
    finish(made)
    made.acknowledge_all()
    made.turn(0.05)
    made.run(task("next"))
    assert made.turn(10.0) is None
    finish(made)
    made.acknowledge_all()
    assert made.turn(1.0) == 0
    assert [mesos_pb2.TaskState.Name(one.state) for one in made.wire.updates()][3:] == [
        "TASK_STARTING",
        "TASK_RUNNING",
        "TASK_FINISHED",
    ]


def test_a_launch_that_waits_behind_the_last_acknowledgement_is_served() -> None:
    made = whole("--linger", "0ns")
    made.run(task("t"))
    finish(made)
    made.acknowledge_all()
    made.world.loop.post(lambda: made.wire.event(launch_event(task("next"))))
    assert made.turn() is None
    assert len(made.world.processes.starts) == 2


def test_a_repeated_launch_of_an_ended_task_does_not_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = whole("--linger", "0ns")
    made.run(task("t"))
    finish(made)
    made.wire.event(launch_event(task("t")))
    made.turn()
    made.acknowledge_all()
    assert made.turn(0.1) == 0


def test_it_waits_for_acknowledgements_as_long_as_it_is_told() -> None:
    made = whole("--ack-timeout", "60secs")
    made.run(task("t"))
    finish(made)
    assert made.turn(59.0) is None
    assert made.turn(1.1) == 1


def test_told_to_leave_it_does_not_wait_for_acknowledgements_that_cannot_come() -> None:
    made = whole()
    made.run(task("t"))
    made.acknowledge_all()
    made.wire.event(Event(type=Event.SHUTDOWN))
    made.turn()
    made.world.started.ends(None, 15)
    made.turn()
    assert made.turn(2.0) is None, "the agent has not taken the update"
    made.wire.answer(made.wire.updates()[-1], 202)
    assert made.turn(0.4) is None
    assert made.turn(0.2) == 0


def test_an_update_refused_for_good_is_not_an_acknowledged_one() -> None:
    made = whole()
    made.run(task("t"))
    finish(made)
    for status in made.wire.updates():
        made.wire.answer(status, 400)
    assert made.turn(0.1) == 1


def test_without_checkpointing_an_agent_that_is_gone_leaves_updates_unacknowledged() -> None:
    made = whole(MESOS_CHECKPOINT="0")
    made.run(task("t"))
    made.acknowledge_all()
    made.turn()
    made.wire.hear(StreamLost(1, "gone"))
    made.turn()
    made.world.started.ends(None, 15)
    assert made.turn() == 1


def test_without_checkpointing_an_agent_that_is_gone_with_all_said_is_no_failure() -> None:
    made = whole(MESOS_CHECKPOINT="0")
    made.wire.hear(StreamLost(1, "gone"))
    assert made.turn() == 0


def test_it_stays_when_told_to_and_until_it_has_had_a_task() -> None:
    assert whole().turn(3600.0) is None
    made = whole("--stay")
    made.run(task("t"))
    finish(made)
    made.acknowledge_all()
    assert made.turn(3600.0) is None
    made.executor.stop("enough")
    assert made.turn() == 0


def test_idle() -> None:
    made = whole("--idle-timeout", "10secs")
    assert made.turn(9.0) is None
    assert made.turn(1.1) == 0


def defect() -> None:
    raise ZeroDivisionError


def test_defects_are_counted_by_the_hour() -> None:
    made = whole("--watchdog", "0ns", "--heartbeat-interval", "0ns")
    for _ in range(TOLERATED_DEFECTS * 3):
        made.world.loop.post(defect)
        assert made.turn() is None
        made.world.loop.advance(DEFECT_WINDOW / TOLERATED_DEFECTS)
    made.world.loop.advance(DEFECT_WINDOW)
    for _ in range(TOLERATED_DEFECTS):
        made.world.loop.post(defect)
        made.turn()
    made.world.loop.post(defect)
    with pytest.raises(ZeroDivisionError):
        made.turn()


def test_a_task_whose_command_is_no_text_fails_and_says_so() -> None:
    made = whole()
    for field, reason in (("command.value", "TASK_FAILED"), ("labels.labels[0].value", "TASK_RUNNING")):
        event = launch_event(task(field))
        made.wire.hear(
            EventReceived(made.wire.attempt, event, (f"launch_group.task_group.tasks[0].{field}",))
        )
        made.turn()
        if reason == "TASK_RUNNING":
            made.world.started.runs()
            made.turn()
        made.acknowledge_all()
        states = [one for one in made.wire.updates() if one.task_id.value == field]
        assert mesos_pb2.TaskState.Name(states[-1].state) == reason
    failed = made.wire.updates()[0]
    assert failed.message == "TaskInfo.command.value is not UTF-8"
    assert failed.reason == mesos_pb2.TaskStatus.REASON_TASK_INVALID


def test_a_group_with_a_member_whose_id_is_no_text_fails_whole() -> None:
    made = whole()
    event = launch_event(task("a"), task("b"))
    made.wire.hear(
        EventReceived(made.wire.attempt, event, ("launch_group.task_group.tasks[1].task_id.value",))
    )
    made.turn()
    made.acknowledge_all()
    assert {mesos_pb2.TaskState.Name(one.state) for one in made.wire.updates()} == {
        "TASK_FAILED",
        "TASK_KILLED",
    }
    assert len({one.task_id.value for one in made.wire.updates()}) == 2
    assert not made.world.processes.starts
