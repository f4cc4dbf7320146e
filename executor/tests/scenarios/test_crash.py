"""Scenarios 63 to 66: zombies, sudden death, signals, and long lives."""

from __future__ import annotations

import os
import signal

from executor.protocol import Encoding
from executor.tests.scenarios import processes
from executor.tests.scenarios.events import group_task, launch, launch_group, task
from executor.tests.scenarios.ledger import state_name
from executor.tests.scenarios.scene import Scene, scenario, together

STAY = {"MESOKIT_STAY": "true"}


@scenario(Encoding.PROTOBUF)
def test_63_orphans_and_exit_codes(scene: Scene) -> None:
    """Orphans are adopted and reaped without an exit status of a task being taken for one of theirs."""
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    orphans = "i=0; while [ $i -lt 50 ]; do (sleep 0.0$i &); i=$((i+1)); done; sleep 0.2; exit $CODE"
    codes = {f"t{code}": code for code in range(1, 9)}
    agent.send(*(launch(task(name, orphans, env={"CODE": str(code)})) for name, code in codes.items()))
    for name, code in codes.items():
        assert f"exited with status {code}" in agent.wait_state(name, "FAILED").message
    processes.wait_until(
        lambda: not any(processes.zombies_of(pid) for pid in [*executor.own_pids(), executor.pid]),
        "no zombie",
    )
    executor.wait_no_tasks()


@scenario(Encoding.JSON)
def test_63_daemons_of_tasks_that_ended(scene: Scene) -> None:
    """The parents of a daemon end while the executor looks for what the task has left behind."""
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    leaver = "(setsid sh -c 'trap \"\" TERM HUP; sleep 600; :' &); exit 3"
    names = [f"t{number}" for number in range(60)]
    for start in range(0, 60, 6):
        agent.send(*(launch(task(name, leaver)) for name in names[start : start + 6]))
        for name in names[start : start + 6]:
            agent.wait_state(name, "FAILED")
    executor.wait_no_tasks()


@scenario()
def test_64_executor_killed(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    escaped = (
        "trap '' TERM; (setsid sh -c 'trap \"\" TERM HUP; touch escaped; exec sleep 600' &); sleep 600; :"
    )
    agent.send(launch(task("escaped", escaped)), launch(task("gentle", "exec sleep 600")))
    agent.wait_state("gentle", "RUNNING")
    agent.wait_state("escaped", "RUNNING")
    processes.wait_until(scene.path("escaped").exists, "the daemon")
    assert len(executor.task_pids()) >= 3
    os.kill(executor.pid, signal.SIGKILL)
    executor.wait_exit()
    processes.wait_until(
        lambda: not executor.remaining(),
        lambda: f"nothing left; there is {[processes.command_line(pid) for pid in executor.remaining()]}",
    )


@scenario()
def test_65_signals_to_the_executor(scene: Scene) -> None:
    def signalled(*signals: signal.Signals) -> None:
        stage = scene.another()
        agent = stage.agent()
        executor = stage.start(agent)
        stubborn = "trap '' TERM; touch ready; while :; do sleep 0.1; done"
        agent.send(
            launch(task("gentle", "exec sleep 600")),
            launch(task("stubborn", stubborn)),
        )
        agent.wait_state("gentle", "RUNNING")
        processes.wait_until(stage.path("ready").exists, "the task's trap")
        for number in signals:
            os.kill(executor.pid, number)
        agent.wait_state("gentle", "KILLED")
        agent.wait_state("stubborn", "KILLED")
        assert executor.wait_exit() == 0
        assert "Traceback" not in executor.stderr + executor.log

    together(
        lambda: signalled(signal.SIGTERM),
        lambda: signalled(signal.SIGINT),
        lambda: signalled(signal.SIGTERM, signal.SIGINT, signal.SIGTERM),
    )


@scenario(Encoding.PROTOBUF)
def test_66_nothing_grows(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    figures: list[tuple[int, int, int]] = []
    for batch in range(12):
        names = [f"{batch}-{number}" for number in range(10)]
        agent.send(*(launch(task(name, "exit 0")) for name in names[:5]))
        agent.send(launch_group(*(group_task(name, "exit 0") for name in names[5:])))
        for name in names:
            agent.wait_state(name, "FINISHED")
        if batch % 4 == 3:
            agent.restart()
            agent.subscription(len(figures) + 2)
            pid = executor.pid
            processes.wait_until(lambda: not processes.zombies_of(executor.pid), "no zombie")
            figures.append((processes.threads(pid), processes.descriptors(pid), processes.memory(pid)))
    threads, descriptors, memory = zip(*figures, strict=True)
    assert threads[-1] <= threads[0] + 1
    assert descriptors[-1] <= descriptors[0] + 2
    assert memory[-1] <= memory[0] + (3 << 20)
    assert all(
        [state_name(one) for one in agent.statuses(name)] == ["STARTING", "RUNNING", "FINISHED"]
        for name in list(agent.ledger.updates)
    )
