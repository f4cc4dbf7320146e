"""Many tasks: a thousand short ones (the second half of scenario 63), and two hundred that end at once."""

from __future__ import annotations

from mesos.v1 import mesos_pb2

from executor.protocol import Encoding
from executor.tests.scenarios import processes
from executor.tests.scenarios.events import launch, task
from executor.tests.scenarios.executor_process import Executor
from executor.tests.scenarios.ledger import TERMINAL
from executor.tests.scenarios.scene import Scene, scenario
from executor.tests.scenarios.scripted_agent import ScriptedAgent

STAY = {"MESOKIT_STAY": "true"}


def _each_once(agent: ScriptedAgent, names: list[str], state: int) -> None:
    """Every task has exactly one terminal update, and it is `state`."""
    for name in names:
        assert [one.state for one in agent.statuses(name) if one.state in TERMINAL] == [state], name


def _figures(executor: Executor) -> tuple[int, int, int]:
    """Threads, descriptors and bytes of memory, when no zombie is left."""
    pid = executor.pid
    processes.wait_until(lambda: not processes.zombies_of(pid), "no zombie")
    return processes.threads(pid), processes.descriptors(pid), processes.memory(pid)


@scenario(Encoding.PROTOBUF)
def test_63_a_thousand_short_tasks(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    before = (0, 0, 0)
    done: list[str] = []
    for wave in range(20):
        names = [f"{wave}.{number}" for number in range(50)]
        agent.send(*(launch(task(name, "exec sleep 0.01")) for name in names))
        for name in names:
            agent.wait_final(name, patience=90)
        done += names
        if wave == 3:
            before = _figures(executor)
    executor.wait_no_tasks()
    after = _figures(executor)
    _each_once(agent, done, mesos_pb2.TASK_FINISHED)
    assert after[0] <= before[0] + 1
    assert after[1] <= before[1] + 2
    assert after[2] <= before[2] + (4 << 20), "800 tasks more, no memory more"


@scenario(Encoding.JSON)
def test_63_two_hundred_end_at_once(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(launch(task("first", "exit 0")))
    agent.wait_final("first")
    before = _figures(executor)
    names = [f"t{number}" for number in range(200)]
    agent.send(*(launch(task(name, "while ! test -e go; do sleep 0.2; done; exit 0")) for name in names))
    for name in names:
        agent.wait_state(name, "RUNNING", patience=90)
    scene.path("go").touch()
    for name in names:
        agent.wait_final(name, patience=90)
    executor.wait_no_tasks()
    after = _figures(executor)
    _each_once(agent, names, mesos_pb2.TASK_FINISHED)
    assert after[0] <= before[0] + 1
    assert after[1] <= before[1] + 2
