"""When an executor leaves, with which status, and what must not keep it or send it away."""

from __future__ import annotations

import time

from mesos.v1 import mesos_pb2

from executor.tests.scenarios import acknowledgements
from executor.tests.scenarios.answers import Accept, Refuse
from executor.tests.scenarios.events import acknowledged, launch, shutdown, task
from executor.tests.scenarios.scene import Scene, scenario
from executor.tests.scenarios.scripted_agent import Call

STARTING, RUNNING = mesos_pb2.TASK_STARTING, mesos_pb2.TASK_RUNNING


@scenario()
def test_a_framework_that_is_torn_down_acknowledges_nothing(scene: Scene) -> None:
    """An agent drops the updates of a terminating framework: the executor goes long before its grace is
    over."""
    agent = scene.agent()
    executor = scene.start(agent, {"MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "60secs"})
    agent.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    agent.acks = acknowledgements.never
    agent.send(shutdown())
    agent.wait_state("t", "KILLED")
    told = time.monotonic()
    assert executor.wait_exit() == 0
    assert time.monotonic() - told < 20


@scenario()
def test_a_launch_right_behind_the_last_acknowledgement_is_served(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {"MESOKIT_LINGER": "5secs"})
    for number in range(5):
        agent.send(launch(task(f"t{number}", "exit 0")))
        agent.wait_state(f"t{number}", "FINISHED")
        time.sleep(0.05)
    assert executor.wait_exit() == 0


@scenario()
def test_a_repeated_launch_while_the_last_update_is_on_its_way_does_not_keep_it(scene: Scene) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.only(STARTING, RUNNING)
    executor = scene.start(agent)
    agent.send(launch(task("t", "exit 0")))
    final = agent.wait_state("t", "FINISHED")
    agent.send(launch(task("t", "exit 0")), acknowledged("t", final.uuid))
    assert executor.wait_exit() == 0


@scenario()
def test_updates_that_the_agent_refuses_for_good_were_not_delivered(scene: Scene) -> None:
    agent = scene.agent()
    agent.answer(Call.UPDATE, Accept(), Accept(), Refuse(400, "not this one"))
    executor = scene.start(agent)
    agent.send(launch(task("t", "exit 0")))
    assert executor.wait_exit() == 1
    assert "not this one" in executor.log
    assert "1 updates were never acknowledged" in executor.log


@scenario()
def test_without_checkpointing_what_was_not_acknowledged_is_a_failure(scene: Scene) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.never
    executor = scene.start(agent, {"MESOS_CHECKPOINT": "0"})
    agent.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    agent.stream.end()
    assert executor.wait_exit() == 1
    executor.wait_no_tasks()
