"""What one task does, or is, that must not be felt by another."""

from __future__ import annotations

import json

from mesos.v1 import mesos_pb2

from executor.process.tests.fixtures import unopenable
from executor.protocol import Encoding
from executor.tests.scenarios.addresses import Unix
from executor.tests.scenarios.events import group_task, kill, launch, launch_group, task
from executor.tests.scenarios.scene import Scene, play, scenario

STAY = {"MESOKIT_STAY": "true"}


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


STOPS = "i=0; while [ $i -lt 20 ]; do kill -STOP $PPID; i=$((i + 1)); done; exit 3"


@scenario()
def test_a_task_that_stops_the_warden_stops_nothing(scene: Scene) -> None:
    """The warden is every task's parent, and a task of the executor's own user may signal it."""
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("other", "exec sleep 1000")))
    agent.wait_state("other", "RUNNING")
    agent.send(launch(task("stops", STOPS)))
    assert agent.wait_state("stops", "FAILED").message == "Command exited with status 3"
    agent.send(kill("other"))
    agent.wait_state("other", "KILLED")
    assert executor.wait_exit() == 0
    assert "was stopped" in executor.log


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
