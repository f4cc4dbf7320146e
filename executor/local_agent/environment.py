"""The environment an agent gives an executor, and nothing else: the agent's own is not inherited.

Composed in Mesos' order, the later winning: what the agent builds, the sandbox, what isolators set, and the
executor's own command.environment, which may thus overwrite even MESOS_* (containerizer.cpp, prepare).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mesos.v1 import mesos_pb2

from executor.config.units import format_duration
from executor.local_agent.plugin_call import DEFAULT_PATH


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the agent serves: `tcp` as ip:port; `socket` absent where the executor is to use TCP."""

    tcp: str
    socket: Path | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who is who in every call: the agent's, framework's and executor's ids."""

    agent: str
    framework: str
    executor: str


@dataclass(frozen=True, slots=True)
class Clocks:
    """The agent's time limits, in nanoseconds; the names are those of its flags."""

    shutdown_grace: int = 5 * 10**9
    registration_timeout: int = 60 * 10**9
    recovery_timeout: int = 15 * 60 * 10**9
    reregistration_timeout: int = 2 * 10**9


def executor_environment(
    identity: Identity,
    endpoint: Endpoint,
    sandbox: Path,
    command: mesos_pb2.CommandInfo,
    clocks: Clocks,
    *,
    checkpoint: bool,
    token: str,
    has_network: bool,
) -> dict[str, str]:
    """The executor's whole environment. `token` "" means that executors need none."""
    environment = {
        "MESOS_FRAMEWORK_ID": identity.framework,
        "MESOS_EXECUTOR_ID": identity.executor,
        "MESOS_SLAVE_ID": identity.agent,
        "MESOS_SLAVE_PID": f"slave(1)@{endpoint.tcp}",
        "MESOS_AGENT_ENDPOINT": endpoint.tcp,
        "MESOS_DIRECTORY": str(sandbox),
        "MESOS_CHECKPOINT": "1" if checkpoint else "0",
        "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": format_duration(clocks.shutdown_grace),
        "MESOS_HTTP_COMMAND_EXECUTOR": "0",
        "LIBPROCESS_PORT": "0",
    }
    if checkpoint:
        environment["MESOS_RECOVERY_TIMEOUT"] = format_duration(clocks.recovery_timeout)
        environment["MESOS_SUBSCRIPTION_BACKOFF_MAX"] = format_duration(clocks.reregistration_timeout)
    if endpoint.socket is not None:
        environment["MESOS_DOMAIN_SOCKET"] = str(endpoint.socket)
    if token:
        environment["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"] = token
    environment["MESOS_SANDBOX"] = str(sandbox)
    if has_network:
        environment["LIBPROCESS_IP"] = "0.0.0.0"
    for variable in command.environment.variables:
        if variable.type != mesos_pb2.Environment.Variable.SECRET:
            environment[variable.name] = variable.value
    environment.setdefault("PATH", DEFAULT_PATH)
    return environment
