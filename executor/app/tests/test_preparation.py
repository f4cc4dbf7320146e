"""From a TaskInfo to a launch: environment, limits, and what is refused."""

import resource
from pathlib import Path
from typing import Any

import pytest
from mesos.v1 import mesos_pb2

from executor.app.launch_spec import Surroundings, prepare
from executor.config.settings import load
from executor.process.identity import UnknownUserError
from executor.process.launch import Launch, Limit
from executor.task.command import InvalidTaskError

OWN = {
    "MESOS_FRAMEWORK_ID": "F",
    "MESOS_EXECUTOR_ID": "E",
    "MESOS_AGENT_ENDPOINT": "10.0.0.7:5051",
    "MESOS_SANDBOX": "/",
    "MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "token",
    "MESOKIT_STAY": "true",
    "LIBPROCESS_IP": "0.0.0.0",
    "HOME": "/root",
    "KEPT": "yes",
}


def task(**fields: Any) -> mesos_pb2.TaskInfo:
    info = mesos_pb2.TaskInfo(name="n", **fields)
    info.task_id.value, info.agent_id.value = "t 1", "a"
    if not info.HasField("command"):
        info.command.value = "true"
    return info


def launched(info: mesos_pb2.TaskInfo, address: str | None = None) -> Launch:
    around = Surroundings.of(load(OWN, [], Path("/")), OWN)
    return prepare(info, mesos_pb2.ExecutorInfo(), around, address)


def test_the_environment_in_its_three_layers() -> None:
    info = task()
    info.resources.add(name="cpus", type=mesos_pb2.Value.SCALAR).allocation_info.role = "prod"
    info.command.environment.variables.add(name="KEPT", value="no")
    environment = launched(info, "192.168.7.3").env
    assert environment["MESOS_SANDBOX"] == "/"
    assert environment["MESOS_TASK_ID"] == "t 1"
    assert environment["MESOS_ALLOCATION_ROLE"] == "prod"
    assert environment["MESOS_CONTAINER_IP"] == "192.168.7.3"
    assert environment["KEPT"] == "no"
    assert environment["HOME"] == "/root"
    assert environment["PATH"].startswith("/usr/local/sbin:")
    assert not {"MESOS_EXECUTOR_AUTHENTICATION_TOKEN", "MESOKIT_STAY"} & environment.keys()


def test_files_that_nobody_fetches_are_named(caplog: pytest.LogCaptureFixture) -> None:
    info = task()
    for value, file in (("http://h/etc", ""), ("http://h/x/no-such.tgz", ""), ("http://h/etc", "none/here")):
        uri = info.command.uris.add(value=value)
        if file:
            uri.output_file = file
    launched(info)
    (said,) = caplog.messages
    assert "'no-such.tgz', 'none/here'; an agent fetches those of ExecutorInfo.command alone" in said


def test_another_user_is_at_home() -> None:
    launch = launched(task(command=mesos_pb2.CommandInfo(value="true", user="nobody")))
    assert launch.user is not None
    assert (launch.env["USER"], launch.env["LOGNAME"]) == ("nobody", "nobody")
    assert launch.env["HOME"] == launch.user.home
    with pytest.raises(UnknownUserError, match="no-such-user"):
        launched(task(command=mesos_pb2.CommandInfo(value="true", user="no-such-user")))


def test_the_program_of_both_forms() -> None:
    shell = launched(task(command=mesos_pb2.CommandInfo(value="a | b")))
    assert (shell.file, list(shell.argv)) == ("/bin/sh", ["sh", "-c", "a | b"])
    words = mesos_pb2.CommandInfo(shell=False, value="/bin/x", arguments=["y", "z z"])
    plain = launched(task(command=words))
    assert (plain.file, list(plain.argv)) == ("/bin/x", ["y", "z z"])


def contained(**fields: Any) -> mesos_pb2.TaskInfo:
    return task(container=mesos_pb2.ContainerInfo(type=mesos_pb2.ContainerInfo.MESOS, **fields))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"docker": mesos_pb2.ContainerInfo.DockerInfo(image="x")}, "docker"),
        ({"volumes": [mesos_pb2.Volume(mode=mesos_pb2.Volume.RW, container_path="x")]}, "volumes"),
        ({"tty_info": mesos_pb2.TTYInfo()}, "tty_info"),
        ({"linux_info": mesos_pb2.LinuxInfo(share_pid_namespace=False)}, "linux_info"),
        (
            {"mesos": mesos_pb2.ContainerInfo.MesosInfo(image=mesos_pb2.Image(type=mesos_pb2.Image.APPC))},
            "image",
        ),
    ],
)
def test_what_only_a_container_could_give_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidTaskError, match=named):
        launched(contained(**fields))


def limited(**fields: Any) -> Launch:
    limits = [mesos_pb2.RLimitInfo.RLimit(**fields)]
    return launched(contained(rlimit_info=mesos_pb2.RLimitInfo(rlimits=limits)))


def test_limits() -> None:
    kind = mesos_pb2.RLimitInfo.RLimit
    assert list(limited(type=kind.RLMT_NOFILE, soft=32, hard=64).rlimits) == [
        Limit(resource.RLIMIT_NOFILE, 32, 64)
    ]
    assert list(limited(type=kind.RLMT_CORE).rlimits) == [Limit(resource.RLIMIT_CORE, -1, -1)]
    assert list(limited(type=kind.RLMT_AS, soft=4096, hard=2**64 - 1).rlimits) == [
        Limit(resource.RLIMIT_AS, 4096, -1)
    ]
    assert list(limited(type=kind.RLMT_AS, soft=2**64 - 1, hard=2**64 - 1).rlimits) == [
        Limit(resource.RLIMIT_AS, -1, -1)
    ]
    for fields, words in (
        ({"type": kind.RLMT_LOCKS, "soft": 1, "hard": 1}, "RLMT_LOCKS"),
        ({"type": kind.RLMT_CPU, "soft": 1}, "soft and hard"),
        ({"type": kind.RLMT_CPU, "soft": 2, "hard": 1}, "above"),
        ({"type": kind.RLMT_CPU, "soft": 2**64 - 1, "hard": 1}, "above"),
    ):
        with pytest.raises(InvalidTaskError, match=words):
            limited(**fields)


def test_a_task_may_name_networks_which_are_the_agents_business() -> None:
    assert launched(contained(network_infos=[mesos_pb2.NetworkInfo(name="n")])).key == "t 1"
