"""The environment of an executor, variable by variable."""

from __future__ import annotations

from pathlib import Path

from mesos.v1 import mesos_pb2

from executor.local_agent.environment import Clocks, Endpoint, Identity, executor_environment


def environment(
    *,
    checkpoint: bool = False,
    token: str = "",
    socket: Path | None = None,
    command: mesos_pb2.CommandInfo | None = None,
    has_network: bool = False,
) -> dict[str, str]:
    return executor_environment(
        Identity("S0", "F", "E"),
        Endpoint("10.0.0.7:5051", socket),
        Path("/sandbox"),
        command or mesos_pb2.CommandInfo(),
        Clocks(),
        checkpoint=checkpoint,
        token=token,
        has_network=has_network,
    )


def test_always() -> None:
    assert environment() == {
        "MESOS_FRAMEWORK_ID": "F",
        "MESOS_EXECUTOR_ID": "E",
        "MESOS_SLAVE_ID": "S0",
        "MESOS_SLAVE_PID": "slave(1)@10.0.0.7:5051",
        "MESOS_AGENT_ENDPOINT": "10.0.0.7:5051",
        "MESOS_DIRECTORY": "/sandbox",
        "MESOS_SANDBOX": "/sandbox",
        "MESOS_CHECKPOINT": "0",
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "5secs",
        "MESOS_HTTP_COMMAND_EXECUTOR": "0",
        "LIBPROCESS_PORT": "0",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }


def test_checkpointing_adds_the_two_clocks() -> None:
    added = environment(checkpoint=True).items() - environment().items()
    assert dict(added) == {
        "MESOS_CHECKPOINT": "1",
        "MESOS_RECOVERY_TIMEOUT": "15mins",
        "MESOS_SUBSCRIPTION_BACKOFF_MAX": "2secs",
    }


def test_where_they_apply() -> None:
    everything = environment(token="T", socket=Path("/s"), has_network=True)  # noqa: S106
    added = everything.items() - environment().items()
    assert dict(added) == {
        "MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "T",
        "MESOS_DOMAIN_SOCKET": "/s",
        "LIBPROCESS_IP": "0.0.0.0",
    }


def test_the_executors_own_environment_wins_but_for_secrets() -> None:
    command = mesos_pb2.CommandInfo()
    command.environment.variables.add(name="PATH", value="/bin")
    command.environment.variables.add(name="MESOS_SANDBOX", value="/elsewhere")
    command.environment.variables.add(name="KEY", type=mesos_pb2.Environment.Variable.SECRET, value="x")
    found = environment(command=command)
    assert (found["PATH"], found["MESOS_SANDBOX"]) == ("/bin", "/elsewhere")
    assert "KEY" not in found
