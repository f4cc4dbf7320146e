"""Scenarios 39 to 50: acknowledgements, lost connections, and agents that come back or do not."""

from __future__ import annotations

import itertools
import time

from mesos.v1 import mesos_pb2

from executor.protocol import Encoding, decode_event, encode_event
from executor.tests.scenarios import acknowledgements, processes
from executor.tests.scenarios.addresses import Unix
from executor.tests.scenarios.answers import Accept, Refuse
from executor.tests.scenarios.events import acknowledged, kill, launch, task
from executor.tests.scenarios.ledger import state_name
from executor.tests.scenarios.scene import Scene, scenario, together
from executor.tests.scenarios.scripted_agent import Call, ScriptedAgent

STARTING = mesos_pb2.TASK_STARTING
RUNNING = mesos_pb2.TASK_RUNNING


def _resent(agent: ScriptedAgent, number: int) -> tuple[list[str], list[mesos_pb2.TaskStatus]]:
    """Unacknowledged task ids and updates of the `number`th accepted subscription."""
    agent.subscription(number)
    call = agent.calls(Call.SUBSCRIBE, taken=True)[number - 1].call
    assert call is not None
    tasks = [info.task_id.value for info in call.subscribe.unacknowledged_tasks]
    return tasks, [update.status for update in call.subscribe.unacknowledged_updates]


@scenario()
def test_39_running_never_acknowledged(scene: Scene) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.never
    scene.start(agent)
    info = task("t", "exec sleep 600", grace=7.5)
    info.labels.labels.add(key="owner", value="scenario 39")
    info.MergeFromString(b"\xfa\x3f\x12from a newer Mesos")
    event = launch(info)
    agent.send(event)
    running = agent.wait_state("t", "RUNNING")
    agent.stream.end()
    tasks, updates = _resent(agent, 2)
    assert tasks == ["t"]
    assert [state_name(status) for status in updates] == ["STARTING", "RUNNING"]
    assert updates[1] == running
    call = agent.calls(Call.SUBSCRIBE)[1].call
    assert call is not None
    sent = decode_event(encode_event(event, scene.encoding), scene.encoding).launch.task
    assert call.subscribe.unacknowledged_tasks[0] == sent
    if scene.encoding is Encoding.PROTOBUF:
        assert b"from a newer Mesos" in call.subscribe.unacknowledged_tasks[0].SerializeToString()
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")


@scenario()
def test_40_only_running_unacknowledged(scene: Scene) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.only(STARTING)
    scene.start(agent)
    agent.send(launch(task("t", "exec sleep 600")))
    running = agent.wait_state("t", "RUNNING")
    agent.stream.end()
    tasks, updates = _resent(agent, 2)
    assert tasks == []
    assert [status.uuid for status in updates] == [running.uuid]


@scenario()
def test_41_terminal_unacknowledged(scene: Scene) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.only(STARTING, RUNNING)
    executor = scene.start(agent)
    agent.send(launch(task("t", "exit 0")))
    final = agent.wait_state("t", "FINISHED")
    for number in (2, 3):
        agent.stream.cut()
        assert [status.uuid for status in _resent(agent, number)[1]] == [final.uuid]
    agent.send(acknowledged("t", final.uuid))
    assert executor.wait_exit() == 0
    assert agent.ledger.deliveries[final.uuid] == 3


@scenario()
def test_42_odd_acknowledgements(scene: Scene) -> None:
    def acted(policy: acknowledgements.AckPolicy) -> None:
        stage = scene.another()
        agent = stage.agent()
        agent.acks = policy
        executor = stage.start(agent)
        agent.send(launch(task("long", "exec sleep 600")), launch(task("t", "exit 0")))
        final = agent.wait_state("t", "FINISHED")
        agent.send(
            acknowledged("t", final.uuid),
            acknowledged("never heard of", final.uuid),
            acknowledged("t", b"short"),
            acknowledged("t", b""),
            kill("long"),
        )
        agent.wait_state("long", "KILLED")
        assert executor.wait_exit() == 0
        assert len(agent.subscribes()) == 1

    together(
        lambda: acted(acknowledgements.twice),
        lambda: acted(acknowledgements.wrong_first),
        lambda: acted(acknowledgements.before_response),
        lambda: acted(acknowledgements.after(0.3)),
    )


@scenario()
def test_43_terminal_never_acknowledged(scene: Scene) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.only(STARTING, RUNNING)
    executor = scene.start(agent, {"MESOKIT_ACK_TIMEOUT": "700ms"})
    agent.send(launch(task("t", "exit 0")))
    agent.wait_state("t", "FINISHED")
    assert executor.wait_exit() == 1


@scenario()
def test_44_update_refused_for_now(scene: Scene) -> None:
    def refused(status: int) -> None:
        stage = scene.another()
        agent = stage.agent()
        agent.answer(Call.UPDATE, Accept(), Refuse(status, "not now"))
        executor = stage.start(agent)
        agent.send(launch(task("t", "sleep 0.2")))
        agent.wait_state("t", "RUNNING")
        agent.wait_state("t", "FINISHED")
        assert agent.states("t") == ["STARTING", "RUNNING", "FINISHED"]
        assert executor.wait_exit() == 0

    together(lambda: refused(503), lambda: refused(500), lambda: refused(403))


@scenario()
def test_45_update_refused_for_good(scene: Scene) -> None:
    agent = scene.agent()
    agent.answer(Call.UPDATE, Accept(), Refuse(400, "the agent does not like this one"))
    executor = scene.start(agent, {"MESOKIT_ACK_TIMEOUT": "3secs"})
    agent.send(launch(task("t", "sleep 1")))
    agent.wait_state("t", "FINISHED")
    executor.wait_exit()
    assert "the agent does not like this one" in executor.log + executor.stderr
    (refused,) = [entry for entry in agent.calls(Call.UPDATE) if isinstance(entry.outcome, Refuse)]
    assert refused.call is not None
    uuid = refused.call.update.status.uuid
    again = [
        entry for entry in agent.calls(Call.UPDATE) if entry.call and entry.call.update.status.uuid == uuid
    ]
    assert len(again) <= 2


@scenario()
def test_46_agent_away_for_a_while(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(
        launch(task("long", "exec sleep 600")), launch(task("t", "until test -e go; do sleep 0.05; done"))
    )
    agent.wait_state("t", "RUNNING")
    agent.wait_state("long", "RUNNING")
    agent.play_dead()
    before = len(agent.connected_at)
    scene.path("go").touch()
    agent.wait(lambda: len(agent.connected_at) >= before + 8, "eight attempts to connect")
    assert executor.running
    gaps = [later - earlier for earlier, later in itertools.pairwise(agent.connected_at[before:])]
    assert max(gaps) - min(gaps) > 0.005, "attempts are jittered"
    processes.wait_until(lambda: "FINISHED" in executor.log, "the task ends while the agent is away")
    agent.dead = False
    _, updates = _resent(agent, 2)
    # The acknowledgement of RUNNING may have died with the connection.
    assert [(one.task_id.value, state_name(one)) for one in updates if one.state != RUNNING] == [
        ("t", "FINISHED")
    ]
    agent.send(kill("long"))
    agent.wait_state("long", "KILLED")
    assert executor.wait_exit() == 0
    assert agent.states("long") == ["STARTING", "RUNNING", "KILLED"]


@scenario()
def test_46_both_updates_in_order(scene: Scene) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.only(STARTING)
    executor = scene.start(agent)
    agent.send(launch(task("t", "until test -e go; do sleep 0.05; done")))
    agent.wait_state("t", "RUNNING")
    agent.play_dead()
    scene.path("go").touch()
    processes.wait_until(lambda: "FINISHED" in executor.log, "the end is noted while the agent is away")
    agent.acks = acknowledgements.at_once
    agent.dead = False
    _, updates = _resent(agent, 2)
    assert [state_name(one) for one in updates] == ["RUNNING", "FINISHED"]
    assert executor.wait_exit() == 0


GONE = {"MESOS_RECOVERY_TIMEOUT": "1secs", "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "2secs"}


@scenario()
def test_47_agent_away_for_good(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, GONE)
    agent.send(launch(task("gentle", "exec sleep 600")), launch(task("rude", "trap '' TERM; sleep 600; :")))
    agent.wait_state("gentle", "RUNNING")
    agent.wait_state("rude", "RUNNING")
    agent.play_dead()
    before = len(agent.connected_at)
    executor.wait_exit()
    assert len(agent.connected_at) - before >= 2
    executor.wait_no_tasks()


@scenario()
def test_48_agent_that_never_recovers(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, GONE)
    agent.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    agent.always[Call.SUBSCRIBE] = Refuse(503)
    agent.restart()
    executor.wait_exit()
    assert len(agent.subscribes()) >= 3
    executor.wait_no_tasks()


@scenario()
def test_49_new_socket_at_the_same_path(scene: Scene) -> None:
    path = scene.directory / "agent.sock"
    agent = scene.agent(Unix(path))
    executor = scene.start(agent)
    agent.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    agent.stop()
    time.sleep(0.4)
    assert not path.exists()
    agent.start()
    agent.subscription(2)
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0


@scenario()
def test_50_late_events_of_an_old_stream(scene: Scene) -> None:
    agent = scene.agent()
    agent.supersede = False
    agent.answer(Call.SUBSCRIBE, Accept(), Accept(quiet=True))
    executor = scene.start(agent, {"MESOKIT_WATCHDOG": "1secs", "MESOKIT_STAY": "true"})
    first = agent.subscription()
    first.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    second = agent.subscription(2)
    first.send(launch(task("late", "touch late")), kill("t"))
    second.send(agent.subscribed(), launch(task("new", "exit 0")))
    agent.wait_state("new", "FINISHED")
    assert agent.states("late") == []
    assert agent.states("t") == ["STARTING", "RUNNING"]
    assert not scene.path("late").exists()
    assert executor.running
