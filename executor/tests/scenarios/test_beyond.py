"""What the built-in executors cannot: progress, rotated output, a state to look at, a guarded end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.monitoring.client import fetch, look
from executor.tests.scenarios import acknowledgements, processes
from executor.tests.scenarios.events import group_task, kill, launch, launch_group, shutdown, task
from executor.tests.scenarios.scene import Scene, scenario
from executor.tests.scenarios.scripted_agent import ScriptedAgent

STAY = {"MESOKIT_STAY": "true"}
REGEX = r"progress: ([0-9]+)(.*)"


def progress(agent: ScriptedAgent) -> list[tuple[int, int, str]]:
    """The progress messages that have come."""
    entries = agent.calls(executor_pb2.Call.MESSAGE)
    messages = [json.loads(entry.call.message.data) for entry in entries if entry.call is not None]
    return [
        (message["progress-sequence"], message["progress-percent"], message["progress-message"])
        for message in messages
        if message["task-id"] == "t"
    ]


@scenario()
def test_progress_in_the_output(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {"MESOKIT_PROGRESS_REGEX": REGEX, "MESOKIT_PROGRESS_INTERVAL": "100ms"})
    script = "echo progress: 10 begun; until test -e go; do sleep 0.05; done; echo progress: 90 end >&2"
    agent.send(launch(task("t", script)))
    agent.wait(lambda: bool(progress(agent)), "the first report")
    assert progress(agent) == [(1, 10, "begun")]
    scene.path("go").touch()
    final = agent.wait_state("t", "FINISHED")
    agent.wait(lambda: len(progress(agent)) == 2, "the last report")
    assert progress(agent)[-1] == (2, 90, "end")
    told = json.loads(final.data)
    assert (told["progress"], told["progress_message"], told["exit_code"]) == (90, "end", 0)
    assert executor.wait_exit() == 0
    assert executor.stdout == "progress: 10 begun\n"
    assert "progress: 90 end" in executor.stderr


@scenario()
def test_progress_in_a_file_of_each_task(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent, {"MESOKIT_PROGRESS_FILE": "progress/{task}", "MESOKIT_PROGRESS_INTERVAL": "100ms"})
    agent.send(
        launch_group(
            group_task("t", 'echo "progress: 50 half" >>"$MESOKIT_PROGRESS_FILE"; exec sleep 600'),
            group_task("other", 'echo "progress: 7" >>"$MESOKIT_PROGRESS_FILE"; exec sleep 600'),
        )
    )
    agent.wait(lambda: bool(progress(agent)), "the report")
    assert progress(agent) == [(1, 50, "half")]
    agent.send(kill("t"))
    final = agent.wait_state("t", "KILLED")
    assert json.loads(final.data)["progress"] == 50


@scenario()
def test_rotated_output_is_complete_before_the_end_is_told(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {**STAY, "MESOKIT_OUTPUT_SIZE": "10KB", "MESOKIT_OUTPUT_BACKUPS": "3"})
    script = "seq 1 9999; echo last; echo oops >&2; (setsid sleep 600 &); kill -9 $$"
    agent.send(launch(task("t ü", script)))
    agent.wait_state("t ü", "FAILED")
    folder = scene.path("tasks") / "t ü"
    files = [folder / name for name in ("stdout.3", "stdout.2", "stdout.1", "stdout")]
    text = b"".join(file.read_bytes() for file in files)
    assert text.endswith(b"9998\n9999\nlast\n")
    assert max(file.stat().st_size for file in files) == 10 << 10
    assert (folder / "stderr").read_text() == "oops\n"
    assert executor.stdout == ""
    executor.wait_no_tasks()


@scenario()
def test_the_state_can_be_looked_at(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    info = group_task("t", "(setsid sleep 600 &); exec sleep 600")
    check = info.health_check
    check.type = mesos_pb2.HealthCheck.COMMAND
    check.command.value = "exit 0"
    check.delay_seconds = check.interval_seconds = 0.05
    agent.send(launch_group(info), launch(task("done", "exit 0")))
    agent.wait_state("done", "FINISHED")
    agent.wait(lambda: any(status.healthy for status in agent.statuses("t")), "the first check")

    def settled() -> bool:
        return len(look(scene.sandbox)["tasks"][0]["pids"]) == 2

    processes.wait_until(settled, "two processes")
    state = look(scene.sandbox)
    assert (state["executor_id"], state["pid"]) == (agent.identity.executor_id, executor.pid)
    assert state["connection"]["phase"] == "subscribed"
    assert state["ended_by_state"] == {"FINISHED": 1}
    (seen,) = state["tasks"]
    assert (seen["id"], seen["state"], seen["healthy"]) == ("t", "RUNNING", True)
    assert seen["pid"] in seen["pids"]
    assert seen["usage"]["memory_bytes"] > 0
    assert seen["health_checks"][-1]["ok"]
    assert [change["state"] for change in seen["history"]][:2] == ["STARTING", "RUNNING"]
    assert b'mesokit_executor_task_healthy{task="t"} 1\n' in fetch(scene.sandbox, "/metrics")
    shown = subprocess.run(
        [Path(sys.executable).with_name("mesokit"), "ps", str(executor.pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"pid {executor.pid}, up 0:00:" in shown
    assert "healthy" in shown
    agent.send(shutdown())
    executor.wait_exit()
    assert not scene.path("mesokit.sock").exists()


@scenario()
def test_unacknowledged_updates_are_shown(scene: Scene) -> None:
    agent = scene.agent()
    agent.acks = acknowledgements.never
    scene.start(agent, STAY)
    agent.send(launch(task("t", "exit 0")))
    final = agent.wait_state("t", "FINISHED")
    shown = {update["uuid"]: update["state"] for update in look(scene.sandbox)["unacknowledged"]}
    assert shown[final.uuid.hex()] == "FINISHED"
    assert sorted(shown.values()) == ["FINISHED", "RUNNING", "STARTING"]


@scenario()
def test_without_descriptors_tasks_fail_and_the_others_can_be_killed(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, wrap=["prlimit", "--nofile=30:30"])
    ids = [f"t{number}" for number in range(30)]
    agent.send(*(launch_group(group_task(task_id, "exec sleep 600")) for task_id in ids))
    agent.wait(lambda: all({"RUNNING", "FAILED"} & set(agent.states(one)) for one in ids), "30 answers")
    failed = [agent.statuses(one)[-1].message for one in ids if "FAILED" in agent.states(one)]
    assert set(failed) == {"cannot start a process: Too many open files"}
    assert len(failed) < len(ids)
    agent.send(shutdown())
    assert executor.wait_exit() == 0
    assert {agent.wait_final(one).state for one in ids} == {mesos_pb2.TASK_FAILED, mesos_pb2.TASK_KILLED}


@scenario()
def test_a_killed_warden_ends_everything(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(launch(task("t", "(setsid sleep 600 &); exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    warden = look(scene.sandbox)["warden_pid"]
    os.kill(warden, signal.SIGKILL)
    assert "Killed" in agent.wait_final("t").message
    assert executor.wait_exit() == 1
    executor.wait_no_tasks()
