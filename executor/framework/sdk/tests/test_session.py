"""The table of the subscription, driven by hand."""

import pytest
from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk import calls
from executor.framework.sdk.answers import leader_of
from executor.framework.sdk.calls import TaskRef
from executor.framework.sdk.session import Session
from executor.framework.sdk.session_events import (
    Action,
    Answered,
    CallLost,
    CloseAll,
    Connected,
    Deliver,
    Disconnected,
    Failed,
    Fate,
    Leader,
    Lost,
    Opened,
    OpenStream,
    Outcome,
    Received,
    RefreshCredential,
    Say,
    SendCall,
    Start,
    Stop,
    Superseded,
    Tick,
)
from executor.framework.sdk.session_state import Phase, Policy

Event = scheduler_pb2.Event
PROTOBUF = "application/x-protobuf"


def session(*masters: str, highest: bool = True, window: int = 1) -> Session:
    info = mesos_pb2.FrameworkInfo(user="root", name="test")
    policy = Policy(masters or ("m1:5050",), lambda high: high if highest else 0.0, window=window)
    return Session(info, policy)


def subscribed_event(heartbeat: float = 15.0, framework: str = "F-1") -> Event:
    event = Event(type=Event.SUBSCRIBED)
    event.subscribed.framework_id.value = framework
    event.subscribed.heartbeat_interval_seconds = heartbeat
    return event


def opened(found: Session) -> int:
    actions = found.handle(Start(), 0.0)
    assert isinstance(actions[-1], OpenStream)
    generation = actions[-1].generation
    assert found.handle(Opened(generation, 200, "stream-1", "", PROTOBUF), 0.1) == []
    return generation


def subscribed(found: Session) -> int:
    generation = opened(found)
    actions = found.handle(Received(generation, subscribed_event()), 0.2)
    assert isinstance(actions[0], Connected)
    return generation


def kinds(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


def test_a_first_subscription_has_no_id_and_a_second_has_one() -> None:
    found = session()
    first = found.handle(Start(), 0.0)[0]
    assert isinstance(first, OpenStream)
    assert not first.call.HasField("framework_id")
    assert not first.call.subscribe.framework_info.HasField("id")
    found.handle(Opened(1, 200, "s", "", PROTOBUF), 0.0)
    connected = found.handle(Received(1, subscribed_event()), 0.0)[0]
    assert connected == Connected("F-1", "m1:5050", True)
    lost = found.handle(Lost(1, "reset"), 1.0)
    assert kinds(lost) == ["CloseAll", "Disconnected"]
    again = found.handle(Tick(), 100.0)[0]
    assert isinstance(again, OpenStream)
    assert again.call.framework_id.value == again.call.subscribe.framework_info.id.value == "F-1"


@pytest.mark.parametrize("other", ["F-2", ""])
def test_a_master_that_gives_another_id_is_not_worked_with(other: str) -> None:
    """Under another id everything would be started a second time."""
    found = session()
    subscribed(found)
    found.handle(Lost(1, "reset"), 1.0)
    again = found.handle(Tick(), 100.0)[0]
    assert isinstance(again, OpenStream)
    found.handle(Opened(again.generation, 200, "s", "", PROTOBUF), 100.0)
    actions = found.handle(Received(again.generation, subscribed_event(framework=other)), 100.0)
    assert kinds(actions) == ["CloseAll"] and found.phase is Phase.WAITING
    assert found.info.id.value == "F-1"
    assert found.problem == f"m1:5050 calls this framework {other!r}, which is 'F-1'"


def test_suppressed_roles_are_said_with_every_subscription() -> None:
    found = session()
    subscribed(found)
    found.suppressed = frozenset({"web"})
    found.handle(Lost(1, "reset"), 1.0)
    again = found.handle(Tick(), 100.0)[0]
    assert isinstance(again, OpenStream)
    assert list(again.call.subscribe.suppressed_roles) == ["web"]


@pytest.mark.parametrize(
    "answer",
    [
        Opened(1, 200, "", "", PROTOBUF),
        Opened(1, 200, "s", "", "application/json"),
        Opened(1, 503),
        Opened(1, 404),
        Lost(1, "refused"),
    ],
)
def test_what_is_tried_again(answer: Opened | Lost) -> None:
    found = session()
    found.handle(Start(), 0.0)
    assert kinds(found.handle(answer, 1.0)) == ["CloseAll"]
    assert found.phase is Phase.WAITING
    assert found.alarm == 1.5


def test_delays_grow_to_their_limit() -> None:
    found = session()
    found.handle(Start(), 0.0)
    now, delays = 0.0, []
    for generation in range(1, 20, 2):
        found.handle(Lost(generation, "refused"), now)
        assert found.alarm is not None
        delays.append(found.alarm - now)
        now = found.alarm
        assert kinds(found.handle(Tick(), now)) == ["OpenStream"]
    assert delays[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0]
    assert delays[-1] == 15.0


def test_other_masters_are_tried_at_once_before_anything_is_waited_for() -> None:
    found = session("m1:1", "m2:2", "m3:3")
    tried = []
    actions = found.handle(Start(), 0.0)
    for _ in range(3):
        action = actions[-1]
        assert isinstance(action, OpenStream)
        tried.append(action.master)
        found.handle(Lost(action.generation, "refused"), 0.0)
        actions = found.handle(Tick(), 0.0)
    assert tried == ["m1:1", "m2:2", "m3:3"]
    assert actions == [] and found.alarm == 0.5


def test_redirects_are_followed_and_end() -> None:
    found = session()
    found.handle(Start(), 0.0)
    actions = found.handle(Opened(1, 307, location="//m2:5050/api/v1/scheduler"), 0.0)
    assert isinstance(actions[-1], OpenStream) and actions[-1].master == "m2:5050"
    for generation in range(2, 9):
        place = "m1" if generation % 2 == 0 else "m2"
        actions = found.handle(Opened(generation, 307, location=f"//{place}:5050/x"), 0.0)
    actions = found.handle(Opened(9, 307, location="//m1:5050/x"), 0.0)
    assert kinds(actions) == ["CloseAll"] and found.phase is Phase.WAITING


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("//m2:5050/api/v1/scheduler", "m2:5050"),
        ("http://m2:5050/x", "m2:5050"),
        ("m2:5050", "m2:5050"),
        ("//[fd00::2]:5050/x", "[fd00::2]:5050"),
        ("/elsewhere", ""),
        ("", ""),
        ("//m2/x", ""),
    ],
)
def test_locations(location: str, address: str) -> None:
    assert leader_of(location) == address


def test_a_credential_is_renewed_once() -> None:
    found = session()
    found.handle(Start(), 0.0)
    assert RefreshCredential() in found.handle(Opened(1, 401, text="who?"), 0.0)
    found.handle(Tick(), 100.0)
    actions = found.handle(Opened(3, 401, text="who?"), 100.0)
    assert isinstance(actions[-1], Failed) and "401" in actions[-1].why


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("Framework failed over", Superseded),
        ("Framework has been removed", Failed),
        ("Changing framework's principal is not allowed", Failed),
        ("Not authorized to use role web", Failed),
    ],
)
def test_errors_that_end_it(text: str, ending: type) -> None:
    found = session()
    generation = subscribed(found)
    event = Event(type=Event.ERROR)
    event.error.message = text
    actions = found.handle(Received(generation, event), 1.0)
    assert isinstance(actions[-1], ending)
    assert found.handle(Tick(), 1e6) == []


def test_superseded_goes_on_only_when_told() -> None:
    found = session()
    generation = subscribed(found)
    event = Event(type=Event.ERROR)
    event.error.message = "Framework failed over"
    found.handle(Received(generation, event), 1.0)
    assert found.handle(Leader("m9:1"), 2.0) == []
    assert kinds(found.handle(Start(), 3.0)) == ["OpenStream"]


def test_silence_ends_a_subscription_and_bytes_do_not() -> None:
    found = session()
    subscribed(found)
    assert found.alarm == pytest.approx(0.2 + 75.0)
    found.heard(50.0)
    assert found.handle(Tick(), 80.0) == []
    actions = found.handle(Tick(), 125.0)
    assert kinds(actions) == ["CloseAll", "Disconnected"]


@pytest.mark.parametrize(("announced", "alarm"), [(0.0, 75.0), (0.5, 5.0), (3600.0, 1500.0), (15.0, 75.0)])
def test_the_watch_is_sane_whatever_is_announced(announced: float, alarm: float) -> None:
    found = session()
    generation = opened(found)
    found.handle(Received(generation, subscribed_event(announced)), 0.0)
    assert found.alarm == alarm


def test_late_bytes_of_an_old_stream_are_nothing() -> None:
    found = session()
    old = subscribed(found)
    found.handle(Lost(old, "reset"), 1.0)
    found.handle(Tick(), 100.0)
    offers = Event(type=Event.OFFERS)
    offers.offers.SetInParent()
    assert found.handle(Received(old, offers), 101.0) == []


def test_events_without_a_body_and_heartbeats_are_not_delivered() -> None:
    found = session()
    generation = subscribed(found)
    assert found.handle(Received(generation, Event(type=Event.OFFERS)), 1.0) == []
    assert found.handle(Received(generation, Event(type=Event.HEARTBEAT)), 1.0) == []
    assert found.handle(Received(generation, None), 1.0) == []
    rescind = Event(type=Event.RESCIND)
    rescind.rescind.offer_id.value = "O"
    assert found.handle(Received(generation, rescind), 1.0) == [Deliver(rescind)]


def test_calls_go_one_after_another() -> None:
    found = session()
    subscribed(found)
    first = found.handle(Say(1, calls.revive(["web"])), 1.0)[0]
    assert isinstance(first, SendCall)
    assert (first.stream_id, first.call.framework_id.value) == ("stream-1", "F-1")
    assert found.handle(Say(2, calls.suppress(["web"])), 1.0) == []
    actions = found.handle(Answered(1, 202), 2.0)
    assert actions[0] == Outcome(1, Fate.TAKEN, 202)
    assert isinstance(actions[1], SendCall) and actions[1].token == 2


def test_a_call_before_the_subscription_fails_at_once() -> None:
    found = session()
    assert found.handle(Say(1, calls.revive(["web"])), 0.0) == [
        Outcome(1, Fate.NOT_SENT, 0, "not subscribed")
    ]


def test_a_lost_accept_is_never_said_again_and_a_lost_kill_is() -> None:
    found = session()
    subscribed(found)
    accept = calls.accept(["O"], [calls.launch([])], 5.0)
    found.handle(Say(1, accept), 1.0)
    found.handle(Say(2, calls.kill(TaskRef("t", "a"))), 1.0)
    found.handle(Say(3, calls.accept(["P"], [], 5.0)), 1.0)
    actions = found.handle(CallLost(1, "reset", True), 2.0)
    outcomes = [action for action in actions if isinstance(action, Outcome)]
    assert [(item.token, item.fate) for item in outcomes] == [(1, Fate.UNKNOWN), (3, Fate.NOT_SENT)]
    found.handle(Tick(), 100.0)
    found.handle(Opened(3, 200, "stream-2", "", PROTOBUF), 100.0)
    actions = found.handle(Received(3, subscribed_event()), 100.0)
    resent = actions[-1]
    assert isinstance(resent, SendCall) and resent.token == 2 and resent.stream_id == "stream-2"


def test_an_idle_connection_that_the_master_closed_is_made_anew_once() -> None:
    found = session()
    subscribed(found)
    accept = calls.accept(["O"], [], 5.0)
    found.handle(Say(1, accept), 1.0)
    again = found.handle(CallLost(1, "closed", False), 1.0)
    assert len(again) == 1 and isinstance(again[0], SendCall) and again[0].call is accept
    actions = found.handle(CallLost(1, "closed", False), 1.0)
    assert Outcome(1, Fate.NOT_SENT, 0, "a call was lost: closed") in actions


@pytest.mark.parametrize(
    ("status", "text", "phase"),
    [
        (403, "Framework is not subscribed", Phase.WAITING),
        (400, "Framework cannot be found", Phase.WAITING),
        (307, "", Phase.WAITING),
        (503, "", Phase.WAITING),
        (400, "The stream ID 'x' included in this request didn't match", Phase.SUPERSEDED),
    ],
)
def test_answers_that_end_the_subscription(status: int, text: str, phase: Phase) -> None:
    found = session()
    subscribed(found)
    found.handle(Say(1, calls.accept(["O"], [], 5.0)), 1.0)
    actions = found.handle(Answered(1, status, text), 2.0)
    assert found.phase is phase
    assert any(isinstance(action, Outcome) and action.fate is Fate.UNKNOWN for action in actions)


def test_a_refused_call_is_told_and_the_next_goes_on() -> None:
    found = session()
    subscribed(found)
    found.handle(Say(1, calls.accept(["O"], [], 5.0)), 1.0)
    found.handle(Say(2, calls.revive(["a"])), 1.0)
    actions = found.handle(Answered(1, 400, "Failed to validate"), 2.0)
    assert actions[0] == Outcome(1, Fate.REFUSED, 400, "Failed to validate")
    assert isinstance(actions[1], SendCall)


def test_a_change_that_is_not_authorized_is_refused_and_the_subscription_goes_on() -> None:
    found = session()
    subscribed(found)
    found.handle(Say(1, calls.update_framework(found.info, (), None)), 1.0)
    text = "Not authorized to update framework"
    assert found.handle(Answered(1, 403, text), 2.0) == [Outcome(1, Fate.REFUSED, 403, text)]
    assert found.phase is Phase.SUBSCRIBED


def test_a_call_that_is_not_answered_ends_the_subscription() -> None:
    found = session()
    subscribed(found)
    found.handle(Say(1, calls.revive(["a"])), 1.0)
    found.heard(70.0)
    assert found.handle(Tick(), 75.0) == []
    assert Disconnected("m1:5050 did not answer a call in 75 s") in found.handle(Tick(), 76.0)


def test_a_detectors_word_counts_for_the_next_attempt() -> None:
    info = mesos_pb2.FrameworkInfo(user="root", name="test")
    found = Session(info, Policy((), lambda high: high))
    assert found.handle(Start(), 0.0) == []
    actions = found.handle(Leader("m7:5050"), 1.0)
    assert isinstance(actions[0], OpenStream) and actions[0].master == "m7:5050"
    assert found.handle(Leader("m8:5050"), 2.0) == []
    found.handle(Lost(1, "refused"), 3.0)
    again = found.handle(Tick(), 100.0)
    assert isinstance(again[0], OpenStream) and again[0].master == "m8:5050"


def test_leaving_closes_and_tells_every_waiting_call() -> None:
    found = session()
    subscribed(found)
    found.handle(Say(1, calls.revive(["a"])), 1.0)
    actions = found.handle(Stop(), 2.0)
    assert actions[0] == CloseAll()
    assert found.phase is Phase.CLOSED
    assert [action.token for action in actions if isinstance(action, Outcome)] == [1]
    assert found.handle(Stop(), 3.0) == []


def test_so_many_calls_are_under_way_and_are_answered_in_order() -> None:
    found = session(window=2)
    subscribed(found)
    for token in (1, 2, 3):
        actions = found.handle(Say(token, calls.revive(["a"])), 1.0)
        assert [action.token for action in actions if isinstance(action, SendCall)] == [token][: token < 3]
    assert found.handle(Answered(2, 202), 2.0) == []  # not its turn
    actions = found.handle(Answered(1, 202), 3.0)
    assert actions[0] == Outcome(1, Fate.TAKEN, 202)
    assert isinstance(actions[1], SendCall) and actions[1].token == 3
    assert found.waiting_calls == 2


def test_what_was_under_way_when_the_connection_broke_may_have_been_done() -> None:
    found = session(window=3)
    subscribed(found)
    for token, call in enumerate((calls.revive(["a"]), calls.accept(["O"], [], 0.0), calls.suppress(["a"]))):
        found.handle(Say(token, call), 1.0)
    actions = found.handle(CallLost(0, "reset", True), 2.0)
    assert [(item.token, item.fate) for item in actions if isinstance(item, Outcome)] == [(1, Fate.UNKNOWN)]
    assert found.waiting_calls == 2


def test_calls_that_nobody_has_seen_are_all_sent_again_in_order() -> None:
    found = session(window=3)
    subscribed(found)
    for token in (1, 2, 3):
        found.handle(Say(token, calls.accept(["O"], [], 0.0)), 1.0)
    found.handle(Answered(1, 202), 1.0)
    again = found.handle(CallLost(2, "closed behind an answer", False), 1.0)
    assert [item.token for item in again if isinstance(item, SendCall)] == [2, 3]
    actions = found.handle(CallLost(2, "closed", False), 1.0)
    fates = [(item.token, item.fate) for item in actions if isinstance(item, Outcome)]
    assert fates == [(2, Fate.NOT_SENT), (3, Fate.NOT_SENT)]
