"""Scenarios 51 to 62: KILL, from the polite task to the one that hides its children."""

from __future__ import annotations

import time
from functools import partial

from mesos.v1 import mesos_pb2

from executor.tests.scenarios import processes
from executor.tests.scenarios.events import kill, launch, task
from executor.tests.scenarios.ledger import state_name
from executor.tests.scenarios.scene import KILLING_STATE, Scene, scenario
from executor.tests.scenarios.scripted_agent import ScriptedAgent

STAY = {"MESOKIT_STAY": "true"}
STUBBORN = "trap '' TERM; touch ready-$NAME; while :; do sleep 0.1; done"
AGES = 600.0
"""Seconds of a grace that no test waits for."""


def _stubborn(scene: Scene, agent: ScriptedAgent, name: str, grace: float | None = None) -> None:
    """A running task that ignores SIGTERM, with that grace in its own kill policy."""
    agent.send(launch(task(name, STUBBORN, env={"NAME": name}, grace=grace)))
    processes.wait_until(lambda: scene.path(f"ready-{name}").exists(), "the task's trap")
    agent.wait_state(name, "RUNNING")


def _names(agent: ScriptedAgent, task_id: str) -> list[str]:
    """Every update, without folding."""
    return [state_name(status) for status in agent.statuses(task_id)]


@scenario()
def test_51_with_killing_state(scene: Scene) -> None:
    agent = scene.agent(capabilities=[KILLING_STATE])
    executor = scene.start(agent)
    agent.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    agent.send(kill("t"))
    final = agent.wait_state("t", "KILLED")
    assert _names(agent, "t") == ["STARTING", "RUNNING", "KILLING", "KILLED"]
    assert "terminated with signal Terminated" in final.message
    assert executor.wait_exit() == 0


@scenario()
def test_52_without_killing_state(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    assert _names(agent, "t") == ["STARTING", "RUNNING", "KILLED"]
    assert executor.wait_exit() == 0


@scenario()
def test_53_clean_exit_on_term_is_killed(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", "trap 'exit 0' TERM; touch ready; while :; do sleep 0.05; done")))
    processes.wait_until(lambda: scene.path("ready").exists(), "the task's trap")
    agent.send(kill("t"))
    final = agent.wait_state("t", "KILLED")
    assert "exited with status 0" in final.message
    assert executor.wait_exit() == 0


@scenario()
def test_54_policy_of_the_kill_goes_first(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {"MESOKIT_KILL_GRACE": "10mins", **STAY})
    _stubborn(scene, agent, "event", AGES)
    _stubborn(scene, agent, "task", 0.5)
    agent.send(kill("event", 0.5), kill("task"))
    for name in ("event", "task"):
        final = agent.wait_state(name, "KILLED")
        assert "terminated with signal Killed" in final.message
    executor.wait_no_tasks()


@scenario()
def test_54_grace_of_the_executor_goes_last(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {"MESOKIT_KILL_GRACE": "300ms"})
    _stubborn(scene, agent, "t")
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0


@scenario()
def test_55_a_deadline_only_shrinks(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent, STAY)
    _stubborn(scene, agent, "shrinks", 1.0)
    _stubborn(scene, agent, "stays", AGES)
    agent.send(kill("shrinks", AGES), kill("stays", 1.0))
    time.sleep(0.3)
    assert agent.states("shrinks")[-1] == agent.states("stays")[-1] == "RUNNING"
    agent.send(kill("shrinks", 0.1), kill("stays", AGES))
    agent.wait_state("shrinks", "KILLED")
    agent.wait_state("stays", "KILLED")


@scenario()
def test_56_twenty_kills(scene: Scene) -> None:
    agent = scene.agent(capabilities=[KILLING_STATE])
    executor = scene.start(agent)
    _stubborn(scene, agent, "t")
    agent.send(*(kill("t", 0.3) for _ in range(20)))
    agent.wait_state("t", "KILLED")
    assert _names(agent, "t") == ["STARTING", "RUNNING", "KILLING", "KILLED"]
    assert executor.wait_exit() == 0


@scenario()
def test_57_nothing_to_kill(scene: Scene) -> None:
    agent = scene.agent(capabilities=[KILLING_STATE])
    executor = scene.start(agent, STAY)
    agent.send(launch(task("done", "exit 0")))
    agent.wait_state("done", "FINISHED")
    agent.send(kill("done"), kill("unknown"), launch(task("after", "exit 0")))
    agent.wait_state("after", "FINISHED")
    assert agent.states("unknown") == []
    assert _names(agent, "done") == ["STARTING", "RUNNING", "FINISHED"]
    assert "unknown" in executor.log


@scenario()
def test_58_kill_on_the_heels_of_launch(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    names = [f"t{number}" for number in range(20)]
    stream = agent.stream
    stream.chunks(
        [stream.records(e for name in names for e in (launch(task(name, "exec sleep 600")), kill(name)))]
    )
    for name in names:
        agent.wait_state(name, "KILLED")
    executor.wait_no_tasks()


@scenario()
def test_59_kill_lost_with_the_connection(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    gone = agent.stream
    agent.stop()
    assert not gone.send(kill("t"))
    agent.start()
    agent.subscription(2)
    assert agent.states("t") == ["STARTING", "RUNNING"]
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0


FAMILY = """
trap '' TERM
setsid sleep 600 &
(setsid sh -c 'trap "" TERM HUP; touch daemon; while :; do sleep 0.1; done' &)
(env -i setsid sh -c 'trap "" TERM; (trap "" TERM; touch bare; exec sleep 600) & exit 0' &)
(sh -c 'sleep 600 & exec sleep 600' &)
touch family
while :; do sleep 0.1; done
"""


def _family(scene: Scene) -> set[int]:
    """Everything that runs in the sandbox, whatever its environment says."""
    found = set()
    for pid in processes.all_pids():
        try:
            if processes.PROC.joinpath(str(pid), "cwd").readlink() == scene.sandbox and processes.alive(pid):
                found.add(pid)
        except OSError:
            continue
    return found - {pid for executor in scene.executors for pid in executor.own_pids()}


@scenario()
def test_60_runaway_children(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", FAMILY)))
    for name in ("family", "daemon", "bare"):
        processes.wait_until(scene.path(name).exists, name)
    agent.wait_state("t", "RUNNING")
    processes.wait_until(lambda: len(_family(scene)) >= 6, "the whole family")
    agent.send(kill("t", 0.5))
    agent.wait_state("t", "KILLED")
    processes.wait_until(lambda: not _family(scene), "no process in the sandbox")
    assert executor.wait_exit() == 0


@scenario()
def test_60_a_daemon_does_not_hold_the_end_back(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", "(setsid sh -c 'trap \"\" TERM HUP; exec sleep 600' &); exit 4")))
    final = agent.wait_state("t", "FAILED")
    assert "exited with status 4" in final.message
    assert executor.wait_exit() == 0
    processes.wait_until(lambda: not _family(scene), "no process in the sandbox")


@scenario()
def test_61_stopped_tasks(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(
        launch(task("gentle", "trap 'exit 0' TERM; echo $$ >gentle; kill -STOP $$; sleep 600")),
        launch(task("rude", "trap '' TERM; echo $$ >rude; kill -STOP $$; while :; do sleep 0.1; done")),
    )
    for name in ("gentle", "rude"):
        agent.wait_state(name, "RUNNING")
        processes.wait_until(partial(_stopped, scene, name), f"{name} stops itself")
    agent.send(kill("gentle", AGES), kill("rude", 0.5))
    assert "exited with status 0" in agent.wait_state("gentle", "KILLED").message
    assert "terminated with signal Killed" in agent.wait_state("rude", "KILLED").message
    executor.wait_no_tasks()


def _stopped(scene: Scene, name: str) -> bool:
    text = scene.text(name)
    found = processes.stat(int(text)) if text.endswith("\n") else None
    return found is not None and found.state == "T"


@scenario()
def test_62_extreme_graces(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    for name in ("zero", "negative", "huge"):
        _stubborn(scene, agent, name, AGES)
    agent.send(launch(task("gentle", "exec sleep 600")))
    agent.wait_state("gentle", "RUNNING")
    agent.send(kill("zero", 0), kill("negative", -5))
    longest, shortest = kill("huge"), kill("huge")
    longest.kill.kill_policy.grace_period.nanoseconds = 2**63 - 1
    shortest.kill.kill_policy.grace_period.nanoseconds = -(2**63)
    politely = kill("gentle")
    politely.kill.kill_policy.grace_period.nanoseconds = 2**63 - 1
    agent.send(longest, politely)
    for name in ("zero", "negative", "gentle"):
        assert agent.wait_final(name).state == mesos_pb2.TASK_KILLED
    assert agent.states("huge") == ["STARTING", "RUNNING"]
    agent.send(shortest)
    agent.wait_state("huge", "KILLED")
    assert executor.running
