"""Questions until everything is answered."""

from executor.framework.sdk.calls import Call, TaskRef
from executor.framework.sdk.reconcile import Pace, Reconciler


def asked(found: list[Call]) -> list[list[str]]:
    return [[task.task_id.value for task in call.reconcile.tasks] for call in found]


def test_only_what_was_not_answered_is_asked_again_ever_more_slowly() -> None:
    found = Reconciler(Pace(implicit_every=1e9))
    assert asked(found.subscribed([TaskRef("a", "A"), TaskRef("b", "B")], 0.0)) == [["a", "b"]]
    found.due(4.0)
    found.heard("a")
    waits, now = [], 4.0
    for _ in range(4):
        assert found.alarm is not None
        waits.append(found.alarm - now)
        now = found.alarm
        assert ["b"] in asked(found.due(now))
    assert waits == [8.0, 16.0, 30.0, 30.0]
    found.heard("b")
    assert found.remaining == 0


def test_many_tasks_are_asked_for_in_batches_with_their_agents() -> None:
    found = Reconciler(Pace(batch=1000))
    questions = found.subscribed([TaskRef(f"t{n}", "A") for n in range(2500)], 0.0)
    assert [len(call.reconcile.tasks) for call in questions] == [1000, 1000, 500]
    assert all(task.agent_id.value == "A" for call in questions for task in call.reconcile.tasks)


def test_the_whole_list_ends_with_its_fence() -> None:
    found = Reconciler()
    found.subscribed([], 0.0)
    calls = found.due(4.0)
    assert asked(calls)[0] == []
    (fence,) = asked(calls)[1]
    assert found.is_fence(fence)
    assert found.heard("stranger") is False
    assert found.heard(fence) is True
    assert found.alarm == 4.0 + 900.0
    (call,) = found.unlisted([TaskRef("stranger", "A1"), TaskRef("missing", "A2")], 1.0)
    assert [(it.task_id.value, it.agent_id.value) for it in call.reconcile.tasks] == [("missing", "A2")]


def test_an_old_fence_ends_nothing() -> None:
    found = Reconciler(Pace(implicit_every=10.0))
    found.subscribed([], 0.0)
    (first,) = asked(found.due(4.0))[1]
    found.due(14.0)
    assert found.heard(first) is False


def test_nothing_is_asked_while_disconnected() -> None:
    found = Reconciler()
    found.subscribed([TaskRef("a", "A")], 0.0)
    found.disconnected()
    assert found.alarm is None and found.due(1e6) == []


def test_a_silent_launch_is_asked_for_alone() -> None:
    found = Reconciler()
    found.subscribed([], 0.0)
    assert asked(found.add(TaskRef("late", "A"), 1.0)) == [["late"]]
    assert found.remaining == 1
