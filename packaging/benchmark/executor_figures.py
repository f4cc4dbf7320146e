"""Measures an executor against a scripted agent. Runs inside the private node.

    python executor_figures.py ROUNDS [PROGRAM] > figures.json
    python executor_figures.py ROUNDS --floor PROGRAM > figures.json      executor_floor.c, asked for the same
    python executor_figures.py TASKS --tasks PROGRAM > figures.json       one executor, many short tasks

Each round is one executor with one task, from its exec to its exit. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import calls
from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol import Encoding
from executor.tests.scenarios import acknowledgements
from executor.tests.scenarios.events import acknowledged, launch, task
from executor.tests.scenarios.executor_process import Executor
from executor.tests.scenarios.ledger import TERMINAL, state_name
from executor.tests.scenarios.processes import wait_until
from executor.tests.scenarios.scene import Scene
from executor.tests.scenarios.scripted_agent import ScriptedAgent

SETTLE_SECONDS = 1.0
AT_ONCE = 64  # tasks that run beside each other
Figures = dict[str, list[float]]


def arrival(agent: ScriptedAgent, state: str) -> float:
    """When the update with that state came."""
    for entry in agent.calls(executor_pb2.Call.UPDATE):
        if entry.call is not None and state_name(entry.call.update.status) == state:
            return entry.at
    raise AssertionError(f"no update {state}")


def size(pids: list[int]) -> int:
    """Proportional shares of memory added up, in bytes."""
    return sum(calls.pss(pid) for pid in pids)


def ended(executor: Executor) -> float:
    """The moment at which the executor's process ends."""
    descriptor = os.pidfd_open(executor.process.pid)
    try:
        select.select([descriptor], [], [])
        return time.monotonic()
    finally:
        os.close(descriptor)


def measure(scene: Scene, figures: Figures) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.all_but_terminal
    began = time.monotonic()
    executor = scene.start(agent)
    agent.subscription()
    figures["exec to SUBSCRIBE"].append(agent.subscribes()[0].at - began)

    sent = time.monotonic()
    agent.send(launch(task("t", "echo $$ >pid.new; mv pid.new pid; exec sleep 1000")))
    agent.wait_state("t", "RUNNING")
    figures["LAUNCH to RUNNING"].append(arrival(agent, "RUNNING") - sent)

    wait_until(scene.path("pid").exists, "the task runs")
    time.sleep(SETTLE_SECONDS)
    pid = int(scene.path("pid").read_text())
    figures["memory (PSS)"].append(size([each for each in executor.remaining() if each != pid]))

    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    final = agent.wait_final("t")
    figures["task's exit to its update"].append(arrival(agent, state_name(final)) - killed)

    time.sleep(0.1)
    sent = time.monotonic()
    agent.send(acknowledged("t", final.uuid))
    figures["last acknowledgement to exit"].append(ended(executor) - sent)
    executor.wait_exit()


def measure_many(scene: Scene, tasks: int) -> Figures:
    """Tasks of 10 ms: the whole time by their number, and the executor's and its warden's processor time. The
    agent, which is Python too, takes the processor beside them.
    """
    room = threading.Semaphore(AT_ONCE)

    def acknowledge(status: mesos_pb2.TaskStatus) -> acknowledgements.Acknowledge:
        if status.state in TERMINAL:
            room.release()
        return acknowledgements.at_once(status)

    agent = scene.agent()
    agent.acks = acknowledge
    executor = scene.start(agent, {"MESOKIT_STAY": "true"})
    agent.subscription()
    pids = executor.remaining()
    spent, began = sum(map(processor, pids)), time.monotonic()
    early = [0.0, 0.0]
    for number in range(tasks):
        assert room.acquire(timeout=60)
        if number == tasks // 20:
            early = [size(pids), descriptors(pids)]
        agent.send(launch(task(f"t{number}", "exec sleep 0.01")))
    for _ in range(AT_ONCE):
        assert room.acquire(timeout=60)
    seconds = time.monotonic() - began
    return {
        "tasks a second": [tasks / seconds],
        "processor time a task": [(sum(map(processor, pids)) - spent) / tasks],
        "memory (PSS) after a twentieth of them": early[:1],
        "memory (PSS) after them": [size(pids)],
        "descriptors after a twentieth of them": early[1:],
        "descriptors after them": [descriptors(pids)],
    }


def descriptors(pids: list[int]) -> int:
    """Open files of all of them."""
    return sum(1 for pid in pids for _ in Path(f"/proc/{pid}/fd").iterdir())


def processor(pid: int) -> float:
    """Seconds that its threads have run."""
    found = 0
    for each in Path(f"/proc/{pid}/task").iterdir():
        found += int((each / "schedstat").read_text().split()[0])
    return found / 1e9


def measure_floor(program: str, figures: Figures) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)

    def heard(kind: bytes, more: int = 0) -> bytes:
        found = ours.recv(1 + more, socket.MSG_WAITALL)
        assert found[:1] == kind, found
        return found[1:]

    with ours, theirs:
        began = time.monotonic()
        process = subprocess.Popen([program], stdin=theirs.fileno())
        heard(b"S")
        figures["exec to SUBSCRIBE"].append(time.monotonic() - began)
        sent = time.monotonic()
        ours.send(b"L")
        pid = int.from_bytes(heard(b"R", 4), sys.byteorder)
        figures["LAUNCH to RUNNING"].append(time.monotonic() - sent)
        time.sleep(SETTLE_SECONDS)
        figures["memory (PSS)"].append(size([process.pid]))
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        heard(b"E")
        figures["task's exit to its update"].append(time.monotonic() - killed)
        sent = time.monotonic()
        ours.send(b"A")
        assert process.wait(60) == 0
        figures["last acknowledgement to exit"].append(time.monotonic() - sent)


def main() -> None:
    rounds, program = int(sys.argv[1]), sys.argv[2:]
    if program[:1] == ["--tasks"]:
        os.environ["MESOKIT_EXECUTOR"] = program[1]
        scene = Scene(Encoding.PROTOBUF)
        try:
            json.dump(measure_many(scene, rounds), sys.stdout)
        finally:
            scene.close()
        return
    names = ("exec to SUBSCRIBE", "LAUNCH to RUNNING", "task's exit to its update")
    figures: Figures = {name: [] for name in (*names, "last acknowledgement to exit", "memory (PSS)")}
    if len(program) == 1:
        os.environ["MESOKIT_EXECUTOR"] = program[0]
    for _ in range(rounds):
        if program[:1] == ["--floor"]:
            measure_floor(program[1], figures)
            continue
        scene = Scene(Encoding.PROTOBUF)
        try:
            measure(scene, figures)
        finally:
            scene.close()
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
