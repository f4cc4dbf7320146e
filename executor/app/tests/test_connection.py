"""The session's decisions on their way to the link, and what comes back."""

import pytest
from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.app.connection import Connection
from executor.app.tests.by_hand import Turns, Wire, connected, settings, subscribed
from executor.protocol import Deliver, Phase
from executor.transport import StreamLost

Call = executor_pb2.Call


def status(number: int) -> mesos_pb2.TaskStatus:
    made = mesos_pb2.TaskStatus(state=mesos_pb2.TASK_RUNNING, uuid=number.to_bytes(16, "big"))
    made.task_id.value = "t"
    return made


@pytest.fixture
def loop() -> Turns:
    return Turns()


def joined(loop: Turns) -> tuple[Connection, Wire]:
    connection, wire = connected(settings(), loop)
    wire.event(subscribed())
    return connection, wire


def kinds(wire: Wire) -> list[int]:
    return [call.type for call in wire.calls]


def test_news_for_the_executor_waits_until_it_is_taken(loop: Turns) -> None:
    connection, _ = joined(loop)
    assert isinstance(connection.take(), Deliver)
    assert connection.take() is None
    assert connection.session.phase is Phase.SUBSCRIBED


def test_a_lost_stream_is_opened_again_when_the_session_says_so(loop: Turns) -> None:
    connection, wire = joined(loop)
    loop.advance(5.0)
    connection.update(status(1))
    wire.hear(StreamLost(1, "gone"))
    loop.advance(0.0)
    assert kinds(wire) == [Call.SUBSCRIBE, Call.UPDATE, Call.SUBSCRIBE]
    assert len(wire.calls[-1].subscribe.unacknowledged_updates) == 1


SCARCE = [RuntimeError("can't start new thread"), MemoryError(), OSError(24, "Too many open files")]


@pytest.mark.parametrize("error", SCARCE)
def test_a_stream_that_cannot_be_opened_for_want_of_anything_is_tried_again(
    loop: Turns, error: Exception
) -> None:
    connection, wire = joined(loop)
    loop.advance(5.0)
    wire.refuse = error
    wire.hear(StreamLost(1, "gone"))
    loop.advance(30.0)
    assert connection.session.attempts > 5
    assert connection.session.phase is not Phase.CLOSED
    wire.refuse = None
    loop.advance(2.0)
    assert kinds(wire) == [Call.SUBSCRIBE, Call.SUBSCRIBE]


@pytest.mark.parametrize("error", SCARCE)
def test_an_update_that_cannot_be_sent_for_want_of_anything_travels_in_the_next_subscription(
    loop: Turns, error: Exception
) -> None:
    connection, wire = joined(loop)
    wire.refuse = error
    connection.update(status(1))
    loop.advance(0.0)
    assert connection.session.phase is Phase.WAITING
    wire.refuse = None
    loop.advance(2.0)
    assert kinds(wire) == [Call.SUBSCRIBE, Call.SUBSCRIBE]
    carried = wire.calls[-1].subscribe.unacknowledged_updates
    assert [update.status.uuid for update in carried] == [status(1).uuid]


def test_recovery_ends_though_nothing_can_be_opened(loop: Turns) -> None:
    connection, wire = joined(loop)
    loop.advance(5.0)
    wire.refuse = SCARCE[0]
    wire.hear(StreamLost(1, "gone"))
    loop.advance(901.0)
    assert connection.session.phase is Phase.CLOSED
