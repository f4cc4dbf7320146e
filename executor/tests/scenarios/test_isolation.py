"""What one task does, or is, that must not be felt by another."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from mesos.v1 import mesos_pb2

from executor.protocol import Encoding
from executor.tests.scenarios.addresses import Unix
from executor.tests.scenarios.events import group_task, kill, launch, launch_group, task
from executor.tests.scenarios.scene import Scene, play, scenario

STAY = {"MESOKIT_STAY": "true"}


@contextlib.contextmanager
def unopenable(path: Path) -> Iterator[None]:
    """A program that cannot be executed or fail to be for as long: a lease on it makes every open wait, as a
    dead file server does."""
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(descriptor)
        signal.signal(signal.SIGIO, before)


def _hanging(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent, STAY)
    words = {"shell": False, "value": str(scene.path("hangs")), "arguments": ["hangs"]}
    agent.send(launch(task("given up", command=words)), launch(task("killed", command=words, grace=0.5)))
    agent.wait_state("killed", "STARTING")
    agent.send(launch(task("other", "exit 0")))
    agent.wait_state("other", "FINISHED")
    agent.send(kill("killed"))
    agent.wait_state("killed", "KILLED")
    assert agent.states("given up") == ["STARTING"]
    agent.send(launch(task("one more", "exit 0")))
    agent.wait_state("one more", "FINISHED")
    final = agent.wait_state("given up", "FAILED")
    assert "did not start within the time allowed" in final.message


def test_a_start_that_hangs_is_its_own_tasks_matter() -> None:
    def act(scene: Scene) -> None:
        with unopenable(scene.path("hangs")):
            _hanging(scene)

    play(act, Encoding.PROTOBUF)


@scenario()
def test_descriptions_that_nobody_can_read_end_themselves_alone(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(launch(task("good", "exec sleep 600")))
    agent.wait_state("good", "RUNNING")
    for number in range(30):
        document = {"command": {"value\0": "exit 0", "shell\0x": {}, "environment\0": 3}}
        agent.send(launch(task(f"bad{number}", data=json.dumps(document).encode())))
    for number in range(30):
        final = agent.wait_final(f"bad{number}")
        assert (final.state, final.reason) == (
            mesos_pb2.TASK_FAILED,
            mesos_pb2.TaskStatus.REASON_TASK_INVALID,
        )
    agent.send(launch(task("after", "exit 0")))
    agent.wait_state("after", "FINISHED")
    assert agent.states("good") == ["STARTING", "RUNNING"]
    assert executor.running


@scenario()
def test_a_limit_of_infinity_as_it_is_written_on_the_wire(scene: Scene) -> None:
    agent = scene.agent()
    scene.start(agent, STAY)
    info = group_task("t", "ulimit -c >limit; exit 0")
    limit = info.container.rlimit_info.rlimits.add()
    info.container.type = mesos_pb2.ContainerInfo.MESOS
    limit.type = mesos_pb2.RLimitInfo.RLimit.RLMT_CORE
    limit.soft, limit.hard = 0, 2**64 - 1
    agent.send(launch_group(info))
    agent.wait_state("t", "FINISHED")
    assert scene.text("limit") == "0\n"


@scenario()
def test_a_container_with_networks_of_its_own_is_told_its_address(scene: Scene) -> None:
    """Over the agent's domain socket, where no connection tells it; IPv6 alone as well."""
    for number, address in enumerate(("10.1.2.3/24", "fd00::7/64 nodad")):
        stage = scene.another()
        agent = stage.agent(Unix(stage.directory / "agent.sock"))
        script = (
            "ip link set lo up; ip link add eth0 type veth peer name other; ip link set eth0 up; "
            f'ip addr add {address.split()[0]} dev eth0 {" ".join(address.split()[1:])}; exec "$@"'
        )
        executor = stage.start(
            agent,
            {"LIBPROCESS_IP": "0.0.0.0"},
            wrap=["/usr/bin/unshare", "--net", "/bin/sh", "-ec", script, "sh"],
        )
        agent.send(launch(task(f"t{number}", 'printf "%s" "$MESOS_CONTAINER_IP" >address; exit 0')))
        agent.wait_state(f"t{number}", "FINISHED")
        assert stage.text("address") == address.split("/")[0]
        assert executor.wait_exit() == 0
