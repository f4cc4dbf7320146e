"""Scenarios 67 to 70: SHUTDOWN."""

from __future__ import annotations

import os
import signal
import threading

from executor.tests.scenarios import processes
from executor.tests.scenarios.events import kill, launch, shutdown, task
from executor.tests.scenarios.scene import Scene, scenario
from executor.tests.scenarios.scripted_agent import ScriptedAgent

STUBBORN = "trap '' TERM; touch ready-$NAME; while :; do sleep 0.1; done"


def _stubborn(scene: Scene, agent: ScriptedAgent, name: str) -> None:
    agent.send(launch(task(name, STUBBORN, env={"NAME": name}, grace=600)))
    processes.wait_until(scene.path(f"ready-{name}").exists, "the task's trap")
    agent.wait_state(name, "RUNNING")


@scenario()
def test_67_shutdown(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    names = ["a", "b", "c"]
    agent.send(*(launch(task(name, "exec sleep 600", grace=600)) for name in names))
    for name in names:
        agent.wait_state(name, "RUNNING")
    agent.send(shutdown())
    for name in names:
        agent.wait_state(name, "KILLED")
    assert executor.wait_exit() == 0
    assert [agent.states(name) for name in names] == [["STARTING", "RUNNING", "KILLED"]] * 3


@scenario()
def test_68_shutdown_of_stubborn_tasks(scene: Scene) -> None:
    """The agent destroys the container when the grace is over; the updates must have come before."""
    agent = scene.agent()
    executor = scene.start(agent, {"MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "5secs"})
    names = ["a", "b", "c"]
    for name in names:
        _stubborn(scene, agent, name)
    pid = executor.pid

    def destroy() -> None:
        if executor.running:
            os.kill(pid, signal.SIGKILL)

    destroyed = threading.Timer(5.0, destroy)
    agent.send(shutdown())
    destroyed.start()
    for name in names:
        agent.wait_state(name, "KILLED")
    assert executor.wait_exit() == 0
    destroyed.cancel()


@scenario()
def test_69_shutdown_overtakes_a_kill(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {"MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "3secs"})
    _stubborn(scene, agent, "t")
    agent.send(kill("t", 600), shutdown())
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0


@scenario()
def test_70_shutdown_and_no_more_agent(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {"MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "3secs"})
    _stubborn(scene, agent, "stubborn")
    agent.send(launch(task("gentle", "exec sleep 600")))
    agent.wait_state("gentle", "RUNNING")
    agent.stream.send(shutdown())
    agent.stream.end()
    agent.stop()
    executor.wait_exit()
    executor.wait_no_tasks()
