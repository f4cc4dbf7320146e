"""Scenarios 32 to 38: tasks that cannot be, and executors that must be none the worse for it."""

from __future__ import annotations

import json
import subprocess

from mesos.v1 import mesos_pb2

from executor.protocol import Encoding
from executor.tests.scenarios import processes
from executor.tests.scenarios.events import group_task, kill, launch, launch_group, shutdown, task
from executor.tests.scenarios.scene import Scene, scenario
from executor.tests.scenarios.scripted_agent import ScriptedAgent
from executor.tests.scenarios.strangers import as_user

STAY = {"MESOKIT_STAY": "true"}
INVALID = mesos_pb2.TaskStatus.REASON_TASK_INVALID


def _argv(task_id: str, *words: str) -> mesos_pb2.TaskInfo:
    return task(task_id, command={"shell": False, "value": words[0], "arguments": list(words)})


def _failed(agent: ScriptedAgent, task_id: str, text: str) -> mesos_pb2.TaskStatus:
    """FAILED with that text, and no RUNNING before it."""
    final = agent.wait_final(task_id)
    assert final.state == mesos_pb2.TASK_FAILED
    assert text in final.message
    assert "RUNNING" not in agent.states(task_id)
    return final


@scenario()
def test_32_missing_program(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(_argv("t", "/no/such/program", "x")))
    _failed(agent, "t", "No such file or directory")
    assert executor.wait_exit() == 0


@scenario()
def test_33_programs_that_cannot_start(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    scene.path("plain").write_text("#!/bin/sh\n")
    script = scene.path("script")
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    agent.send(
        launch(_argv("not executable", "./plain")),
        launch(_argv("interpreter", "./script")),
        launch(_argv("too long", "/bin/true", "x" * 200_000)),
        launch(_argv("a directory", "/etc")),
    )
    _failed(agent, "not executable", "Permission denied")
    _failed(agent, "interpreter", "interpreter '/no/such/interpreter'")
    _failed(agent, "too long", "Argument list too long")
    _failed(agent, "a directory", "Permission denied")

    away = scene.directory / "away"
    scene.sandbox.rename(away)
    agent.send(launch(task("no directory", "exit 0")))
    _failed(agent, "no directory", "No such file or directory")
    away.rename(scene.sandbox)

    agent.send(launch(task("good", "exit 0")))
    agent.wait_state("good", "FINISHED")
    assert executor.running


@scenario(Encoding.PROTOBUF)
def test_33_no_more_processes(scene: Scene) -> None:
    uid = 61000 + scene.sandbox.stat().st_ino % 4000
    agent = scene.agent()
    identity = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    executor = scene.start(agent, STAY, wrap=as_user(uid))
    agent.send(launch(task("before", "exit 0")))
    agent.wait_state("before", "FINISHED")

    def limit(processes_of_user: int) -> None:
        for pid in executor.own_pids():
            command = ["/usr/bin/prlimit", f"--pid={pid}", f"--nproc={processes_of_user}:"]
            subprocess.run(["/usr/bin/setpriv", *identity, *command], check=True)

    limit(1)
    agent.send(launch(task("refused", "exit 0")))
    _failed(agent, "refused", "Resource temporarily unavailable")
    limit(500)
    agent.send(launch(task("after", "exit 0")))
    agent.wait_state("after", "FINISHED")


@scenario()
def test_34_no_command(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(launch(task("good", "exec sleep 600")))
    agent.wait_state("good", "RUNNING")
    bad = {
        "none": task("none"),
        "empty": task("empty", data=b""),
        "binary": task("binary", data=b"\xff\xfe{"),
        "not an object": task("not an object", data=b"[1, 2]"),
        "no command": task("no command", data=b'{"comand": "exit 0"}'),
        "wrong type": task("wrong type", data=b'{"command": 5}'),
        "no value": task("no value", data=b'{"shell": true}'),
        "nul": task("nul", data=json.dumps({"command": "exit 0\0"}).encode()),
    }
    for info in bad.values():
        agent.send(launch(info))
    group = [group_task("g1"), group_task("g2", "exec sleep 600")]
    agent.send(launch_group(*group))
    for name in (*bad, "g1"):
        final = agent.wait_final(name)
        assert final.state in {mesos_pb2.TASK_ERROR, mesos_pb2.TASK_FAILED}, name
        assert final.reason == INVALID, name
        assert final.message
        assert "RUNNING" not in agent.states(name)
    agent.wait_state("g2", "KILLED")
    agent.send(launch(task("after", "exit 0")))
    agent.wait_state("after", "FINISHED")
    assert agent.states("good") == ["STARTING", "RUNNING"]
    assert executor.running


SECRET = "-".join(["correct", "horse", "battery"])


def _with_secret(info: mesos_pb2.TaskInfo, reference: bool) -> mesos_pb2.TaskInfo:
    variable = info.command.environment.variables.add(name="PASSWORD")
    variable.type = mesos_pb2.Environment.Variable.SECRET
    if reference:
        variable.secret.type = mesos_pb2.Secret.REFERENCE
        variable.secret.reference.name = "vault/password"
    else:
        variable.secret.type = mesos_pb2.Secret.VALUE
        variable.secret.value.data = SECRET.encode()
    return info


@scenario()
def test_35_secrets(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {**STAY, "MESOKIT_LOG_LEVEL": "debug"})
    agent.send(launch_group(_with_secret(group_task("value", 'printf "%s" "$PASSWORD" >got'), False)))
    agent.wait_state("value", "FINISHED")
    got = scene.path("got")
    assert got.read_text() == SECRET
    got.unlink()
    agent.send(launch_group(_with_secret(group_task("reference", "touch ran"), True)))
    final = agent.wait_final("reference")
    assert final.state in {mesos_pb2.TASK_ERROR, mesos_pb2.TASK_FAILED}
    assert final.reason == INVALID
    assert "PASSWORD" in final.message
    assert not scene.path("ran").exists()
    assert executor.running
    for file in scene.sandbox.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


@scenario()
def test_36_task_id_used_twice(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(launch(task("t", "echo one >>log; exec sleep 600")), launch(task("done", "echo one >>log")))
    agent.wait_state("t", "RUNNING")
    agent.wait_state("done", "FINISHED")
    agent.send(
        launch(task("t", "echo two >>log; exec sleep 600")),
        launch(task("done", "echo two >>log")),
        launch_group(group_task("t", "echo three >>log"), group_task("other", "exit 0")),
        launch(task("after", "exit 0")),
    )
    agent.wait_state("after", "FINISHED")
    agent.wait_state("other", "FINISHED")
    processes.wait_until(lambda: scene.text("log") == "one\none\n", "each ran once")
    assert agent.states("t") == ["STARTING", "RUNNING"]
    assert agent.states("done")[-1] == "FINISHED"
    assert len(executor.task_pids()) == 1
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")


@scenario()
def test_37_group_with_a_member_that_cannot_start(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(
        launch_group(
            group_task("first", "exec sleep 600"),
            group_task("second", argv=["/no/such/program"]),
            group_task("third", "exec sleep 600"),
        )
    )
    _failed(agent, "second", "No such file or directory")
    agent.wait_state("first", "KILLED")
    agent.wait_state("third", "KILLED")
    executor.wait_no_tasks()
    assert executor.wait_exit() == 0


@scenario()
def test_38_launch_after_shutdown(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {"MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "20secs"})
    slow = "trap 'touch leaving; sleep 1; exit 0' TERM; touch ready; while :; do sleep 0.05; done"
    agent.send(launch(task("slow", slow)))
    processes.wait_until(lambda: scene.path("ready").exists(), "the task's trap")
    agent.send(shutdown())
    processes.wait_until(lambda: scene.path("leaving").exists(), "the task's end")
    agent.send(launch(task("late", "touch late")), launch_group(group_task("g", "touch late")))
    for name in ("slow", "late", "g"):
        agent.wait_state(name, "KILLED")
    assert executor.wait_exit() == 0
    assert not scene.path("late").exists()
    assert agent.states("late") == agent.states("g") == ["KILLED"]
