"""A task's life under want: at each step something is taken away for a while, and given back.

Whatever the step, in the end every task has had one terminal update (the ledger sees to "one"), a task that
had nothing to do with it runs on, and the executor starts, checks and ends tasks as before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from mesos.v1 import mesos_pb2

from executor.protocol import Encoding
from executor.tests.exhaustion.resources import Resource
from executor.tests.scenarios.events import group_task, kill, launch, launch_group, shutdown, task
from executor.tests.scenarios.executor_process import Executor
from executor.tests.scenarios.scene import Scene, play
from executor.tests.scenarios.scripted_agent import ScriptedAgent

STAY = {"MESOKIT_STAY": "true", "MESOKIT_REGISTRATION_TIMEOUT": "5mins"}
ROTATED = {"MESOKIT_OUTPUT_SIZE": "16KB", "MESOKIT_PROGRESS_FILE": "progress/{task}"}

Step = Callable[[ScriptedAgent, str], None]


def _launch(agent: ScriptedAgent, name: str) -> None:
    agent.send(launch(task(f"{name}-new", "echo new; exit 0")))
    agent.send(launch_group(group_task(f"{name}-a", "exit 0"), group_task(f"{name}-b", "echo b; exit 0")))


def _end(agent: ScriptedAgent, name: str) -> None:
    agent.send(kill(f"{name}-ends"))


def _reconnect(agent: ScriptedAgent, name: str) -> None:
    agent.stream.cut()


def _reconnect_and_end(agent: ScriptedAgent, name: str) -> None:
    agent.send(kill(f"{name}-ends"))
    agent.stream.cut()


STEPS: dict[str, Step] = {
    "launch": _launch,
    "end": _end,
    "reconnect": _reconnect,
    "both": _reconnect_and_end,
}


def _checked(task_id: str) -> mesos_pb2.TaskInfo:
    """A task with a health check that never fails by itself."""
    info = group_task(task_id, "exec sleep 600")
    info.health_check.type = mesos_pb2.HealthCheck.COMMAND
    info.health_check.command.value = "exit 0"
    info.health_check.delay_seconds = 0.0
    info.health_check.interval_seconds = 0.2
    info.health_check.grace_period_seconds = 0.0
    info.health_check.consecutive_failures = 3
    return info


def live(wanting: Resource, seconds: float, *, rotated: bool = False) -> None:
    """One executor through all steps, each for `seconds` without the resource."""

    def act(scene: Scene) -> None:
        agent = scene.agent()
        variables = {**STAY, **(ROTATED if rotated else {})}
        executor = scene.start(agent, variables, wrap=wanting.wrap(scene))
        agent.send(launch_group(_checked("stays")))
        agent.wait(lambda: any(status.healthy for status in agent.statuses("stays")), "a healthy task")
        for name, step in STEPS.items():
            agent.send(launch(task(f"{name}-ends", "echo talks; exec sleep 600")))
            agent.wait_state(f"{name}-ends", "RUNNING")
            _without(wanting, executor, seconds, partial(step, agent, name))
            for task_id in _launched(agent, name):
                assert agent.wait_final(task_id).state != mesos_pb2.TASK_LOST
            agent.send(launch(task(f"{name}-after", "echo after; exit 0")), kill(f"{name}-ends"))
            agent.wait_state(f"{name}-after", "FINISHED")
            agent.wait_final(f"{name}-ends")
            assert agent.states("stays") == ["STARTING", "RUNNING"]
            assert executor.running
        agent.send(shutdown())
        agent.wait_state("stays", "KILLED")
        assert executor.wait_exit() == 0

    play(act, Encoding.PROTOBUF)


def _launched(agent: ScriptedAgent, name: str) -> list[str]:
    return [f"{name}-{one}" for one in ("new", "a", "b")] if name == "launch" else []


def _without(wanting: Resource, executor: Executor, seconds: float, meanwhile: Callable[[], None]) -> None:
    wanting.take(executor)
    try:
        meanwhile()
        time.sleep(seconds)
    finally:
        wanting.give(executor)
