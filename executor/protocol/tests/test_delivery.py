"""Updates, acknowledgements, draining, silence and everything at once, with a clock made by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol import (
    Acknowledged,
    Action,
    Drop,
    Phase,
    Send,
    Session,
    Shutdown,
    Subscribe,
)
from executor.protocol.session import TABLE
from executor.protocol.session_input import Input
from executor.protocol.tests.by_hand import (
    POLICY,
    Event,
    acknowledged,
    carried,
    event,
    join,
    make,
    only,
    retry,
    subscribed,
    task,
    update,
)


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


def test_a_refused_update_is_neither_repeated_nor_taken_for_acknowledged() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.track(task("t"))
    bad = update("t", 1)
    session.update(bad, 0.0)
    assert session.sent(1, bad.uuid, 400, "no", 0.0) == []
    assert session.unacknowledged == (bad,)
    assert session.refused_updates == 1
    assert session.wait_until() == -math.inf
    session.lost(1, "gone", 5.0)
    assert carried(retry(session, 5.0)) == (["t"], [])
    # Should the agent have had it after all.
    assert session.receive(2, acknowledged(bad), 6.0) == [Acknowledged("t", bad.uuid)]
    assert not session.unacknowledged


def test_an_answer_that_comes_after_the_acknowledgement_is_nothing() -> None:
    session = make()
    session.start(0.0)
    join(session)
    status = update("t", 1)
    session.update(status, 0.0)
    session.receive(1, acknowledged(status), 0.0)
    assert session.sent(1, status.uuid, 202, "", 0.0) == []


def test_the_last_acknowledgement_is_waited_for() -> None:
    session = make()
    session.start(0.0)
    join(session)
    last = update("t", 1, mesos_pb2.TASK_FINISHED)
    session.update(last, 0.0)
    assert session.wait_until() > 0.0
    assert session.receive(1, acknowledged(last), 1.0) == [Acknowledged("t", last.uuid)]
    assert session.wait_until() == -math.inf
    assert session.changed_at == 1.0


def test_acknowledgements_are_not_waited_for_for_ever() -> None:
    session = make()
    session.start(0.0)
    join(session)
    session.update(update("t", 1), 0.0)
    session.update(update("t", 2), 5.0)
    assert session.wait_until() == 65.0


def test_told_to_leave_only_what_the_agent_has_not_taken_is_waited_for_long() -> None:
    session = make()
    session.start(0.0)
    join(session)
    carried_by_call = update("t", 1)
    session.update(carried_by_call, 1.0)
    session.sent(1, carried_by_call.uuid, 202, "", 2.0)
    assert session.wait_until() == 61.0
    session.receive(1, event(Event.SHUTDOWN), 3.0)
    last = update("t", 2, mesos_pb2.TASK_KILLED)
    session.update(last, 4.0)
    assert session.wait_until() == 64.0
    session.sent(1, last.uuid, 202, "", 5.0)
    assert session.wait_until() == 5.0 + POLICY.farewell


def test_what_subscribe_has_carried_is_taken_once_the_agent_says_so() -> None:
    session = make()
    session.start(0.0)
    session.update(update("t", 1), 0.0)
    session.lost(1, "gone", 1.0)
    retry(session, 3.0)
    session.receive(2, event(Event.SHUTDOWN), 4.0)
    assert session.wait_until() == 4.0 + POLICY.farewell


def test_every_input_has_a_meaning_or_none_on_purpose() -> None:
    for phase, meanings in TABLE.items():
        from_a_stream = set(meanings) & {Input.SUBSCRIBED, Input.TASKS, Input.SHUTDOWN, Input.ACKNOWLEDGED}
        assert bool(from_a_stream) == (phase in (Phase.SUBSCRIBING, Phase.SUBSCRIBED))
        assert Input.MESSAGE in meanings
    assert set(TABLE) == set(Phase)
    assert set().union(*TABLE.values()) == set(Input)


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
        "launch": lambda: session.receive(attempt, launch, now),
    }
    return plays[step]()
