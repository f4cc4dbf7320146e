"""What is to be checked, how often and how patiently: read from the protocol's messages, refused when
senseless.
"""

import math
from dataclasses import dataclass

from mesos.v1 import mesos_pb2

from executor.checks.command import CommandProbe, derive
from executor.checks.conversation import SocketProbe
from executor.checks.http import http_steps
from executor.checks.result import Probe
from executor.checks.tcp import tcp_steps
from executor.process.launch import Launch
from executor.process.supervisor import Supervisor
from executor.task.command import InvalidTaskError


class InvalidCheckError(ValueError):
    """A check that cannot be run as described; the text names the field."""


@dataclass(frozen=True, slots=True)
class CommandTarget:
    launch: Launch


@dataclass(frozen=True, slots=True)
class HttpTarget:
    scheme: str
    host: str
    port: int
    path: str


@dataclass(frozen=True, slots=True)
class TcpTarget:
    host: str
    port: int


Target = CommandTarget | HttpTarget | TcpTarget


@dataclass(frozen=True, slots=True)
class Plan:
    """One check. Seconds; `timeout` infinite where the message says 0."""

    target: Target
    delay: float
    interval: float
    timeout: float

    def probe(self, supervisor: Supervisor) -> Probe:
        """A new run."""
        match self.target:
            case CommandTarget(launch):
                return CommandProbe(supervisor, launch)
            case HttpTarget(scheme, host, port, path):
                return SocketProbe(lambda talk: http_steps(talk, scheme, host, port, path))
            case TcpTarget(host, port):
                return SocketProbe(lambda talk: tcp_steps(talk, host, port))


@dataclass(frozen=True, slots=True)
class HealthPlan:
    """A check by which a task lives: `failures` in a row end it; failures in the first `grace` seconds are
    forgiven.
    """

    plan: Plan
    failures: int
    grace: float


def health_plan(check: mesos_pb2.HealthCheck, task: Launch) -> HealthPlan:
    """Read TaskInfo.health_check. Raises InvalidCheckError."""
    kind = mesos_pb2.HealthCheck
    target: Target
    if check.type == kind.COMMAND and check.HasField("command"):
        target = _command("health_check.command", check.command, task)
    elif check.type == kind.HTTP and check.HasField("http"):
        scheme = check.http.scheme or "http"
        if scheme not in ("http", "https"):
            raise InvalidCheckError(f"health_check.http.scheme is {scheme!r}: use http or https")
        path = _path("health_check.http.path", check.http.path)
        port = _port("health_check.http.port", check.http.port)
        target = HttpTarget(scheme, _loopback(check.http.protocol), port, path)
    elif check.type == kind.TCP and check.HasField("tcp"):
        port = _port("health_check.tcp.port", check.tcp.port)
        target = TcpTarget(_loopback(check.tcp.protocol), port)
    else:
        raise _unknown("health_check", check.type, check.HasField("type"))
    grace = _seconds("health_check.grace_period_seconds", check.grace_period_seconds)
    return HealthPlan(_plan("health_check", check, target), check.consecutive_failures, grace)


def check_plan(check: mesos_pb2.CheckInfo, task: Launch) -> Plan:
    """Read TaskInfo.check. Raises InvalidCheckError."""
    kind = mesos_pb2.CheckInfo
    target: Target
    if check.type == kind.COMMAND and check.HasField("command"):
        target = _command("check.command.command", check.command.command, task)
    elif check.type == kind.HTTP and check.HasField("http"):
        path = _path("check.http.path", check.http.path)
        target = HttpTarget("http", "127.0.0.1", _port("check.http.port", check.http.port), path)
    elif check.type == kind.TCP and check.HasField("tcp"):
        target = TcpTarget("127.0.0.1", _port("check.tcp.port", check.tcp.port))
    else:
        raise _unknown("check", check.type, check.HasField("type"))
    return _plan("check", check, target)


def _plan(field: str, check: mesos_pb2.HealthCheck | mesos_pb2.CheckInfo, target: Target) -> Plan:
    timeout = _seconds(f"{field}.timeout_seconds", check.timeout_seconds)
    return Plan(
        target,
        delay=_seconds(f"{field}.delay_seconds", check.delay_seconds),
        interval=_seconds(f"{field}.interval_seconds", check.interval_seconds),
        timeout=timeout or math.inf,
    )


def _command(field: str, command: mesos_pb2.CommandInfo, task: Launch) -> CommandTarget:
    try:
        return CommandTarget(derive(task, command))
    except InvalidTaskError as error:
        raise InvalidCheckError(f"{field}: {error}") from None


def _unknown(field: str, kind: int, present: bool) -> InvalidCheckError:
    names = {1: "command", 2: "http", 3: "tcp"}
    if present and kind in names:
        name = names[kind]
        return InvalidCheckError(f"{field}.type is {name.upper()} but {field}.{name} is not set")
    return InvalidCheckError(f"{field}.type is not set: use COMMAND, HTTP or TCP")


def _path(field: str, path: str) -> str:
    if path and not path.startswith("/"):
        raise InvalidCheckError(f"{field} is {path!r}: it must start with '/'")
    if any(character <= " " or character == "\x7f" for character in path):
        raise InvalidCheckError(f"{field} is {path!r}: blanks and control characters must be %-escaped")
    return path or "/"


def _port(field: str, port: int) -> int:
    if not 0 < port < 65536:
        raise InvalidCheckError(f"{field} is {port}: use 1 to 65535")
    return port


def _loopback(protocol: int) -> str:
    return "::1" if protocol == mesos_pb2.NetworkInfo.IPv6 else "127.0.0.1"


def _seconds(field: str, value: float) -> float:
    if not value >= 0 or math.isinf(value):
        raise InvalidCheckError(f"{field} is {value}: it must be a number of seconds, 0 or more")
    # Beyond a century, timers would meet the limits of the clocks below.
    return min(value, 3e9)
