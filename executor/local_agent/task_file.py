"""TASK.json: what to run, in any of the forms people have it in.

A TaskInfo or a TaskGroupInfo as Mesos writes them in JSON, or the short form of shortform.py, or a list of
these. Out comes one ContainerRequest for each executor to start: the form Mesos' own agent gets its work in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mesos.v1 import mesos_pb2

from executor.local_agent.shortform import read_application
from executor.local_agent.strict import read_message
from executor.local_agent.validation import DescriptionError, Fault, Json, fault, load_json

_SHARED_PARTS = ("network_infos", "volumes", "hostname")
_SHORT_KEYS = {
    "executor.executor_id.value": "name",
    "task_id.value": "name",
    "container.network_infos[].name": "container.network[].name",
    "container.volumes[]": "container.volume[]",
}
_BAD_ID = re.compile(r"[\x00-\x1f\x7f/\\]")


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """One executor, its container and the tasks it gets: one by LAUNCH, or all at once by LAUNCH_GROUP.

    `key` is where it stands in the document, `is_short` whether in the short form.
    """

    executor: mesos_pb2.ExecutorInfo
    tasks: tuple[mesos_pb2.TaskInfo, ...]
    is_group: bool
    key: str = ""
    is_short: bool = False

    @property
    def networks(self) -> tuple[mesos_pb2.NetworkInfo, ...]:
        """The networks to attach to, in the order of their interfaces (one without a name is none)."""
        return tuple(info for info in self.executor.container.network_infos if info.name)


def read_description(text: bytes, source: str) -> tuple[ContainerRequest, ...]:
    """What TASK.json asks for. Raises DescriptionError with every fault in it."""
    document = load_json(text, source)
    if isinstance(document, list):
        requests = [r for index, entry in enumerate(document) for r in _read_one(entry, source, f"[{index}]")]
    else:
        requests = list(_read_one(document, source, ""))
    ids = [task.task_id.value for request in requests for task in request.tasks]
    short = {task.task_id.value for request in requests if request.is_short for task in request.tasks}
    faults = [
        fault("name" if task_id in short else "task_id.value", task_id, "an id of its own for every task")
        for task_id in sorted({task_id for task_id in ids if ids.count(task_id) > 1})
    ]
    requests, conflicts = _share_executors(requests)
    faults += conflicts
    faults += [f for request in requests for f in _faults_as_written(request)]
    for request in requests:
        _move_shared_parts(request)
    if not requests:
        faults.append(fault("", document, "at least one task"))
    if faults:
        raise DescriptionError(source, faults)
    return tuple(requests)


def _read_one(document: Json, source: str, key: str) -> Iterator[ContainerRequest]:
    if not isinstance(document, dict):
        forms = "a TaskInfo, a TaskGroupInfo, or an application with name and command.cmd"
        raise DescriptionError(source, [fault(key, document, forms)])
    if "tasks" in document:
        group = read_message(document, mesos_pb2.TaskGroupInfo(), source, key)
        if not group.tasks:
            raise DescriptionError(source, [fault(f"{key}.tasks".lstrip("."), [], "at least one task")])
        yield _request(tuple(group.tasks), key, is_group=True)
    elif _is_task_info(document):
        yield _request((read_message(document, mesos_pb2.TaskInfo(), source, key),), key)
    else:
        for task in read_application(document, source, key):
            yield _request((task,), key, is_short=True)


def _is_task_info(document: dict[str, Json]) -> bool:
    if not {"task_id", "taskId", "executor"}.isdisjoint(document):
        return True
    command = document.get("command")
    return isinstance(command, dict) and "value" in command and "cmd" not in command


def _request(
    tasks: tuple[mesos_pb2.TaskInfo, ...], key: str, *, is_group: bool = False, is_short: bool = False
) -> ContainerRequest:
    """The executor that these tasks share: theirs if they bring one, else one named after the first."""
    executor = mesos_pb2.ExecutorInfo(executor_id=mesos_pb2.ExecutorID(value=tasks[0].task_id.value))
    brought = next((task.executor for task in tasks if task.HasField("executor")), None)
    if brought is not None:
        executor.CopyFrom(brought)
    executor.type = mesos_pb2.ExecutorInfo.CUSTOM
    container = next((task.container for task in tasks if task.HasField("container")), None)
    if container is not None and not executor.HasField("container"):
        # One container for all: what a nested container of its own would get, the executor's gets.
        executor.container.CopyFrom(container)
    return ContainerRequest(executor, tasks, is_group, key, is_short)


def _share_executors(
    requests: Sequence[ContainerRequest],
) -> tuple[list[ContainerRequest], list[Fault]]:
    """Tasks that bring the same executor run in one, each by a LAUNCH of its own, as on an agent."""
    shared: dict[str, ContainerRequest] = {}
    faults: list[Fault] = []
    for request in requests:
        name = request.executor.executor_id.value
        first = shared.setdefault(name, request)
        if first is request or first.tasks[0].task_id.value == request.tasks[0].task_id.value:
            continue  # the first of its name; one task given twice is told below
        if first.is_group or request.is_group or first.executor != request.executor:
            here = "executor.executor_id.value"
            faults.append(fault(here, name, "an id of its own for each group, and for each ExecutorInfo"))
        else:
            shared[name] = replace(first, tasks=(*first.tasks, *request.tasks))
    return list(shared.values()), faults


def _move_shared_parts(request: ContainerRequest) -> None:
    """What the executor's container does for its tasks is asked of that container only."""
    for task in (task for task in request.tasks if task.HasField("container")):
        for name in _SHARED_PARTS:
            task.container.ClearField(name)
        if [field.name for field, _ in task.container.ListFields()] == ["type"]:
            task.ClearField("container")


def _faults_as_written(request: ContainerRequest) -> Iterator[Fault]:
    """The faults of a request by the keys that its author wrote, each once."""
    seen: set[Fault] = set()
    for found in _request_faults(request):
        key = _SHORT_KEYS.get(found.key, found.key) if request.is_short else found.key
        named = replace(found, key=f"{request.key}.{key}" if request.key else key)
        if named not in seen:
            seen.add(named)
            yield named


def _request_faults(request: ContainerRequest) -> Iterator[Fault]:
    executor = request.executor
    for what, value in (
        ("executor.executor_id.value", executor.executor_id.value),
        *(("task_id.value", task.task_id.value) for task in request.tasks),
    ):
        if not value or value in (".", "..") or len(value.encode()) > 255 or _BAD_ID.search(value):
            yield fault(what, value, "1 to 255 bytes without slash, backslash or control characters")
    if executor.HasField("container"):
        yield from _container_faults(executor.container)
    for task in request.tasks:
        mine = [info.name for info in task.container.network_infos if info.name]
        all_of_us = [info.name for info in request.networks]
        if task.HasField("container") and mine != all_of_us:
            where = f"tasks[{task.task_id.value}].container.network_infos"
            yield fault(where, mine, f"{all_of_us}, the networks of the container that the tasks share")
        if not (task.HasField("command") or task.HasField("data") or task.HasField("executor")):
            where = f"tasks[{task.task_id.value}].command" if request.is_group else "command"
            yield Fault(where, "missing", "a CommandInfo here, or one in data or executor.data")


def _container_faults(container: mesos_pb2.ContainerInfo) -> Iterator[Fault]:
    if container.type == mesos_pb2.ContainerInfo.DOCKER or container.HasField("docker"):
        yield fault("container.type", "DOCKER", '"MESOS": this agent starts no Docker containers')
    if container.mesos.HasField("image"):
        yield fault("container.mesos.image", "an Image", "no image: tasks run on this host's files")
    names = [info.name for info in container.network_infos if info.name]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield fault(
            "container.network_infos[].name", name, "each network once, as one interface is attached to it"
        )
    for volume in container.volumes:
        if volume.HasField("image") or volume.HasField("source") or not volume.HasField("host_path"):
            yield fault("container.volumes[]", volume.container_path, "a volume with a host_path")
