"""Scenarios 24 to 31: tasks that do what they should."""

from __future__ import annotations

import json
import time

from mesos.v1 import mesos_pb2

from executor.protocol import Encoding
from executor.tests.scenarios import acknowledgements, processes
from executor.tests.scenarios.events import (
    acknowledged,
    group_task,
    kill,
    launch,
    launch_group,
    message,
    shutdown,
    task,
)
from executor.tests.scenarios.scene import Scene, scenario

STAY = {"MESOKIT_STAY": "true"}


@scenario()
def test_24_a_task_and_its_acknowledgements(scene: Scene) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.all_but_terminal
    executor = scene.start(agent)
    before = time.time()
    agent.send(launch(task("t", "exit 0")))
    final = agent.wait_state("t", "FINISHED")
    statuses = agent.statuses("t")
    assert [mesos_pb2.TaskState.Name(one.state) for one in statuses] == [
        "TASK_STARTING",
        "TASK_RUNNING",
        "TASK_FINISHED",
    ]
    assert len({one.uuid for one in statuses}) == 3
    assert all(one.executor_id.value == agent.identity.executor_id for one in statuses)
    assert all(one.source == mesos_pb2.TaskStatus.SOURCE_EXECUTOR for one in statuses)
    stamps = [one.timestamp for one in statuses]
    assert stamps == sorted(stamps)
    assert before - 1 <= stamps[0] <= stamps[-1] <= time.time() + 1
    time.sleep(0.5)
    assert executor.running
    agent.send(acknowledged("t", final.uuid))
    assert executor.wait_exit() == 0
    assert len(agent.subscribes()) == 1


@scenario()
def test_24_the_command_may_be_the_executors(scene: Scene) -> None:
    agent = scene.agent(data=b"echo from the executor >out")
    executor = scene.start(agent)
    agent.send(launch(task("t")))
    agent.wait_state("t", "FINISHED")
    assert executor.wait_exit() == 0
    assert scene.path("out").read_text() == "from the executor\n"


@scenario()
def test_25_how_a_task_ended(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(launch(task("three", "exit 3")), launch(task("segv", "ulimit -c 0; kill -SEGV $$")))
    three = agent.wait_state("three", "FAILED")
    assert "exited with status 3" in three.message
    segv = agent.wait_state("segv", "FAILED")
    assert "terminated with signal Segmentation fault" in segv.message
    # The same as data, for programs.
    assert json.loads(three.data)["exit_code"] == 3
    assert json.loads(segv.data)["signal"] == 11
    assert executor.running


@scenario()
def test_26_group_of_three(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    program = 'printf "%s|" "$@" >argv'
    agent.send(
        launch_group(
            group_task("shell", 'echo "one  two" | tr a-z A-Z >shell'),
            group_task("argv", argv=["/bin/sh", "-c", program, "sh", "a  b", "$HOME", "*", ""]),
            group_task("found", argv=["true", "in PATH"]),
        )
    )
    for name in ("shell", "argv", "found"):
        agent.wait_state(name, "FINISHED")
        assert agent.states(name) == ["STARTING", "RUNNING", "FINISHED"]
    assert scene.path("shell").read_text() == "ONE  TWO\n"
    assert scene.path("argv").read_text() == "a  b|$HOME|*||"
    assert executor.wait_exit() == 0


@scenario()
def test_27_fetched_files_are_where_the_task_is(scene: Scene) -> None:
    fetched = scene.path("fetched.sh")
    fetched.write_text("#!/bin/sh\npwd >where\necho $MESOS_SANDBOX >>where\n")
    fetched.chmod(0o755)
    agent = scene.agent()
    executor = scene.start(agent)
    info = group_task("t", "./fetched.sh")
    info.command.uris.add(value="https://repository.example/fetched.sh", executable=True)
    agent.send(launch_group(info))
    agent.wait_state("t", "FINISHED")
    assert executor.wait_exit() == 0
    assert scene.path("where").read_text() == f"{scene.sandbox}\n{scene.sandbox}\n"


@scenario()
def test_28_names_of_every_kind(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    program = 'printf "%s" "$1" >argv; printf "%s" "$WORD" >word; printf "%s\\n" "$WORD"'
    words = ["/bin/sh", "-c", program, "sh", "añ✓ 任务 \u202e"]
    names = ["tâche ✓ 任务", "with some spaces", "é" * 127 + "x", "../up", "%41", "-rf"]
    agent.send(launch_group(*(group_task(one, argv=words, env={"WORD": "Ünï ✓"}) for one in names)))
    for name in names:
        final = agent.wait_state(name, "FINISHED")
        assert final.task_id.value == name
    assert executor.wait_exit() == 0
    assert scene.path("argv").read_text() == "añ✓ 任务 \u202e"
    assert scene.path("word").read_text() == "Ünï ✓"
    assert executor.stdout.count("Ünï ✓\n") == len(names)


@scenario(Encoding.PROTOBUF)
def test_29_flood_of_output(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {**STAY, "MESOKIT_OUTPUT_SIZE": "1MB", "MESOKIT_OUTPUT_BACKUPS": "2"})
    agent.send(launch(task("before", "exit 0")))
    agent.wait_state("before", "FINISHED")
    base = processes.memory(executor.pid)
    agent.send(
        launch(task("endless", "exec yes a line of a flood")),
        launch(task("no newline", "head -c 100000000 /dev/zero")),
        launch(task("binary", "head -c 20000000 /dev/urandom >&2")),
    )
    peak = 0
    for number in range(5):
        agent.send(launch(task(f"meanwhile {number}", "exit 0")))
        agent.wait_state(f"meanwhile {number}", "FINISHED")
        peak = max(peak, processes.memory(executor.pid))
    agent.wait_state("no newline", "FINISHED")
    agent.wait_state("binary", "FINISHED")
    peak = max(peak, processes.memory(executor.pid))
    assert peak < base + (24 << 20)
    agent.send(kill("endless", 0.5))
    agent.wait_state("endless", "KILLED")
    kept = [file.stat().st_size for file in scene.sandbox.rglob("*") if file.is_file()]
    assert sum(kept) < 32 << 20
    agent.send(launch(task("after", "printf 'last word'; printf 'last error' >&2")))
    agent.wait_state("after", "FINISHED")
    assert scene.path("tasks/after/stdout").read_text() == "last word"
    assert scene.path("tasks/after/stderr").read_text() == "last error"
    assert "output lost" not in executor.log
    agent.send(shutdown())
    assert executor.wait_exit() == 0


@scenario(Encoding.JSON)
def test_29_flood_without_rotation(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("flood", "head -c 50000000 /dev/zero; printf end; printf err >&2")))
    agent.wait_state("flood", "FINISHED")
    assert (scene.sandbox / "stdout").stat().st_size >= 50000003
    assert executor.stderr.endswith("err")
    assert executor.wait_exit() == 0


@scenario()
def test_30_message_from_the_framework(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    agent.send(message(bytes(range(256)) * 4096), message(b""), kill("t"))
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0


@scenario(Encoding.PROTOBUF)
def test_31_two_hundred_at_once(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    names = [f"t{number}" for number in range(200)]
    agent.stream.raw(b"")
    agent.send(*(launch(task(name, "exec sleep 600")) for name in names))
    for name in names:
        agent.wait_state(name, "RUNNING")
    assert processes.threads(executor.pid) <= 16
    assert processes.descriptors(executor.pid) <= 64 + 6 * len(names)
    agent.send(shutdown())
    for name in names:
        agent.wait_state(name, "KILLED")
    assert executor.wait_exit() == 0
