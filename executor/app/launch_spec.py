"""From a TaskInfo to what is started for it, with everything refused that this executor cannot honour."""

import logging
import os
import re
import resource
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.app.container_address import own_address
from executor.checks.check import Plan, check_plan
from executor.checks.health import HealthPlan, health_plan
from executor.config.settings import OPTIONS, Settings
from executor.config.token import TOKEN_VARIABLE
from executor.process.identity import Identity, resolve
from executor.process.launch import Launch, Limit
from executor.task import environment
from executor.task.command import InvalidTaskError, find_command, find_program

log = logging.getLogger(__name__)

_LIMITS = {
    kind: getattr(resource, name.replace("RLMT_", "RLIMIT_"))
    for name, kind in mesos_pb2.RLimitInfo.RLimit.Type.items()
    if hasattr(resource, name.replace("RLMT_", "RLIMIT_"))
}


_OF_TASK = re.compile(r"(?:launch\.task|launch_group\.task_group\.tasks\[(\d+)\])\.(\w+)")

_INFINITY = 2**63 - 1
"""RLimitInfo counts in 64 bits without a sign, rlim_t too, and Python's setrlimit with one: what is beyond
its range (RLIM_INFINITY on the wire is 2^64-1) is no limit."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all tasks share: where they run, and the environment they inherit."""

    settings: Settings
    inherited: Mapping[str, str]

    @classmethod
    def of(cls, settings: Settings, own: Mapping[str, str]) -> "Surroundings":
        """From the executor's own environment."""
        private = {TOKEN_VARIABLE, *(option.variable for option in OPTIONS)}
        return cls(settings, environment.inherited(own, private, bundle=getattr(sys, "_MEIPASS", None)))


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What is started for a task, and how it is checked."""

    info: mesos_pb2.TaskInfo
    launch: Launch

    def health(self, launch: Launch) -> HealthPlan | None:
        """The health check of a task that was started so. Raises InvalidCheckError."""
        info = self.info
        return health_plan(info.health_check, launch) if info.HasField("health_check") else None

    def check(self, launch: Launch) -> Plan | None:
        """The check of a task that was started so. Raises InvalidCheckError."""
        return check_plan(self.info.check, launch) if self.info.HasField("check") else None

    def check_status(self) -> mesos_pb2.CheckStatusInfo | None:
        """What a status says of the check before its first result."""
        plan = self.check(self.launch)
        return plan.check.status(None) if plan is not None else None


def unlaunchable(event: executor_pb2.Event, damaged: Iterable[str]) -> dict[str, str]:
    """Of the tasks of an event with repaired fields (protocol/repair.py), by id, those that are not to be
    started, and why: what they run, or who they are, is not what the framework wrote. Names and labels may
    be anything.
    """
    found: dict[str, str] = {}
    for path in damaged:
        match = _OF_TASK.match(path)
        if match is None:
            continue
        tasks = event.launch_group.task_group.tasks if match[1] else [event.launch.task]
        if match[2] in ("command", "health_check", "check", "container"):
            task = tasks[int(match[1] or 0)]
            found.setdefault(task.task_id.value, f"TaskInfo.{path[match.start(2) :]} is not UTF-8")
        elif match[2] == "task_id":
            for task in tasks:  # a group is launched whole
                found.setdefault(task.task_id.value, "TaskInfo.task_id is not UTF-8")
    return found


def specify(
    task: mesos_pb2.TaskInfo,
    executor: mesos_pb2.ExecutorInfo,
    around: Surroundings,
    address: str | None = None,
) -> LaunchSpec:
    """The launch of a task, its checks read. Raises InvalidTaskError, UnknownUserError, InvalidCheckError,
    and OSError where there is no descriptor to look with.
    """
    spec = LaunchSpec(task, prepare(task, executor, around, address))
    spec.health(spec.launch)
    spec.check(spec.launch)
    return spec


def prepare(
    task: mesos_pb2.TaskInfo,
    executor: mesos_pb2.ExecutorInfo,
    around: Surroundings,
    address: str | None = None,
) -> Launch:
    """What to start for a task; `address` is ours as the agent sees it. Raises InvalidTaskError or
    UnknownUserError.
    """
    _refuse_containers(task)
    command = find_command(task, executor)
    _look_for_files(task, command, around.settings.sandbox)
    program = find_program(command)
    user = resolve(command.user) if command.HasField("user") else None
    return Launch(
        key=task.task_id.value,
        argv=program.argv,
        program=program.file,
        env=_environment(task, command, user, around, address),
        cwd=around.settings.sandbox,
        user=user,
        rlimits=_limits(task.container.rlimit_info),
    )


def _environment(
    task: mesos_pb2.TaskInfo,
    command: mesos_pb2.CommandInfo,
    user: Identity | None,
    around: Surroundings,
    address: str | None,
) -> dict[str, str]:
    settings = around.settings
    variables = dict(around.inherited)
    variables["MESOS_SANDBOX"] = str(settings.sandbox)
    variables["MESOS_TASK_ID"] = task.task_id.value
    if container_ip := environment.container_ip(around.inherited.get("LIBPROCESS_IP"), address, own_address):
        variables["MESOS_CONTAINER_IP"] = container_ip
    role = environment.allocation_role(task) or settings.allocation_role
    if role:
        variables["MESOS_ALLOCATION_ROLE"] = role
    if user is not None:
        variables |= {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    variables |= environment.of_command(command)
    return variables


def _refuse_containers(task: mesos_pb2.TaskInfo) -> None:
    """Tasks run in the executor's own container: what only a container of their own could give is
    refused."""
    container = task.container
    wishes = {
        "container.mesos.image": container.mesos.HasField("image"),
        "container.docker": container.HasField("docker"),
        "container.volumes": bool(container.volumes),
        "container.tty_info": container.HasField("tty_info"),
        "container.linux_info": container.HasField("linux_info"),
    }
    for field, wished in wishes.items():
        if wished:
            raise InvalidTaskError(f"{field} is not for tasks of this executor: set it in ExecutorInfo")


def _look_for_files(task: mesos_pb2.TaskInfo, command: mesos_pb2.CommandInfo, sandbox: Path) -> None:
    """Nobody fetches what a task of a custom executor wants fetched but `mesokit run`: say so once."""
    names = [uri.output_file or uri.value.rpartition("/")[2] for uri in command.uris]
    missing = [name for name in names if "\0" in name or not os.path.lexists(sandbox / name)]
    if missing:
        log.warning(
            "task %r: command.uris are not fetched, and not in the sandbox: %s; an agent fetches those of "
            "ExecutorInfo.command alone",
            task.task_id.value,
            ", ".join(map(repr, missing[:5])),
        )


def _limits(info: mesos_pb2.RLimitInfo) -> list[Limit]:
    limits = []
    for limit in info.rlimits:
        kind = _LIMITS.get(limit.type)
        if kind is None:
            name = mesos_pb2.RLimitInfo.RLimit.Type.Name(limit.type)
            raise InvalidTaskError(f"container.rlimit_info: {name} is not a limit that this host knows")
        if limit.HasField("soft") != limit.HasField("hard"):
            raise InvalidTaskError("container.rlimit_info: give soft and hard, or neither for no limit")
        if limit.HasField("soft") and limit.soft > limit.hard:
            raise InvalidTaskError(
                f"container.rlimit_info: soft limit {limit.soft} is above the hard limit {limit.hard}"
            )
        soft, hard = (limit.soft, limit.hard) if limit.HasField("soft") else (_INFINITY, _INFINITY)
        limits.append(Limit(kind, soft if soft < _INFINITY else -1, hard if hard < _INFINITY else -1))
    return limits
