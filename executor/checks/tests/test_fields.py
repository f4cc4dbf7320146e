"""Checks as they are described, and what is refused."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mesos.v1 import mesos_pb2

from executor.checks.check import check_plan
from executor.checks.command import CommandCheck
from executor.checks.fields import InvalidCheckError
from executor.checks.health import health_plan
from executor.checks.http import HttpCheck
from executor.checks.tcp import TcpCheck
from executor.process.launch import Launch

TASK = Launch("t", ["sh"], {"A": "task", "B": "task"}, Path("/sandbox"), program="/bin/sh")
Kind = mesos_pb2.HealthCheck


def test_defaults() -> None:
    health = health_plan(Kind(type=Kind.TCP, tcp=Kind.TCPCheckInfo(port=80)), TASK)
    assert (health.failures, health.grace) == (3, 10)
    assert (health.plan.delay, health.plan.interval, health.plan.timeout) == (15, 10, 20)
    assert health.plan.check == TcpCheck("127.0.0.1", 80)


def test_timeout_zero_is_infinite() -> None:
    check = Kind(type=Kind.TCP, tcp=Kind.TCPCheckInfo(port=80), timeout_seconds=0)
    assert health_plan(check, TASK).plan.timeout == math.inf


def test_http_and_ipv6() -> None:
    http = Kind.HTTPCheckInfo(port=8080, path="/ok", scheme="https", protocol=mesos_pb2.NetworkInfo.IPv6)
    assert health_plan(Kind(type=Kind.HTTP, http=http), TASK).plan.check == HttpCheck(
        "https", "::1", 8080, "/ok"
    )
    tcp = Kind.TCPCheckInfo(port=1, protocol=mesos_pb2.NetworkInfo.IPv6)
    assert health_plan(Kind(type=Kind.TCP, tcp=tcp), TASK).plan.check == TcpCheck("::1", 1)


def test_command_runs_in_the_tasks_context() -> None:
    command = mesos_pb2.CommandInfo(value="echo", arguments=["echo", "x y"], shell=False, user="ignored")
    command.environment.variables.add(name="B", value="check")
    target = health_plan(Kind(type=Kind.COMMAND, command=command), TASK).plan.check
    assert isinstance(target, CommandCheck)
    launch = target.launch
    assert (launch.program, list(launch.argv)) == ("echo", ["echo", "x y"])
    assert launch.env == {"A": "task", "B": "check"}
    assert (launch.cwd, launch.user) == (TASK.cwd, None)


def test_check_kinds() -> None:
    check = mesos_pb2.CheckInfo(type=mesos_pb2.CheckInfo.HTTP, http=mesos_pb2.CheckInfo.Http(port=1))
    assert check_plan(check, TASK).check == HttpCheck("http", "127.0.0.1", 1, "/")
    command = mesos_pb2.CheckInfo(type=mesos_pb2.CheckInfo.COMMAND)
    command.command.command.value = "exit 0"
    assert isinstance(check_plan(command, TASK).check, CommandCheck)


def _health(**fields: Any) -> Callable[[], object]:
    return lambda: health_plan(Kind(**fields), TASK)


def _secret() -> object:
    command = mesos_pb2.CommandInfo(value="x")
    variable = command.environment.variables.add(name="KEY", type=mesos_pb2.Environment.Variable.SECRET)
    variable.secret.type = mesos_pb2.Secret.REFERENCE
    variable.secret.reference.name = "hidden"
    return health_plan(Kind(type=Kind.COMMAND, command=command), TASK)


TCP = Kind.TCPCheckInfo(port=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_health(), "health_check.type is not set"),
        (_health(type=Kind.HTTP), "health_check.type is HTTP but health_check.http is not set"),
        (_health(type=Kind.HTTP, tcp=TCP), "health_check.http is not set"),
        (_health(type=Kind.HTTP, http=Kind.HTTPCheckInfo(port=1, path="x")), "must start with '/'"),
        (_health(type=Kind.HTTP, http=Kind.HTTPCheckInfo(port=1, path="/a b")), "%-escaped"),
        (_health(type=Kind.HTTP, http=Kind.HTTPCheckInfo(port=1, path="/\r\nX: y")), "%-escaped"),
        (_health(type=Kind.HTTP, http=Kind.HTTPCheckInfo(port=1, scheme="ftp")), "'ftp': use http or https"),
        (_health(type=Kind.TCP, tcp=Kind.TCPCheckInfo(port=0)), "port is 0"),
        (_health(type=Kind.TCP, tcp=Kind.TCPCheckInfo(port=70000)), "port is 70000"),
        (_health(type=Kind.TCP, tcp=TCP, interval_seconds=-1), "interval_seconds is -1"),
        (_health(type=Kind.TCP, tcp=TCP, delay_seconds=math.nan), "delay_seconds is nan"),
        (_health(type=Kind.TCP, tcp=TCP, grace_period_seconds=math.inf), "grace_period_seconds is inf"),
        (_health(type=Kind.COMMAND, command=mesos_pb2.CommandInfo()), "health_check.command"),
        (_secret, "'KEY'"),
        (lambda: check_plan(mesos_pb2.CheckInfo(), TASK), "check.type is not set"),
        (
            lambda: check_plan(mesos_pb2.CheckInfo(type=mesos_pb2.CheckInfo.COMMAND), TASK),
            "check.command is not set",
        ),
    ],
)
def test_senseless_checks_are_refused_by_name(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InvalidCheckError) as caught:
        make()
    assert words in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert os.linesep not in str(caught.value)
