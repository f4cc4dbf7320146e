"""What a master refuses of a task, in its words (src/master/validation.cpp)."""

from collections.abc import Container, Iterator
from dataclasses import replace

from mesos.v1 import mesos_pb2

from executor.framework.sdk.resources import InvalidResourceError, Resources, parse

ExecutorInfo = mesos_pb2.ExecutorInfo


def bad_id(value: str) -> str:
    """Why this is no id, "" if it is one."""
    if not 1 <= len(value.encode()) <= 255:
        return "ID must be 1 to 255 bytes"
    if value in (".", ".."):
        return f"'{value}' is disallowed"
    if any(character in "/\\" or ord(character) < 32 or ord(character) == 127 for character in value):
        return f"'{value}' contains invalid characters"
    return ""


def of_task(task: mesos_pb2.TaskInfo, agent_id: str, taken: Container[str], *, grouped: bool) -> str:
    """Why this task is refused, "" if it is not."""
    return next(_of_task(task, agent_id, taken, grouped), "")


def _of_task(task: mesos_pb2.TaskInfo, agent_id: str, taken: Container[str], grouped: bool) -> Iterator[str]:
    name = task.task_id.value
    if why := bad_id(name):
        yield f"Task ID is invalid: {why}"
    if name in taken:
        yield f"Task has duplicate ID: {name}"
    if task.agent_id.value != agent_id:
        yield f"Task uses invalid agent {task.agent_id.value} while agent {agent_id} is expected"
    if not task.resources:
        yield "Task uses no resources"
    if task.kill_policy.grace_period.nanoseconds < 0:
        yield "Task's 'kill_policy.grace_period' is invalid: must be non-negative"
    try:
        pieces = parse(task.resources)
    except InvalidResourceError as error:
        yield f"Task uses invalid resources: {error}"
        return
    if len({kind.reserved_to for kind, _ in pieces if kind.reserved_to}) > 1:
        yield "Task uses resources of more than one role"
    if grouped:
        return
    if task.HasField("command") == task.HasField("executor"):
        yield "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
    if task.HasField("executor"):
        yield from _of_executor(task.executor, grouped=False)


def of_executor(executor: ExecutorInfo, *, grouped: bool) -> str:
    """Why this executor is refused, "" if it is not."""
    return next(_of_executor(executor, grouped=grouped), "")


def _of_executor(executor: ExecutorInfo, *, grouped: bool) -> Iterator[str]:
    if why := bad_id(executor.executor_id.value):
        yield f"Executor ID is invalid: {why}"
    custom = executor.type == ExecutorInfo.CUSTOM
    if not grouped:
        if executor.HasField("type") and not custom:
            yield "Executor type must be CUSTOM"
        if not executor.HasField("command"):
            yield "'ExecutorInfo.command' must be set"
        return
    if not custom and executor.type != ExecutorInfo.DEFAULT:
        yield "Unknown executor type"
    if not executor.framework_id.value:
        yield "'ExecutorInfo.framework_id' must be set"
    if custom != executor.HasField("command"):
        yield f"'ExecutorInfo.command' must {'' if custom else 'not '}be set for this type of executor"
    pieces = parse(executor.resources)
    if pieces.total("cpus") < 10 or pieces.total("mem") < 32000 or pieces.total("disk") == 0:
        yield "Executor uses less than the minimum resources (cpus 0.01, mem 32, some disk)"


def same_executor(one: ExecutorInfo, other: ExecutorInfo) -> bool:
    """Whether a task may join an executor that lives: all but labels and the grace period must be equal."""
    left, right = ExecutorInfo(), ExecutorInfo()
    left.CopyFrom(one)
    right.CopyFrom(other)
    for info in (left, right):
        info.ClearField("labels")
        info.ClearField("shutdown_grace_period")
        for uri in info.command.uris:
            uri.ClearField("cache")
        info.command.uris.sort(key=lambda uri: uri.value)
    resources = parse(left.resources) == parse(right.resources)
    left.ClearField("resources")
    right.ClearField("resources")
    return resources and left == right


def allocated(resources: Resources, role: str) -> Resources:
    """The same pieces, allocated to a role ("" for to nobody)."""
    return Resources({replace(kind, role=role): amount for kind, amount in resources})
