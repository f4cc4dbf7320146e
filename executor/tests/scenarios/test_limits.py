"""Scenarios 80 to 90 and 92: limits, hostile surroundings, and what may never be seen."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

from mesos.v1 import mesos_pb2

from executor.protocol import Encoding
from executor.tests.scenarios import processes
from executor.tests.scenarios.events import group_task, kill, launch, launch_group, seconds, shutdown, task
from executor.tests.scenarios.executor_process import AGENT_PATH, program
from executor.tests.scenarios.scene import KILLING_STATE, Scene, scenario
from executor.tests.scenarios.strangers import as_user

STAY = {"MESOKIT_STAY": "true"}
STUBBORN = "trap '' TERM; touch ready; while :; do sleep 0.1; done"
COMPLETION = mesos_pb2.TaskStatus.REASON_MAX_COMPLETION_TIME_REACHED


@scenario()
def test_80_max_completion_time(scene: Scene) -> None:
    agent = scene.agent(capabilities=[KILLING_STATE])
    scene.start(agent, STAY)
    late = group_task("late", "exec sleep 600")
    late.max_completion_time.CopyFrom(seconds(0.5))
    mate = group_task("mate", "exec sleep 600")
    slow = group_task("slow", "trap 'sleep 2; exit 0' TERM; touch ready; while :; do sleep 0.05; done")
    slow.max_completion_time.CopyFrom(seconds(2))
    agent.send(launch_group(late, mate), launch_group(slow))
    processes.wait_until(scene.path("ready").exists, "the task's trap")
    agent.send(kill("slow", 600))
    final = agent.wait_state("late", "FAILED")
    assert final.reason == COMPLETION
    assert agent.states("late") == ["STARTING", "RUNNING", "FAILED"]
    agent.wait_state("mate", "KILLED")
    killed = agent.wait_state("slow", "KILLED")
    assert killed.reason != COMPLETION
    assert "exited with status 0" in killed.message


@scenario()
def test_81_policy_of_a_group(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(
        launch_group(
            group_task("zero", "exit 0"),
            group_task("bad", "until test -e go; do sleep 0.05; done; exit 1"),
            group_task("other", "exec sleep 600"),
        ),
        launch_group(group_task("elsewhere", "exec sleep 600")),
    )
    agent.wait_state("zero", "FINISHED")
    agent.wait_state("bad", "RUNNING")
    agent.wait_state("elsewhere", "RUNNING")
    time.sleep(0.2)
    assert agent.states("bad") == agent.states("other") == ["STARTING", "RUNNING"]
    scene.path("go").touch()
    agent.wait_state("bad", "FAILED")
    agent.wait_state("other", "KILLED")
    assert agent.states("elsewhere") == ["STARTING", "RUNNING"]
    agent.send(kill("elsewhere"))
    agent.wait_state("elsewhere", "KILLED")
    assert executor.wait_exit() == 0


@scenario()
def test_82_two_members_killed_at_once(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    names = ["a", "b", "c"]
    agent.send(launch_group(*(group_task(name, "exec sleep 600") for name in names)))
    for name in names:
        agent.wait_state(name, "RUNNING")
    agent.send(kill("a"), kill("b"))
    for name in names:
        agent.wait_state(name, "KILLED")
        assert agent.states(name) == ["STARTING", "RUNNING", "KILLED"]
    assert executor.wait_exit() == 0


def _on_small_disk(scene: Scene) -> list[str]:
    """Wrapper: the sandbox is a small file system, seen by the executor and its tasks alone.

    A one-file bundle unpacks into its sandbox and needs that much more.
    """
    size = "64m" if "MESOKIT_EXECUTOR" in os.environ else "256k"
    mount = f"mount -t tmpfs -o size={size},mode=777 small {scene.sandbox}"
    script = f'{mount} && cd {scene.sandbox} && exec "$@"'
    return ["/usr/bin/unshare", "--mount", "--propagation=private", "/bin/sh", "-c", script, "sh"]


@scenario()
def test_83_disk_full(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(
        agent,
        {**STAY, "MESOKIT_OUTPUT_SIZE": "64KB", "MESOKIT_LOG_LEVEL": "debug"},
        wrap=_on_small_disk(scene),
    )
    agent.send(launch(task("fill", "dd if=/dev/zero of=fill bs=4096; echo full; exit 0")))
    agent.wait_state("fill", "FINISHED")
    agent.send(launch(task("talks", "head -c 500000 /dev/zero; exit 0")))
    agent.wait_final("talks")
    for number in range(20):
        agent.send(launch(task(f"t{number}", "exit 0")))
        agent.wait_state(f"t{number}", "FINISHED")
    assert executor.running


@scenario()
def test_83_log_that_cannot_be_written(scene: Scene) -> None:
    for number, log in enumerate(("/dev/full", "/proc/no/such/log")):
        stage = scene.another()
        agent = stage.agent()
        executor = stage.start(agent, {"MESOKIT_LOG_FILE": log})
        agent.send(launch(task(f"t{number}", "exit 0")))
        agent.wait_state(f"t{number}", "FINISHED")
        assert executor.wait_exit() == 0


@scenario(Encoding.PROTOBUF)
def test_84_clock_jumps(scene: Scene) -> None:
    library, shift = scene.directory / "clock_shift.so", scene.directory / "shift"
    source = Path(__file__).with_name("clock_shift.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    shift.write_text("0")
    agent = scene.agent()
    executor = scene.start(
        agent, {**STAY, "LD_PRELOAD": str(library), "CLOCK_SHIFT": str(shift), "MESOKIT_WATCHDOG": "10mins"}
    )
    patient = group_task("patient", "exec sleep 600")
    patient.max_completion_time.CopyFrom(seconds(600))
    agent.send(launch_group(patient))
    agent.send(launch(task("stubborn", STUBBORN)))
    processes.wait_until(scene.path("ready").exists, "the task's trap")
    agent.wait_state("patient", "RUNNING")

    shift.write_text("3600")
    agent.send(kill("stubborn", 600))
    agent.send(launch(task("in an hour", "exit 0")))
    later = agent.wait_state("in an hour", "FINISHED")
    assert later.timestamp > time.time() + 3000
    assert agent.states("stubborn") == ["STARTING", "RUNNING"]

    shift.write_text("-3600")
    agent.send(kill("stubborn", 0.5))
    earlier = agent.wait_state("stubborn", "KILLED")
    assert earlier.timestamp < time.time() - 3000
    assert [one.state for one in agent.statuses("patient")] == [
        mesos_pb2.TASK_STARTING,
        mesos_pb2.TASK_RUNNING,
    ]
    assert len(agent.streams) == 1
    assert executor.running


@scenario()
def test_85_poor_surroundings(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, wrap=as_user(54321, poor_tmp=True))
    agent.send(launch(task("t", "id -u >uid; exit 0")))
    agent.wait_state("t", "FINISHED")
    assert executor.wait_exit() == 0
    assert scene.path("uid").read_text() == "54321\n"
    assert not {"HOME", "LANG", "TMPDIR"} & set(executor.environment)


@scenario()
def test_86_environment_of_a_task(scene: Scene) -> None:
    agent = scene.agent(token="-".join(["never", "seen"]))
    executor = scene.start(agent, {"FROM_THE_AGENT": "yes", "LD_LIBRARY_PATH": "/opt/operator/lib"})
    agent.send(
        launch(task("t", "cat /proc/self/environ >environ", role="web/blue", env={"OF_THE_TASK": "ü"}))
    )
    agent.wait_state("t", "FINISHED")
    assert executor.wait_exit() == 0
    pairs = scene.path("environ").read_bytes().decode().split("\0")[:-1]
    seen = dict(pair.split("=", 1) for pair in pairs)
    assert seen["MESOS_SANDBOX"] == str(scene.sandbox)
    assert seen["MESOS_ALLOCATION_ROLE"] == "web/blue"
    assert seen["FROM_THE_AGENT"] == "yes"
    assert seen["OF_THE_TASK"] == "ü"
    assert seen["PATH"] == AGENT_PATH
    assert seen["LD_LIBRARY_PATH"] == "/opt/operator/lib"
    for name in seen:
        assert not name.startswith(("_MEI", "_PYI", "PYTHON")), name
    assert "MESOS_EXECUTOR_AUTHENTICATION_TOKEN" not in seen
    assert "LC_CTYPE" not in seen


@scenario()
def test_87_user_switch(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(
        launch(task("nobody", command={"value": "id -un; id -gn; id -Gn; :", "user": "nobody"})),
        launch(task("unknown", command={"value": "exit 0", "user": "no-such-user"})),
    )
    agent.wait_state("nobody", "FINISHED")
    final = agent.wait_state("unknown", "FAILED")
    assert "no-such-user" in final.message
    assert "RUNNING" not in agent.states("unknown")
    assert executor.stdout.split("\n")[:3] == ["nobody", "nogroup", "nogroup"]


@scenario()
def test_88_more_than_the_executor_has(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY, wrap=as_user(54322))
    limit = group_task("limit", "exit 0")
    limit.container.type = mesos_pb2.ContainerInfo.MESOS
    limit.container.rlimit_info.rlimits.add(type=mesos_pb2.RLimitInfo.RLimit.RLMT_NICE, hard=40, soft=40)
    capability = group_task("capability", "exit 0")
    capability.container.type = mesos_pb2.ContainerInfo.MESOS
    capability.container.linux_info.effective_capabilities.capabilities.append(
        mesos_pb2.CapabilityInfo.NET_ADMIN
    )
    modest = group_task("modest", "ulimit -n >files")
    modest.container.type = mesos_pb2.ContainerInfo.MESOS
    modest.container.rlimit_info.rlimits.add(type=mesos_pb2.RLimitInfo.RLimit.RLMT_NOFILE, hard=64, soft=32)
    agent.send(*(launch_group(info) for info in (limit, capability, modest)))
    assert "NICE" in agent.wait_state("limit", "FAILED").message
    # Capabilities are the container's, so of the whole executor: a task of its own cannot ask for any.
    assert "linux_info" in agent.wait_state("capability", "FAILED").message
    agent.wait_state("modest", "FINISHED")
    assert scene.path("files").read_text() == "32\n"
    assert executor.running


@scenario()
def test_89_secrets_are_nowhere(scene: Scene) -> None:
    token = ".".join(["header", "claims", "signature-89"])
    secret = "-".join(["secret", "of", "scenario", "89"])
    agent = scene.agent(token=token, data=json.dumps({"command": "exit 0"}).encode())
    executor = scene.start(agent, {**STAY, "MESOKIT_LOG_LEVEL": "debug"})
    info = group_task("t", "touch ready; exec sleep 600", env={"PLAIN_BUT_PRIVATE": secret})
    variable = info.command.environment.variables.add(name="HIDDEN")
    variable.type = mesos_pb2.Environment.Variable.SECRET
    variable.secret.type = mesos_pb2.Secret.VALUE
    variable.secret.value.data = secret.encode()
    agent.send(launch_group(info))
    processes.wait_until(scene.path("ready").exists, "the task")
    agent.wait_state("t", "RUNNING")
    agent.send(launch(task("broken", command={"value": "exit 0", "user": "nobody-89", "shell": secret})))
    agent.wait_final("broken")
    agent.restart()
    agent.subscription(2)
    shown = b"".join(_asked(scene.path("mesokit.sock"), path) for path in ("/", "/metrics"))
    assert shown
    commands = [" ".join(processes.command_line(pid)) for pid in executor.remaining()]
    agent.send(shutdown())
    agent.wait_state("t", "KILLED")
    executor.wait_exit()
    texts = [file.read_bytes() for file in scene.sandbox.rglob("*") if file.is_file()]
    texts += [shown, *(text.encode() for text in commands)]
    texts += [status.SerializeToString() for known in agent.ledger.updates.values() for status in known]
    for text in texts:
        for value in (token, secret):
            assert value.encode() not in text


def _asked(path: Path, resource: str) -> bytes:
    """Everything that the inspect endpoint answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(f"GET {resource} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def test_90_version_and_help() -> None:
    for option, expected in (("--version", "mesokit"), ("--help", "MESOS_AGENT_ENDPOINT")):
        done = subprocess.run(
            [*program(), option], env={"PATH": AGENT_PATH}, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout
        assert done.stderr == ""


@scenario(Encoding.PROTOBUF)
def test_92_cold_start_under_load(scene: Scene) -> None:
    burners = [subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"]) for _ in range(2)]
    try:
        agent = scene.agent()
        executor = scene.start(agent)
        agent.send(launch(task("t", "exec sleep 600")))
        agent.wait_state("t", "RUNNING")
        assert processes.memory(executor.pid) < 40 << 20
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0
