"""Which tasks there are, and what one's end means to others."""

import json

from mesos.v1 import mesos_pb2

from executor.app.tests.by_hand import task, world

Reason = mesos_pb2.TaskStatus.Reason


def test_ids_that_are_known_are_left_alone() -> None:
    made = world()
    made.tasks.launch([task("t")], grouped=False)
    made.tasks.launch([task("t")], grouped=False)
    made.loop.advance(0.0)
    assert len(made.processes.starts) == 1
    made.started.runs()
    made.started.ends(0)
    made.loop.advance(0.0)
    made.tasks.launch([task("t")], grouped=True)
    made.loop.advance(0.0)
    assert made.said() == ["t STARTING", "t RUNNING", "t FINISHED"]


def test_each_start_has_its_own_turn() -> None:
    made = world()
    made.tasks.launch([task("a"), task("b")], grouped=False)
    made.tasks.kill("b", mesos_pb2.KillPolicy())
    made.loop.advance(0.0)
    assert [start.launch.key for start in made.processes.starts] == ["a"]
    assert made.said() == ["a STARTING", "b STARTING", "b KILLED"]


def test_a_member_that_fails_takes_its_group_and_no_other_task() -> None:
    made = world()
    made.tasks.launch([task("a"), task("b")], grouped=True)
    made.tasks.launch([task("c")], grouped=False)
    made.loop.advance(0.0)
    for start in made.processes.starts:
        start.runs()
    made.said()
    made.processes.starts[0].ends(3)
    made.loop.advance(0.0)
    made.processes.starts[1].ends(None, 15)
    made.loop.advance(0.0)
    assert made.said() == ["a FAILED", "b KILLED"]
    assert [run.task.id for run in made.tasks.living] == ["c"]


def test_a_member_that_finishes_takes_nobody_along() -> None:
    made = world()
    made.tasks.launch([task("a"), task("b")], grouped=True)
    made.loop.advance(0.0)
    for start in made.processes.starts:
        start.runs()
    made.processes.starts[0].ends(0)
    made.loop.advance(0.0)
    assert [run.task.id for run in made.tasks.living] == ["b"]


def test_tasks_that_come_too_late_are_killed() -> None:
    made = world()
    made.tasks.refuse([task("t")], "too late")
    (status,) = made.statuses()
    assert (status.state, status.message) == (mesos_pb2.TASK_KILLED, "too late")
    assert made.tasks.living == ()


def poisoned(number: int) -> mesos_pb2.TaskInfo:
    """A task whose description met a defect on 40b513f: a key that protobuf finds and Python does not."""
    info = task(f"p{number}")
    info.ClearField("command")
    info.data = json.dumps({"command": {"value": "exit 0", "user\0": {"value\0": 1}, "shell": 5}}).encode()
    return info


def test_what_cannot_be_prepared_is_that_tasks_failure_alone() -> None:
    made = world()
    made.tasks.launch([task("good")], grouped=False)
    made.loop.advance(0.0)
    made.started.runs()
    made.said()
    for number in range(50):
        made.tasks.launch([poisoned(number)], grouped=False)
    made.loop.advance(0.0)
    statuses = made.statuses()
    assert {status.state for status in statuses} == {mesos_pb2.TASK_FAILED}
    assert {status.reason for status in statuses} == {Reason.REASON_TASK_INVALID}
    assert len(statuses) == 50
    assert [run.task.id for run in made.tasks.living] == ["good"]
