"""What a master refuses of a task, an executor and a group, in its words (src/master/validation.cpp)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mesos.v1 import mesos_pb2

from executor.framework.fake_master.messages import (
    bad_allocation,
    bad_command,
    bad_container,
    bad_health_check,
    bad_id,
    bad_resources,
    bad_sum,
    overlapping,
    told,
    told_of,
)
from executor.framework.sdk.resources import Resources, parse

ExecutorInfo = mesos_pb2.ExecutorInfo
TaskInfo = mesos_pb2.TaskInfo


@dataclass(frozen=True, slots=True)
class Launching:
    """Where something is launched: the agent, whose framework; `living` is the executor of an id that the
    master thinks is there, `taken` whether a task's id is, `offered` what is left of the offers.
    """

    framework_id: str
    agent_id: str
    offered: Resources
    taken: Callable[[str], bool]
    living: Callable[[str], ExecutorInfo | None]


def of_task(task: TaskInfo, where: Launching) -> str:
    """Why a task of LAUNCH is refused, with its executor, "" if it is not."""
    return next(_alone(task, where), "")


def of_group(tasks: Sequence[TaskInfo], executor: ExecutorInfo, where: Launching) -> str:
    """Why a task group is refused, "" if it is not."""
    return next(_group(tasks, executor, where), "")


def _task(task: TaskInfo, where: Launching) -> Iterator[str]:
    name = task.task_id.value
    why = bad_id(name)
    yield from told(
        (why, why),
        (where.taken(name), f"Task has duplicate ID: {name}"),
        (
            task.agent_id.value != where.agent_id,
            f"Task uses invalid agent {task.agent_id.value} while agent {where.agent_id} is expected",
        ),
        (
            task.kill_policy.grace_period.nanoseconds < 0,
            "Task's 'kill_policy.grace_period' must be non-negative",
        ),
        (task.max_completion_time.nanoseconds < 0, "Task's `max_completion_time` must be non-negative"),
    )
    if task.HasField("health_check"):
        yield from told_of("Task uses invalid health check", bad_health_check(task.health_check))
    yield from told((not task.resources, "Task uses no resources"))
    yield from told_of("Task uses invalid resources", bad_resources(task.resources))
    yield from told_of("Invalid task resources", bad_allocation(task.resources))
    yield from told_of("Task uses invalid resources", bad_sum(parse(task.resources)))
    yield from told_of("Task's `CommandInfo` is invalid", bad_command(task.command))
    yield from told_of("Task's `ContainerInfo` is invalid", bad_container(task.container))
    yield from told(
        (
            set(task.limits) - {"cpus", "mem"},
            "Only cpus and mem may be included in a task's resource limits",
        )
    )


def _alone(task: TaskInfo, where: Launching) -> Iterator[str]:
    yield from _task(task, where)
    both = "Task should have at least one (but not both) of CommandInfo or ExecutorInfo present"
    yield from told((task.HasField("command") == task.HasField("executor"), both))
    total = parse(task.resources)
    if task.HasField("executor"):
        executor = task.executor
        yield from _executor(executor, where)
        own = parse(executor.resources)
        yield from told(
            (
                executor.HasField("type") and executor.type != ExecutorInfo.CUSTOM,
                "'ExecutorInfo.type' must be 'CUSTOM'",
            ),
            (not executor.HasField("command"), "'ExecutorInfo.command' must be set"),
            (
                overlapping((total, own)),
                f"There are overlapping resources in the task resources {total.text()} and executor "
                f"resources {own.text()}",
            ),
        )
        yield from told_of("Task and its executor", bad_sum([*total, *own]))
        if where.living(executor.executor_id.value) is None:
            total += own
    yield from _too_much(total, "task and its executor is", where)


def _too_much(total: Resources, whose: str, where: Launching) -> Iterator[str]:
    text = f"Total resources {total.text()} required by {whose} more than available {where.offered.text()}"
    return told((not where.offered.contains(total), text))


def _executor(executor: ExecutorInfo, where: Launching) -> Iterator[str]:
    why = bad_id(executor.executor_id.value)
    yield from _type(executor)
    yield from told(
        (why, why),
        (
            executor.shutdown_grace_period.nanoseconds < 0,
            "ExecutorInfo's 'shutdown_grace_period' must be non-negative",
        ),
    )
    yield from told_of("Executor's `CommandInfo` is invalid", bad_command(executor.command))
    yield from told_of("Executor's `ContainerInfo` is invalid", bad_container(executor.container))
    yield from told(
        (not executor.HasField("framework_id"), "'ExecutorInfo.framework_id' must be set"),
        (
            executor.framework_id.value != where.framework_id,
            f"ExecutorInfo has an invalid FrameworkID (Actual: {executor.framework_id.value} "
            f"vs Expected: {where.framework_id})",
        ),
    )
    yield from told_of("Executor uses invalid resources", bad_resources(executor.resources))
    if executor.resources:
        yield from told_of("Invalid executor resources", bad_allocation(executor.resources))
    yield from told_of("Executor uses invalid resources", bad_sum(parse(executor.resources)))
    living = where.living(executor.executor_id.value)
    other = "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID."
    yield from told((living is not None and not same_executor(living, executor), other))


def _type(executor: ExecutorInfo) -> Iterator[str]:
    if executor.type == ExecutorInfo.CUSTOM and not executor.HasField("command"):
        yield "'ExecutorInfo.command' must be set for 'CUSTOM' executor"
    if executor.type != ExecutorInfo.DEFAULT:
        return
    container = executor.container
    yield from told(
        (executor.HasField("command"), "'ExecutorInfo.command' must not be set for 'DEFAULT' executor"),
        (
            executor.HasField("container") and container.type != mesos_pb2.ContainerInfo.MESOS,
            "'ExecutorInfo.container.type' must be 'MESOS' for 'DEFAULT' executor",
        ),
        (
            container.mesos.HasField("image"),
            "'ExecutorInfo.container.mesos.image' must not be set for 'DEFAULT' executor",
        ),
    )


def _group(tasks: Sequence[TaskInfo], executor: ExecutorInfo, where: Launching) -> Iterator[str]:
    for task in tasks:
        for why in (*_task(task, where), *_grouped(task)):
            yield f"Task '{task.task_id.value}' is invalid: {why}"
    yield from _executor(executor, where)
    name = f"executor '{executor.executor_id.value}'"
    own = parse(executor.resources)
    docker = executor.HasField("container") and executor.container.type == mesos_pb2.ContainerInfo.DOCKER
    yield from told(
        (not executor.HasField("type"), "'ExecutorInfo.type' must be set"),
        (executor.type == ExecutorInfo.UNKNOWN, "Unknown executor type"),
        (docker, "Docker ContainerInfo is not supported on the executor"),
        *(
            (True, f"The `ExecutorInfo` of task '{task.task_id.value}' is different from {name}")
            for task in tasks
            if task.HasField("executor") and not same_executor(task.executor, executor)
        ),
        (own.total("cpus") < 10, f"{name} uses less CPUs than the minimum required (0.01)"),
        (own.total("mem") < 32_000, f"{name} uses less memory than the minimum required (32MB)"),
        (not own.total("disk"), f"{name} uses no disk"),
    )
    parts = [own, *(parse(task.resources) for task in tasks)]
    yield from told_of("Task group and executor", bad_sum([item for part in parts for item in part]))
    overlap = "There are overlapping resources in the task group's task resources and/or executor resources"
    yield from told((overlapping(parts), overlap))
    total = Resources() if where.living(executor.executor_id.value) is not None else own
    for part in parts[1:]:
        total += part
    yield from _too_much(total, "task group and its executor are", where)


def _grouped(task: TaskInfo) -> Iterator[str]:
    of_network = task.health_check.type in (mesos_pb2.HealthCheck.HTTP, mesos_pb2.HealthCheck.TCP)
    yield from told(
        (
            task.container.network_infos and of_network,
            "HTTP and TCP health checks are not supported for nested containers not joining parent's network",
        ),
        (
            task.HasField("container") and task.container.type == mesos_pb2.ContainerInfo.DOCKER,
            "Docker ContainerInfo is not supported on the task",
        ),
        (
            task.limits and not task.HasField("container"),
            "Resource limits may only be set for tasks within a task group when 'share_cgroups' is 'false'",
        ),
    )


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
