"""The subscription, event by event, with a clock made by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.session import (
    Acknowledged,
    Action,
    Drained,
    Drop,
    Phase,
    Policy,
    Send,
    Session,
    Shutdown,
    Subscribe,
)
from executor.session.session import MAX_DENIALS

POLICY = Policy(
    checkpoint=True,
    recovery_timeout=900.0,
    backoff_max=2.0,
    registration_timeout=60.0,
    subscribe_timeout=15.0,
    ack_timeout=60.0,
    watchdog=3900.0,
    heartbeat_interval=1800.0,
)
Event = executor_pb2.Event


def event(kind: Any, **fields: Any) -> executor_pb2.Event:
    return Event(type=kind, **fields)


def subscribed() -> executor_pb2.Event:
    made = event(Event.SUBSCRIBED)
    made.subscribed.executor_info.executor_id.value = "E"
    made.subscribed.framework_info.user = made.subscribed.framework_info.name = "x"
    made.subscribed.agent_info.hostname = "h"
    return made


def acknowledged(status: mesos_pb2.TaskStatus) -> executor_pb2.Event:
    return event(
        Event.ACKNOWLEDGED,
        acknowledged=Event.Acknowledged(task_id=status.task_id, uuid=status.uuid),
    )


def update(task_id: str, number: int, state: Any = mesos_pb2.TASK_RUNNING) -> mesos_pb2.TaskStatus:
    return mesos_pb2.TaskStatus(
        task_id=mesos_pb2.TaskID(value=task_id), state=state, uuid=number.to_bytes(16, "big")
    )


def task(task_id: str) -> mesos_pb2.TaskInfo:
    info = mesos_pb2.TaskInfo(name=task_id)
    info.task_id.value = task_id
    info.agent_id.value = "A"
    return info


def make(policy: Policy = POLICY, jitter: float = 0.5) -> Session:
    return Session("F", "E", policy, lambda: jitter)


def join(session: Session, now: float = 0.0) -> list[Action]:
    """Take the running attempt to SUBSCRIBED."""
    return session.receive(session.attempts, subscribed(), now)


def only(actions: list[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def carried(actions: list[Action]) -> tuple[list[str], list[bytes]]:
    """The tasks and updates in the one SUBSCRIBE among these."""
    (subscribe,) = only(actions, Subscribe)
    call = subscribe.call.subscribe
    return (
        [info.task_id.value for info in call.unacknowledged_tasks],
        [update.status.uuid for update in call.unacknowledged_updates],
    )


def retry(session: Session, now: float) -> list[Action]:
    """Let the retry timer come due."""
    at = session.next_deadline()
    assert at is not None
    return session.timer(max(at, now))


def test_the_first_call_names_us_and_has_its_body() -> None:
    session = make()
    (action,) = session.start(0.0)
    assert isinstance(action, Subscribe)
    assert action.call.HasField("subscribe")
    assert (action.call.framework_id.value, action.call.executor_id.value) == ("F", "E")
    assert session.phase is Phase.SUBSCRIBING


def test_updates_are_kept_until_acknowledged_and_sent_once() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.track(task("t"))
    first, second = update("t", 1), update("t", 2)
    assert [action.uuid for action in only(session.update(first, 0.0), Send)] == [first.uuid]
    session.update(second, 0.0)
    assert session.receive(1, acknowledged(first), 0.0) == [Acknowledged("t", first.uuid)]
    assert session.unacknowledged == (second,)
    assert session.receive(1, acknowledged(first), 0.0) == []
    session.lost(1, "gone", 10.0)
    tasks, updates = carried(retry(session, 10.0))
    assert (tasks, updates) == ([], [second.uuid])


def test_what_comes_up_while_away_travels_in_order_and_what_comes_up_meanwhile_follows() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.lost(1, "gone", 5.0)
    session.track(task("t"))
    for number in (1, 2, 3):
        assert session.update(update("t", number), 5.0) == []
    tasks, updates = carried(retry(session, 5.0))
    assert tasks == ["t"]
    assert [int.from_bytes(uuid) for uuid in updates] == [1, 2, 3]
    assert session.update(update("t", 4), 6.0) == []
    sends = only(join(session, 6.0), Send)
    assert [int.from_bytes(send.uuid) for send in sends] == [4]


def test_an_acknowledgement_of_another_task_or_uuid_changes_nothing() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.update(update("t", 1), 0.0)
    assert session.receive(1, acknowledged(update("other", 1)), 0.0) == []
    assert session.receive(1, acknowledged(update("t", 9)), 0.0) == []
    assert len(session.unacknowledged) == 1


def test_stale_streams_do_no_harm() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.lost(1, "gone", 5.0)
    retry(session, 5.0)
    kill = event(Event.KILL)
    kill.kill.task_id.value = "t"
    assert session.receive(1, kill, 6.0) == []
    assert session.receive(1, event(Event.SHUTDOWN), 6.0) == []
    assert session.lost(1, "again", 6.0) == []
    assert session.refused(1, 400, "", 6.0) == []
    assert session.phase is Phase.SUBSCRIBING


@pytest.mark.parametrize("status", [503, 404, 500])
def test_an_agent_that_is_not_ready_is_asked_again_within_a_second(status: int) -> None:
    session = make()
    session.start(0.0)
    assert session.refused(1, status, "", 0.0) == [Drop(1)]
    assert session.next_deadline() == 1.0
    assert only(session.timer(1.0), Subscribe)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_refused_connections_are_retried_within_the_agents_limit(jitter: float) -> None:
    session = make(jitter=jitter)
    session.start(0.0)
    session.lost(1, "refused", 0.0)
    at = session.next_deadline()
    assert at is not None
    assert 0.1 <= at <= 2.0


def test_a_stable_subscription_is_renewed_at_once_a_short_one_is_not() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.lost(1, "gone", 5.0)
    assert session.next_deadline() == 5.0
    retry(session, 5.0)
    join(session, 5.0)
    session.lost(2, "gone", 5.1)
    at = session.next_deadline()
    assert at is not None
    assert at > 5.2


@pytest.mark.parametrize("status", [401, 403])
def test_denials_are_final_after_a_few(status: int) -> None:
    session = make()
    actions = session.start(0.0)
    for attempt in range(1, MAX_DENIALS + 1):
        assert not only(actions, Shutdown)
        actions = session.refused(attempt, status, "no", float(attempt))
        if attempt < MAX_DENIALS:
            actions += retry(session, float(attempt))
    (shutdown,) = only(actions, Shutdown)
    assert shutdown.status == 1
    assert session.next_deadline() is None


@pytest.mark.parametrize("status", [400, 405, 406, 415, 307])
def test_other_refusals_are_final_at_once(status: int) -> None:
    session = make()
    session.start(0.0)
    (shutdown,) = only(session.refused(1, status, "Executor cannot be found", 0.0), Shutdown)
    assert shutdown.status == 1
    assert "Executor cannot be found" in shutdown.reason
    assert session.phase is Phase.CLOSED


def test_an_agent_that_never_comes_is_given_up() -> None:
    session = make()
    session.start(0.0)
    now = 0.0
    actions: list[Action] = []
    while not only(actions, Shutdown):
        session.lost(session.attempts, "refused", now)
        actions = retry(session, now)
        now = session.next_deadline() or now
    assert 58.0 <= now <= 62.0


def test_without_checkpointing_a_lost_stream_is_the_end() -> None:
    session = make(replace(POLICY, checkpoint=False))
    session.start(0.0)
    session.lost(1, "refused", 0.0)
    retry(session, 0.0)
    join(session, 1.0)
    (shutdown,) = only(session.lost(2, "closed", 100.0), Shutdown)
    assert shutdown.status == 0
    assert session.phase is Phase.CLOSED
    assert session.next_deadline() is None


def test_the_recovery_timer_is_stopped_by_subscribed_only_and_never_restarted() -> None:
    session = make()
    session.start(0.0)
    join(session)
    now = 10.0
    session.lost(1, "gone", now)
    actions: list[Action] = []
    while not only(actions, Shutdown):
        actions = retry(session, now)
        now += 1.5
        if only(actions, Subscribe):
            # It accepts connections and is never ready.
            actions += session.refused(session.attempts, 503, "", now)
    assert 10.0 + 900.0 <= now < 10.0 + 900.0 + 4.0


def test_the_recovery_timer_begins_anew_after_subscribed() -> None:
    session = make(replace(POLICY, watchdog=0.0, heartbeat_interval=0.0))
    session.start(0.0)
    join(session)
    session.lost(1, "gone", 10.0)
    retry(session, 10.0)
    join(session, 800.0)
    assert session.next_deadline() is None


def test_shutdown_may_be_the_first_event() -> None:
    session = make()
    session.start(0.0)
    (shutdown,) = only(session.receive(1, event(Event.SHUTDOWN), 0.0), Shutdown)
    assert shutdown.status == 0
    assert session.drain(0.0) == [Drained(0)]


def test_updates_are_sent_after_a_shutdown_that_came_first() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.lost(1, "gone", 10.0)
    retry(session, 10.0)
    session.update(update("t", 1), 10.0)
    actions = session.receive(2, event(Event.SHUTDOWN), 11.0)
    assert len(only(actions, Send)) == 1
    assert len(only(session.update(update("t", 2), 11.0), Send)) == 1


def test_after_shutdown_one_more_try_and_no_other() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.receive(1, event(Event.SHUTDOWN), 5.0)
    session.update(update("t", 1, mesos_pb2.TASK_KILLED), 5.0)
    session.lost(1, "closed", 5.0)
    assert carried(retry(session, 5.0))[1] == [(1).to_bytes(16, "big")]
    actions = session.lost(2, "refused", 6.0)
    assert session.phase is Phase.CLOSED
    assert not only(actions, Shutdown)
    assert session.drain(6.0) == [Drained(1)]


@pytest.mark.parametrize("status", [None, 500, 503, 403, 404])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_call_that_cannot_be_delivered_makes_us_subscribe_anew(
    status: int | None, checkpoint: bool
) -> None:
    session = make(replace(POLICY, checkpoint=checkpoint))
    session.start(0.0)
    join(session)
    status_update = update("t", 1)
    session.update(status_update, 0.0)
    assert session.sent(1, status_update.uuid, status, "", 1.0) == [Drop(1)]
    _, updates = carried(retry(session, 1.0))
    assert updates == [status_update.uuid]


def test_a_refused_update_is_not_repeated() -> None:
    session = make()
    session.start(0.0)
    join(session)
    bad = update("t", 1)
    session.update(bad, 0.0)
    assert session.sent(1, bad.uuid, 400, "no", 0.0) == [Acknowledged("t", bad.uuid)]
    session.lost(1, "gone", 5.0)
    assert carried(retry(session, 5.0))[1] == []


def test_an_answer_that_comes_after_the_acknowledgement_is_nothing() -> None:
    session = make()
    session.start(0.0)
    join(session)
    status = update("t", 1)
    session.update(status, 0.0)
    session.receive(1, acknowledged(status), 0.0)
    assert session.sent(1, status.uuid, 202, "", 0.0) == []


def test_draining_waits_for_the_last_acknowledgement() -> None:
    session = make()
    session.start(0.0)
    join(session)
    last = update("t", 1, mesos_pb2.TASK_FINISHED)
    session.update(last, 0.0)
    assert session.drain(0.0) == []
    assert session.receive(1, acknowledged(last), 1.0) == [Acknowledged("t", last.uuid), Drained(0)]


def test_draining_does_not_wait_for_ever() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.update(update("t", 1), 0.0)
    session.drain(0.0)
    assert session.next_deadline() == 60.0
    assert session.timer(60.0) == [Drained(1)]


def test_a_new_task_ends_draining() -> None:
    session = make()
    session.start(0.0)
    join(session)
    last = update("t", 1)
    session.update(last, 0.0)
    session.drain(0.0)
    session.resume()
    assert session.receive(1, acknowledged(last), 1.0) == [Acknowledged("t", last.uuid)]


def test_silence_is_answered_by_a_new_subscription_even_without_checkpointing() -> None:
    session = make(replace(POLICY, checkpoint=False, heartbeat_interval=0.0))
    session.start(0.0)
    join(session)
    session.receive(1, event(Event.HEARTBEAT), 1800.0)
    assert session.next_deadline() == 1800.0 + 3900.0
    actions = session.timer(5700.0)
    actions += session.timer(5700.0)
    assert only(actions, Subscribe)
    assert not only(actions, Shutdown)


def test_heartbeats_are_sent() -> None:
    session = make()
    session.start(0.0)
    join(session)
    assert session.next_deadline() == 1800.0
    (send,) = only(session.timer(1800.0), Send)
    assert send.call.type == executor_pb2.Call.HEARTBEAT
    assert send.uuid is None
    assert session.next_deadline() == 3600.0


def test_an_unanswered_subscribe_is_given_up() -> None:
    session = make()
    session.start(0.0)
    assert session.next_deadline() == 15.0
    assert session.timer(15.0) == [Drop(1)]
    assert only(retry(session, 15.0), Subscribe)


def test_subscribed_twice_is_subscribed_once() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.update(update("t", 1), 0.0)
    assert not only(join(session, 1.0), Send)


def test_events_without_a_body_and_of_unknown_types_are_ignored() -> None:
    session = make()
    session.start(0.0)
    join(session)
    for kind in (Event.LAUNCH, Event.KILL, Event.ACKNOWLEDGED, Event.MESSAGE, Event.ERROR, Event.UNKNOWN):
        assert session.receive(1, event(kind), 0.0) == []


def test_messages_go_out_only_while_subscribed() -> None:
    session = make()
    session.start(0.0)
    assert session.message(b"lost") == []
    join(session)
    (send,) = only(session.message(b"\0sent"), Send)
    assert send.call.message.data == b"\0sent"


_steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "subscribed",
                "lost",
                "503",
                "400",
                "401",
                "ack",
                "badack",
                "update",
                "sent",
                "unsent",
                "timer",
                "shutdown",
                "stale",
                "drain",
                "launch",
            ]
        ),
        st.floats(0.0, 100.0),
    ),
    max_size=40,
)


@given(_steps, st.booleans())
def test_whatever_happens_no_update_is_lost_and_the_session_has_something_to_wait_for(
    steps: list[tuple[str, float]], checkpoint: bool
) -> None:
    """Unacknowledged updates are in the next SUBSCRIBE, in order; a session that is not closed waits for an
    event or a deadline; nothing is asked for after the close.
    """
    session = make(replace(POLICY, checkpoint=checkpoint))
    now = 0.0
    actions = session.start(now)
    for number, (step, pause) in enumerate(steps):
        now += pause
        closed = session.phase is Phase.CLOSED
        made = _play(session, step, now, number)
        actions += made
        if closed:
            assert not only(made, Subscribe)
            assert not only(made, Send)
        for subscribe in only(made, Subscribe):
            sent = [one.status.uuid for one in subscribe.call.subscribe.unacknowledged_updates]
            assert sent == [status.uuid for status in session.unacknowledged]
        if session.phase is Phase.WAITING:
            assert session.next_deadline() is not None
    attempts = [subscribe.attempt for subscribe in only(actions, Subscribe)]
    assert attempts == list(range(1, len(attempts) + 1))


def _play(session: Session, step: str, now: float, number: int) -> list[Action]:
    attempt = session.attempts
    oldest = (session.unacknowledged or (update("none", 10**6),))[0]
    launch = event(Event.LAUNCH)
    launch.launch.task.CopyFrom(task(f"t{number}"))
    if step == "launch":
        session.track(launch.launch.task)
    plays: dict[str, Callable[[], list[Action]]] = {
        "subscribed": lambda: session.receive(attempt, subscribed(), now),
        "lost": lambda: session.lost(attempt, "gone", now),
        "503": lambda: session.refused(attempt, 503, "", now),
        "400": lambda: session.refused(attempt, 400, "", now),
        "401": lambda: session.refused(attempt, 401, "", now),
        "ack": lambda: session.receive(attempt, acknowledged(oldest), now),
        "badack": lambda: session.receive(attempt, acknowledged(update("t", 10**6)), now),
        "update": lambda: session.update(update("t", number), now),
        "sent": lambda: session.sent(attempt, oldest.uuid, 202, "", now),
        "unsent": lambda: session.sent(attempt, oldest.uuid, None, "", now),
        "timer": lambda: session.timer(now),
        "shutdown": lambda: session.receive(attempt, event(Event.SHUTDOWN), now),
        "stale": lambda: session.receive(attempt - 1, subscribed(), now),
        "drain": lambda: session.drain(now),
        "launch": lambda: session.receive(attempt, launch, now),
    }
    return plays[step]()
