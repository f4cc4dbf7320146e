"""Messages an agent sends, and the tasks in them, in the few shapes that the scenarios need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

AGENT_ID = "a5c1f0e4-S0"


def seconds(value: float) -> mesos_pb2.DurationInfo:
    return mesos_pb2.DurationInfo(nanoseconds=int(value * 1e9))


def environment(variables: Mapping[str, str]) -> mesos_pb2.Environment:
    return mesos_pb2.Environment(
        variables=[
            mesos_pb2.Environment.Variable(name=name, value=value) for name, value in variables.items()
        ]
    )


def task(
    task_id: str,
    shell: str | None = None,
    *,
    data: bytes | None = None,
    grace: float | None = None,
    env: Mapping[str, str] | None = None,
    command: Mapping[str, Any] | None = None,
    role: str | None = None,
) -> mesos_pb2.TaskInfo:
    """A task for LAUNCH: its work is in `data`, because the master forbids `command` beside `executor`."""
    info = mesos_pb2.TaskInfo(name=f"task {task_id}")
    info.task_id.value = task_id
    info.agent_id.value = AGENT_ID
    for name, amount in (("cpus", 0.1), ("mem", 32.0)):
        resource = info.resources.add(name=name, type=mesos_pb2.Value.SCALAR)
        resource.scalar.value = amount
        if role is not None:
            resource.allocation_info.role = role
    if data is not None:
        info.data = data
    elif command is not None or shell is not None:
        document: dict[str, Any] = dict(command or {"value": shell, "shell": True})
        if env:
            document["environment"] = {"variables": [{"name": k, "value": v} for k, v in env.items()]}
        info.data = json.dumps(document).encode()
    if grace is not None:
        info.kill_policy.grace_period.CopyFrom(seconds(grace))
    return info


def group_task(
    task_id: str,
    shell: str | None = None,
    *,
    argv: Iterable[str] | None = None,
    env: Mapping[str, str] | None = None,
    grace: float | None = None,
) -> mesos_pb2.TaskInfo:
    """A task for LAUNCH_GROUP: it may carry a CommandInfo, in the shell or the argv form."""
    info = task(task_id, grace=grace)
    if argv is not None:
        words = list(argv)
        info.command.shell = False
        info.command.value = words[0]
        info.command.arguments.extend(words)
    elif shell is not None:
        info.command.shell = True
        info.command.value = shell
    if env:
        info.command.environment.CopyFrom(environment(env))
    return info


def launch(info: mesos_pb2.TaskInfo) -> executor_pb2.Event:
    event = executor_pb2.Event(type=executor_pb2.Event.LAUNCH)
    event.launch.task.CopyFrom(info)
    return event


def launch_group(*tasks: mesos_pb2.TaskInfo) -> executor_pb2.Event:
    event = executor_pb2.Event(type=executor_pb2.Event.LAUNCH_GROUP)
    event.launch_group.task_group.tasks.extend(tasks)
    return event


def kill(task_id: str, grace: float | None = None) -> executor_pb2.Event:
    event = executor_pb2.Event(type=executor_pb2.Event.KILL)
    event.kill.task_id.value = task_id
    if grace is not None:
        event.kill.kill_policy.grace_period.CopyFrom(seconds(grace))
    return event


def acknowledged(task_id: str, uuid: bytes) -> executor_pb2.Event:
    event = executor_pb2.Event(type=executor_pb2.Event.ACKNOWLEDGED)
    event.acknowledged.task_id.value = task_id
    event.acknowledged.uuid = uuid
    return event


def message(data: bytes) -> executor_pb2.Event:
    event = executor_pb2.Event(type=executor_pb2.Event.MESSAGE)
    event.message.data = data
    return event


def shutdown() -> executor_pb2.Event:
    return executor_pb2.Event(type=executor_pb2.Event.SHUTDOWN)


def heartbeat() -> executor_pb2.Event:
    return executor_pb2.Event(type=executor_pb2.Event.HEARTBEAT)


def error(text: str) -> executor_pb2.Event:
    event = executor_pb2.Event(type=executor_pb2.Event.ERROR)
    event.error.message = text
    return event
