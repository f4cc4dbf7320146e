"""The subscription made, refused, lost and found again, with a clock made by hand."""

import math
import sys
from dataclasses import replace

import pytest
from mesos.v1 import mesos_pb2

from executor.protocol import (
    Acknowledged,
    Action,
    Drop,
    Phase,
    Send,
    Shutdown,
    Subscribe,
)
from executor.protocol.session import MAX_DENIALS
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
    task,
    update,
)


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


def test_of_an_update_that_is_acknowledged_nothing_stays() -> None:
    """An executor may run a million tasks over one subscription."""
    session = make()
    session.start(0.0)
    join(session)
    status = update("t", 1)
    (sent,) = only(session.update(status, 0.0), Send)
    uuid = sent.uuid
    assert uuid is not None
    before = sys.getrefcount(uuid)
    session.sent(1, uuid, 202, "", 0.0)
    session.receive(1, acknowledged(status), 0.0)
    assert sys.getrefcount(uuid) == before


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


def test_an_agents_limit_of_nothing_is_not_met_with_a_loop() -> None:
    session = make(replace(POLICY, backoff_max=0.0), jitter=0.0)
    session.start(0.0)
    now = 0.0
    for attempt in range(1, 20):
        if attempt % 2:
            session.lost(attempt, "refused", now)
        else:
            session.refused(attempt, 503, "", now)
        at = session.next_deadline()
        assert at is not None
        assert at >= now + 0.1
        now = at
        assert only(session.timer(now), Subscribe)


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


@pytest.mark.parametrize("status", [202, 307, 405, 406, 415, 429, 502])
def test_after_a_subscription_whatever_stands_in_the_agents_place_ends_nothing(status: int) -> None:
    """A port that somebody else has taken while the agent is away, a proxy: until the recovery timeout."""
    session = make()
    session.start(0.0)
    join(session)
    session.lost(1, "gone", 5.0)
    now, attempts = 5.0, 0
    while now < 5.0 + POLICY.recovery_timeout - 2.0:
        retry(session, now)
        assert not only(session.refused(session.attempts, status, "who?", now), Shutdown)
        now, attempts = session.next_deadline() or now, attempts + 1
    assert attempts > 5
    retry(session, now)
    join(session, now)
    assert session.phase is Phase.SUBSCRIBED


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
    assert session.told_to_leave
    assert session.wait_until() == -math.inf


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
    assert (session.wait_until(), len(session.unacknowledged)) == (-math.inf, 1)
