"""Scenarios 71 to 79: health checks and checks. All tasks are group members, which may carry every field."""

from __future__ import annotations

import ssl
import time
from functools import partial

import trustme
from mesos.v1 import mesos_pb2

from executor.protocol import Encoding
from executor.tests.scenarios import processes, targets
from executor.tests.scenarios.events import group_task, kill, launch_group
from executor.tests.scenarios.scene import KILLING_STATE, Scene, scenario
from executor.tests.scenarios.scripted_agent import ScriptedAgent

STAY = {"MESOKIT_STAY": "true"}
HEALTH = mesos_pb2.TaskStatus.REASON_TASK_HEALTH_CHECK_STATUS_UPDATED
CHECK = mesos_pb2.TaskStatus.REASON_TASK_CHECK_STATUS_UPDATED
AGES = 600.0


def _health(
    task_id: str,
    command: str | None = None,
    *,
    failures: int = 1000,
    grace: float = 0.0,
    timeout: float = 20.0,
    interval: float = 0.1,
    work: str = "exec sleep 600",
) -> mesos_pb2.TaskInfo:
    """A group task with a health check; the caller fills in HTTP or TCP when there is no command."""
    info = group_task(task_id, work)
    check = info.health_check
    check.delay_seconds = 0
    check.interval_seconds = interval
    check.timeout_seconds = timeout
    check.consecutive_failures = failures
    check.grace_period_seconds = grace
    if command is not None:
        check.type = mesos_pb2.HealthCheck.COMMAND
        check.command.value = command
    return info


def _told(agent: ScriptedAgent, name: str) -> bool:
    return bool(_healths(agent, name))


def _healths(agent: ScriptedAgent, task_id: str) -> list[bool]:
    """The `healthy` of every health update, in order."""
    return [one.healthy for one in agent.statuses(task_id) if one.reason == HEALTH and one.HasField("reason")]


def _lines(scene: Scene, name: str) -> list[str]:
    return scene.text(name).splitlines()


@scenario()
def test_71_command_health(scene: Scene) -> None:
    agent = scene.agent(capabilities=[KILLING_STATE])
    executor = scene.start(agent, STAY)
    agent.send(
        launch_group(_health("good", "echo run >>good; exit 0")),
        launch_group(_health("bad", "exit 1", failures=3)),
    )
    final = agent.wait_state("bad", "KILLED")
    assert final.HasField("healthy")
    assert not final.healthy
    assert _healths(agent, "bad")[:3] == [False, False, False]
    processes.wait_until(lambda: len(_lines(scene, "good")) >= 5, "five runs of the check")
    assert _healths(agent, "good") == [True]
    assert executor.running


@scenario()
def test_72_grace_period(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent, STAY)
    agent.send(launch_group(_health("t", "echo run >>runs; test -e well", grace=AGES, failures=2)))
    processes.wait_until(lambda: len(_lines(scene, "runs")) >= 4, "failures within the grace")
    assert _healths(agent, "t") == []
    scene.path("well").touch()
    agent.wait(lambda: _healths(agent, "t") == [True], "the first success")
    scene.path("well").unlink()
    assert agent.wait_state("t", "KILLED").healthy is False
    assert _healths(agent, "t")[:3] == [True, False, False]


@scenario()
def test_73_check_that_hangs(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    hangs = (
        "test ! -e lock || echo overlap >>overlap; touch lock; (setsid sleep 601 &); sleep 601 &"
        " echo run >>runs; rm lock; wait"
    )
    agent.send(
        launch_group(_health("hangs", hangs, timeout=0.3)),
        launch_group(_health("slow", "sleep 1; exit 0", timeout=0)),
    )
    agent.wait(lambda: len(_healths(agent, "hangs")) >= 3, "three runs counted as failures")
    assert set(_healths(agent, "hangs")) == {False}
    assert len(_lines(scene, "runs")) >= 3
    assert _lines(scene, "overlap") == []

    def sleepers() -> int:
        return sum("601" in processes.command_line(pid) for pid in executor.task_pids())

    agent.wait(lambda: _healths(agent, "slow") == [True], "a check without a timeout")
    agent.send(kill("hangs"))
    agent.wait_state("hangs", "KILLED")
    processes.wait_until(lambda: sleepers() == 0, "no child of a check left")


def _http(task_id: str, port: int, path: str | None, scheme: str | None = None) -> mesos_pb2.TaskInfo:
    info = _health(task_id, timeout=5)
    info.health_check.type = mesos_pb2.HealthCheck.HTTP
    info.health_check.http.port = port
    if path is not None:
        info.health_check.http.path = path
    if scheme is not None:
        info.health_check.http.scheme = scheme
    return info


def _self_signed() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("elsewhere.example").configure_cert(context)
    return context


@scenario()
def test_74_http_health(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent, STAY)
    with (
        targets.http_server_of_ipv4_alone() as port,
        targets.http_server(ipv6=True) as six,
        targets.http_server(tls=_self_signed()) as tls,
        targets.tcp_closed() as closed,
    ):
        ipv6 = _http("ipv6", six, "/200")
        ipv6.health_check.http.protocol = mesos_pb2.NetworkInfo.IPv6
        ipv4_only = _http("ipv6 refused", port, "/200")
        ipv4_only.health_check.http.protocol = mesos_pb2.NetworkInfo.IPv6
        # A list of statuses says nothing to a Mesos executor: the range 200-399 alone counts.
        listed = _http("statuses", port, "/204")
        listed.health_check.http.statuses.append(500)
        hang = _http("hang", port, "/hang")
        hang.health_check.timeout_seconds = 0.3
        well = [
            _http("204", port, "/204"),
            _http("302", port, "/302"),
            _http("399", port, "/399"),
            _http("no path", port, None),
            _http("https", tls, "/200", "https"),
            ipv6,
            listed,
        ]
        ill = [
            _http("400", port, "/400"),
            _http("503", port, "/503"),
            _http("refused", closed, "/"),
            hang,
            ipv4_only,
        ]
        agent.send(*(launch_group(info) for info in well + ill))
        for info in well + ill:
            name = info.task_id.value
            agent.wait(partial(_told, agent, name), f"a result for {name}")
        results = {info.task_id.value: _healths(agent, info.task_id.value)[0] for info in well + ill}
        assert results == {info.task_id.value: info in well for info in well + ill}


@scenario()
def test_75_tcp_health(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent, STAY)
    with targets.tcp_open() as opened, targets.tcp_closed() as closed, targets.tcp_filtered() as filtered:
        ports = {"open": opened, "closed": closed, "filtered": filtered}
        for name, port in ports.items():
            info = _health(name, timeout=0.4)
            info.health_check.type = mesos_pb2.HealthCheck.TCP
            info.health_check.tcp.port = port
            agent.send(launch_group(info))
        for name in ports:
            agent.wait(partial(_told, agent, name), f"a result for {name}")
        assert {name: _healths(agent, name)[0] for name in ports} == {
            "open": True,
            "closed": False,
            "filtered": False,
        }


@scenario()
def test_76_flapping(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent, STAY)
    flap = "if test -e up; then rm up; exit 1; else touch up; exit 0; fi"
    agent.send(launch_group(_health("t", flap, failures=2)))
    agent.wait(lambda: len(_healths(agent, "t")) >= 8, "eight health updates")
    seen = _healths(agent, "t")
    assert seen == [index % 2 == 0 for index in range(len(seen))]
    assert agent.states("t") == ["STARTING", "RUNNING"]


@scenario()
def test_77_check_status(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    scene.path("code").write_text("0")
    info = _health("t", "exit 0")
    info.check.type = mesos_pb2.CheckInfo.COMMAND
    info.check.command.command.value = "echo run >>runs; exit $(cat code)"
    info.check.delay_seconds = 0
    info.check.interval_seconds = 0.1

    def codes() -> list[int]:
        return [
            one.check_status.command.exit_code
            for one in agent.statuses("t")
            if one.HasField("reason") and one.reason == CHECK
        ]

    agent.send(launch_group(info))
    agent.wait(lambda: codes() == [0] and _healths(agent, "t") == [True], "the first results")
    runs = len(_lines(scene, "runs"))
    processes.wait_until(lambda: len(_lines(scene, "runs")) >= runs + 4, "four more runs")
    assert codes() == [0]
    # Replaced, not rewritten: a check must not read half of it.
    scene.path("code.new").write_text("5")
    scene.path("code.new").rename(scene.path("code"))
    agent.wait(lambda: codes() == [0, 5], "a change")
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    statuses = agent.statuses("t")
    without = [
        str(one)
        for one in statuses
        if one.check_status.type != mesos_pb2.CheckInfo.COMMAND or not one.check_status.HasField("command")
    ]
    assert without == []
    assert not statuses[0].check_status.command.HasField("exit_code")
    changed = next(one for one in statuses if one.check_status.command.exit_code == 5)
    assert changed.healthy is True
    assert executor.running


@scenario()
def test_78_results_that_come_too_late(scene: Scene) -> None:
    agent = scene.agent(capabilities=[KILLING_STATE])
    scene.start(agent, STAY)
    slow = "touch checking-$NAME; sleep 0.5; exit 1"
    killed = _health("killed", slow, work="trap '' TERM; while :; do sleep 0.05; done")
    ended = _health("ended", slow, work="until test -e go; do sleep 0.05; done")
    for info in (killed, ended):
        info.command.environment.variables.add(name="NAME", value=info.task_id.value)
        info.health_check.command.environment.variables.add(name="NAME", value=info.task_id.value)
    agent.send(launch_group(killed), launch_group(ended))
    for name in ("killed", "ended"):
        processes.wait_until(scene.path(f"checking-{name}").exists, "a check that runs")
    agent.send(kill("killed", 1.2))
    scene.path("go").touch()
    agent.wait_state("ended", "FINISHED")
    agent.wait_state("killed", "KILLED")
    time.sleep(0.5)
    for name in ("killed", "ended"):
        statuses = agent.statuses(name)
        end = next(i for i, one in enumerate(statuses) if one.state not in {0, 1})
        assert [one.reason for one in statuses[end:] if one.HasField("reason")] == []


@scenario(Encoding.PROTOBUF, Encoding.JSON)
def test_79_invalid_checks(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    untyped = group_task("untyped health", "touch ran")
    untyped.health_check.interval_seconds = 1
    path = _http("path", 80, "no-slash")
    empty = group_task("untyped check", "touch ran")
    empty.check.interval_seconds = 1
    unfilled = group_task("no command", "touch ran")
    unfilled.health_check.type = mesos_pb2.HealthCheck.COMMAND
    negative = _health("negative", "exit 0")
    negative.health_check.interval_seconds = -1
    endless = _health("not a number", "exit 0")
    endless.health_check.timeout_seconds = float("-inf")
    port = _http("port", 70000, "/")
    infos = [untyped, path, empty, unfilled, negative, port]
    if scene.encoding is Encoding.PROTOBUF:
        infos.append(endless)
    agent.send(*(launch_group(info) for info in infos))
    for info in infos:
        final = agent.wait_final(info.task_id.value)
        assert final.state in {mesos_pb2.TASK_ERROR, mesos_pb2.TASK_FAILED}
        assert final.reason == mesos_pb2.TaskStatus.REASON_TASK_INVALID
        assert "check" in final.message
    assert not scene.path("ran").exists()
    agent.send(launch_group(group_task("after", "exit 0")))
    agent.wait_state("after", "FINISHED")
    assert executor.running
