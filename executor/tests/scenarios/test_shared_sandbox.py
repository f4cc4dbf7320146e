"""One sandbox for root's executor and for tasks of several users, some of them hostile."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from mesos.v1 import mesos_pb2

from executor.protocol import Encoding
from executor.tests.attacks.watch import make_outside, picture
from executor.tests.scenarios.events import group_task, kill, launch_group, shutdown
from executor.tests.scenarios.processes import wait_until
from executor.tests.scenarios.scene import Scene, scenario

STAY = {"MESOKIT_STAY": "true"}
OUTPUT = {**STAY, "MESOKIT_OUTPUT_SIZE": "4KB"}


def of_user(user: str, task_id: str, script: str) -> mesos_pb2.TaskInfo:
    info = group_task(task_id, script)
    info.command.user = user
    return info


def says(scene: Scene, name: str, text: str) -> bool:
    return scene.text(name) == text


@scenario()
def test_tasks_of_two_users_work_side_by_side(scene: Scene) -> None:
    scene.sandbox.chmod(0o750)
    scene.path("fetched").write_text("fetched")
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    script = "cat fetched >{0}; until test -e {0}.go; do sleep 0.02; done; echo on >>{0}; rm {0}.go"
    for user in ("nobody", "daemon"):
        agent.send(launch_group(of_user(user, user, script.format(user))))
        wait_until(partial(says, scene, user, "fetched"), f"{user} at work")
    for user in ("nobody", "daemon"):
        scene.path(f"{user}.go").touch()
        agent.wait_state(user, "FAILED")  # it may not remove what is root's
        assert scene.text(user) == "fetchedon\n"
    status = scene.sandbox.stat()
    assert (status.st_uid, status.st_mode & 0o1007) == (0, 0o1000)
    agent.send(shutdown())
    assert executor.wait_exit() == 0


@scenario(Encoding.PROTOBUF)
def test_output_follows_no_link_of_a_tasks(scene: Scene) -> None:
    """What led root to write where the task liked: `tasks/ID` made a link before the task ID came."""
    scene.sandbox.chmod(0o750)
    outside = scene.directory / "outside"
    make_outside(outside)
    before = picture(outside)
    agent = scene.agent()
    scene.start(agent, OUTPUT)
    script = f"mv tasks away; mkdir tasks; ln -s {outside}/folder tasks/second; touch tried; exec sleep 600"
    agent.send(launch_group(of_user("nobody", "first", script)))
    wait_until(scene.path("tried").exists, "the first task's links")
    agent.send(launch_group(of_user("nobody", "second", "echo '* * * * * root true'")))
    agent.wait_state("second", "FINISHED")
    assert picture(outside) == before
    assert (scene.path("tasks") / "second" / "stdout").read_text() == "* * * * * root true\n"


@scenario(Encoding.PROTOBUF)
def test_a_progress_files_directory_gives_nothing_away(scene: Scene) -> None:
    """What made a directory anywhere, and made it the task's: a link where root goes to make one."""
    scene.sandbox.chmod(0o750)
    outside = scene.directory / "outside"
    make_outside(outside)
    before = picture(outside)
    agent = scene.agent()
    scene.start(agent, {**STAY, "MESOKIT_PROGRESS_FILE": "progress/{task}/p"})
    script = f"mv progress away; ln -s {outside}/folder progress; touch tried; exec sleep 600"
    agent.send(launch_group(of_user("nobody", "first", script)))
    wait_until(scene.path("tried").exists, "the first task's links")
    for task_id in ("second", "third"):
        agent.send(launch_group(of_user("nobody", task_id, "echo progress: 5 >$MESOKIT_PROGRESS_FILE")))
        agent.wait_final(task_id)
    assert picture(outside) == before


@scenario(Encoding.PROTOBUF)
def test_a_task_id_names_nothing_outside(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent, {**OUTPUT, "MESOKIT_PROGRESS_FILE": "progress/{task}"})
    before = sorted(path.name for path in scene.directory.iterdir())
    for task_id in ("../../up", "a/b", ".."):
        agent.send(launch_group(group_task(task_id, "echo out; echo progress: 5 >$MESOKIT_PROGRESS_FILE")))
        agent.wait_state(task_id, "FINISHED")
    assert sorted(path.name for path in scene.directory.iterdir()) == before
    names = {path.name for path in scene.path("tasks").iterdir()}
    assert names == {"..%2F..%2Fup", "a%2Fb", "%2E%2E"}
    assert {path.name for path in scene.path("progress").iterdir()} == names


@scenario(Encoding.PROTOBUF)
def test_a_directory_in_the_sockets_place_is_no_matter(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(launch_group(group_task("t", "rm mesokit.sock; mkdir -p mesokit.sock/x")))
    agent.wait_state("t", "FINISHED")
    agent.send(shutdown())
    assert executor.wait_exit() == 0
    assert "Error" not in executor.log
    assert executor.stderr == ""
    assert scene.path("mesokit.sock").is_dir()


@scenario()
def test_what_a_checks_command_writes_goes_with_the_tasks_output(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, OUTPUT)
    info = group_task("t", "echo of the task; exec sleep 600")
    info.health_check.type = mesos_pb2.HealthCheck.COMMAND
    info.health_check.command.value = "echo of the check; echo and its error >&2; exit 0"
    info.health_check.delay_seconds = info.health_check.interval_seconds = 0.05
    agent.send(launch_group(info))
    agent.wait(lambda: any(one.healthy for one in agent.statuses("t")), "the first check")
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    folder = scene.path("tasks") / "t"
    assert (folder / "stdout").read_text().startswith("of the task\nof the check\n")
    assert (folder / "stderr").read_text().startswith("and its error\n")
    assert executor.stdout == executor.stderr == ""


GROWING = """
import os
descriptor = os.open(os.environ["MESOKIT_PROGRESS_FILE"], os.O_WRONLY | os.O_CREAT, 0o644)
size = 0
while size < 8 << 40:
    size += 16 << 20
    os.ftruncate(descriptor, size)
    if size == 1 << 30:
        open("grows", "w").close()
while True:
    os.pwrite(descriptor, b"\\n", size)
"""


@scenario(Encoding.PROTOBUF)
def test_a_progress_file_that_grows_for_ever_holds_nothing_up(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, {**STAY, "MESOKIT_PROGRESS_FILE": "p"})
    scene.path("grow.py").write_text(GROWING)
    interpreter = Path(sys.executable).resolve()
    agent.send(launch_group(group_task("t", f"exec {interpreter} -I -S grow.py")))
    wait_until(scene.path("grows").exists, "a file of a gigabyte")
    agent.send(launch_group(group_task("other", "exit 0")))
    agent.wait_state("other", "FINISHED")
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    agent.send(shutdown())
    assert executor.wait_exit() == 0
