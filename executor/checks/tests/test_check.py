"""When runs happen and what is said about them, on a clock that is moved by hand."""

import math
from collections.abc import Callable

from mesos.v1 import mesos_pb2
from pytest_mock import MockerFixture

from executor.checks.check import Checker, Plan, Runner
from executor.checks.health import Health, HealthChecker, HealthJudge, HealthPlan
from executor.checks.result import Result
from executor.checks.tcp import TcpCheck
from executor.eventloop import Loop
from executor.process.tests.fixtures import ManualLoop

GOOD = Result(True, "fine", connected=True)
BAD = Result(False, "broken", connected=False)
LOST = Result(False, "no answer")


class FakeProbe:
    """Ends when told."""

    def __init__(self, made: list["FakeProbe"]) -> None:
        self.cancelled = False
        self.done: Callable[[Result], None] | None = None
        made.append(self)

    def start(self, loop: Loop, done: Callable[[Result], None]) -> None:
        self.done = done

    def cancel(self) -> None:
        self.cancelled = True

    def end(self, result: Result) -> None:
        assert self.done is not None
        self.done(result)


def faked(mocker: MockerFixture) -> list[FakeProbe]:
    made: list[FakeProbe] = []
    mocker.patch.object(Plan, "probe", lambda *_: FakeProbe(made))
    return made


def plan(delay: float = 15, interval: float = 10, timeout: float = 20) -> Plan:
    return Plan(TcpCheck("127.0.0.1", 1), delay, interval, timeout)


def test_delay_then_interval_after_each_end(mocker: MockerFixture) -> None:
    made, loop, results = faked(mocker), ManualLoop(), list[Result]()
    Runner(loop, mocker.Mock(), plan(), results.append).start()
    loop.advance(14.9)
    assert made == []
    loop.advance(0.1)
    assert len(made) == 1
    loop.advance(12)
    assert len(made) == 1, "no second run beside the first"
    made[0].end(GOOD)
    loop.advance(9.9)
    assert len(made) == 1
    loop.advance(0.1)
    assert len(made) == 2
    assert results == [GOOD]


def test_a_run_that_hangs_is_cancelled_and_fails(mocker: MockerFixture) -> None:
    made, loop, results = faked(mocker), ManualLoop(), list[Result]()
    runner = Runner(loop, mocker.Mock(), plan(0, 10, 5), results.append)
    runner.start()
    loop.advance(0)
    loop.advance(5)
    assert made[0].cancelled
    assert [result.text for result in results] == ["timed out after 5 s"]
    assert runner.history[-1].duration == 5
    loop.advance(10)
    assert len(made) == 2


def test_timeout_zero_means_none(mocker: MockerFixture) -> None:
    made, loop, results = faked(mocker), ManualLoop(), list[Result]()
    Runner(loop, mocker.Mock(), plan(0, 10, math.inf), results.append).start()
    loop.advance(1e6)
    assert len(made) == 1
    assert not made[0].cancelled
    assert results == []


def test_pause_cancels_and_resume_goes_on(mocker: MockerFixture) -> None:
    made, loop, results = faked(mocker), ManualLoop(), list[Result]()
    runner = Runner(loop, mocker.Mock(), plan(0), results.append)
    runner.start()
    loop.advance(0)
    runner.pause()
    assert made[0].cancelled
    loop.advance(1000)
    assert len(made) == 1
    runner.resume()
    runner.resume()
    loop.advance(10)
    assert len(made) == 2
    assert results == []


def test_a_listener_may_stop_the_check(mocker: MockerFixture) -> None:
    made, loop = faked(mocker), ManualLoop()
    runner = Runner(loop, mocker.Mock(), plan(0), lambda _: runner.pause())
    runner.start()
    loop.advance(0)
    made[0].end(BAD)
    loop.advance(1000)
    assert len(made) == 1


def test_history_is_bounded(mocker: MockerFixture) -> None:
    made, loop = faked(mocker), ManualLoop()
    runner = Runner(loop, mocker.Mock(), plan(0, 1), lambda _: None)
    runner.start()
    for _ in range(50):
        loop.advance(1)
        made[-1].end(GOOD)
    assert len(runner.history) == 20


def told(judge: HealthJudge, *results: tuple[float, Result]) -> list[tuple[bool, bool, int] | None]:
    news = [judge.judge(result, at) for at, result in results]
    return [None if one is None else (one.healthy, one.kill, one.failures) for one in news]


def test_failures_in_the_grace_period_are_forgiven() -> None:
    judge = HealthJudge(failures=2, grace=10, started=0)
    assert told(judge, (1, BAD), (5, BAD), (9, BAD), (11, BAD), (12, BAD)) == [
        None, None, None, (False, False, 1), (False, True, 2),
    ]  # fmt: skip


def test_the_first_success_ends_the_grace_period() -> None:
    judge = HealthJudge(failures=3, grace=100, started=0)
    assert told(judge, (1, BAD), (2, GOOD), (3, BAD)) == [None, (True, False, 0), (False, False, 1)]


def test_only_first_success_and_recoveries_are_told() -> None:
    judge = HealthJudge(failures=3, grace=0, started=0)
    assert told(judge, (1, GOOD), (2, GOOD), (3, BAD), (4, GOOD), (5, GOOD)) == [
        (True, False, 0), None, (False, False, 1), (True, False, 0), None,
    ]  # fmt: skip


def test_flapping_never_kills() -> None:
    judge = HealthJudge(failures=2, grace=0, started=0)
    news = told(judge, *((float(at), GOOD if at % 2 else BAD) for at in range(20)))
    assert all(one is not None and not one[1] for one in news)


def test_transient_trouble_is_not_counted() -> None:
    judge = HealthJudge(failures=1, grace=0, started=0)
    assert told(judge, (1, Result(False, "no room", transient=True))) == [None]


def test_health_checker_counts_grace_from_its_making(mocker: MockerFixture) -> None:
    made, loop, news = faked(mocker), ManualLoop(), list[Health]()
    checker = HealthChecker(loop, mocker.Mock(), HealthPlan(plan(0, 5, 20), 1, 8), news.append)
    checker.start()
    loop.advance(0)
    made[0].end(BAD)
    assert checker.healthy is None
    loop.advance(9)
    made[1].end(BAD)
    assert news == [Health(False, True, 1, "broken")]
    assert checker.healthy is False
    assert [run.result for run in checker.history] == [BAD, BAD]


def test_check_status_is_told_when_it_changes(mocker: MockerFixture) -> None:
    made, loop, told_ = faked(mocker), ManualLoop(), list[mesos_pb2.CheckStatusInfo]()
    checker = Checker(loop, mocker.Mock(), plan(0, 1), told_.append)
    assert checker.status.type == mesos_pb2.CheckInfo.TCP
    assert checker.status.HasField("tcp")
    assert not checker.status.tcp.HasField("succeeded")
    checker.start()
    for result in (LOST, BAD, BAD, GOOD, GOOD, Result(False, "x", transient=True), LOST, GOOD):
        loop.advance(1)
        made[-1].end(result)
    shown = [status.tcp.succeeded if status.tcp.HasField("succeeded") else None for status in told_]
    assert shown == [False, True, None, True]
    assert checker.status.tcp.succeeded
