"""What Mesos is told to launch for an instance: an executor of its own, and its tasks as one group.

One executor for each instance, with an id that nobody had before: an executor's id may be used again only
when master and agent agree that the old one is gone, which they do at different times. The group is delivered
whole or not at all. The command and the checks stay in each TaskInfo, where agents show them; its URIs are
the executor's, whose sandbox they share; secrets are put
in at the launch, from files, and are in no record of ours.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mesos.v1 import mesos_pb2

from executor.config.units import parse_duration
from executor.framework.sdk.choice import Request
from executor.framework.sdk.resources import Kind, Resources, wire
from executor.framework.service.instance import Instance
from executor.framework.service.spec import App, TaskSpec
from executor.local_agent.shortform import container_info, health_check

OVERHEAD = (("cpus", 100), ("mem", 32_000), ("disk", 10_000))
"""Thousandths that an executor gets for itself. A master refuses one of a group without some of each."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the executor reaches an agent: `uri`, "" where it is installed there; `command` starts it."""

    command: str = "/usr/bin/mesokit-executor"
    uri: str = ""
    archive: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """An executor and its group."""

    executor: mesos_pb2.ExecutorInfo
    tasks: tuple[mesos_pb2.TaskInfo, ...]


def request_of(app: App) -> Request:
    """What an instance takes of an offer, its executor included."""
    total = dict(OVERHEAD)
    for name, amount in app.scalars:
        total[name] = total.get(name, 0) + amount
    free = sum(port.number == 0 for port in app.ports)
    fixed = tuple(port.number for port in app.ports if port.number)
    return Request(tuple(total.items()), free, fixed)


def name_ports(app: App, found: Iterable[int]) -> tuple[tuple[str, int], ...]:
    """The ports of a choice (fixed ones first, as `choose` gives them) by their names, in the app's order."""
    numbers = list(found)
    fixed = sum(1 for port in app.ports if port.number)
    free = iter(numbers[fixed:])
    return tuple((port.name, port.number or next(free)) for port in app.ports)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same for every launch: how the executor comes, whose it is, who reads secrets."""

    delivery: Delivery
    framework_id: str
    secret: Callable[[str], bytes]


class Launcher:
    """Makes the messages of the launches of one turn: what all instances of an app have in common is made
    once, secrets included, which are forgotten with this.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._made: dict[tuple[str, str], Launch] = {}

    def launch_of(self, app: App, instance: Instance, pieces: Resources) -> Launch:
        """The messages for one instance. Raises what reading a secret raises."""
        common = self._made.get((app.name, app.version))
        if common is None:
            common = self._made[app.name, app.version] = _common(app, self._terms)
        shares = _shared_out(app, pieces)
        executor = mesos_pb2.ExecutorInfo()
        executor.CopyFrom(common.executor)
        executor.executor_id.value = instance.executor_id
        executor.resources.extend(wire(shares[0]))
        tasks = []
        for number, spec in enumerate(app.tasks):
            task = mesos_pb2.TaskInfo()
            task.CopyFrom(common.tasks[number])
            task.task_id.value = instance.task_id(spec.name)
            task.agent_id.value = instance.agent_id
            if instance.ports:
                _name_ports(task, app, instance)
            task.resources.extend(wire(shares[number + 1]))
            tasks.append(task)
        return Launch(executor, tuple(tasks))


def _common(app: App, terms: Terms) -> Launch:
    delivery, secret = terms.delivery, terms.secret
    executor = mesos_pb2.ExecutorInfo(type=mesos_pb2.ExecutorInfo.CUSTOM, name=f"mesokit for {app.name}")
    executor.framework_id.value = terms.framework_id
    executor.command.value = delivery.command
    executor.command.shell = True
    if delivery.uri:
        executor.command.uris.add(
            value=delivery.uri, executable=not delivery.archive, extract=delivery.archive, cache=True
        )
    for spec in app.tasks:
        # Agents fetch for an executor before it starts, never for a task that one gets.
        for uri in spec.document["command"].get("uris") or ():
            wanted = _uri(uri)
            if wanted not in executor.command.uris:
                executor.command.uris.append(wanted)
    container = app.document.get("container")
    if container:
        executor.container.CopyFrom(container_info(container))
    return Launch(executor, tuple(_common_task(app, spec, secret) for spec in app.tasks))


def _name_ports(task: mesos_pb2.TaskInfo, app: App, instance: Instance) -> None:
    variables = task.command.environment.variables
    for place, (name, number) in enumerate(instance.ports):
        variables.add(name=f"PORT{place}", value=str(number))
        variables.add(name=f"PORT_{name.upper().replace('-', '_').replace('.', '_')}", value=str(number))
        task.discovery.visibility = mesos_pb2.DiscoveryInfo.CLUSTER
        task.discovery.name = app.name
        task.discovery.ports.ports.add(number=number, name=name, protocol="tcp")


def _common_task(app: App, spec: TaskSpec, secret: Callable[[str], bytes]) -> mesos_pb2.TaskInfo:
    document = spec.document
    task = mesos_pb2.TaskInfo(name=app.name if len(app.tasks) == 1 else f"{app.name}.{spec.name}")
    _fill_command(task.command, document["command"], secret)
    if document.get("healthcheck"):
        task.health_check.CopyFrom(health_check(document["healthcheck"]))
    grace = (document.get("kill") or {}).get("grace")
    if grace:
        task.kill_policy.grace_period.nanoseconds = parse_duration(grace)
    limit = app.document.get("max_completion_time")
    if limit:
        task.max_completion_time.nanoseconds = parse_duration(limit)
    for key, value in (document.get("labels") or {}).items():
        task.labels.labels.add(key=key, value=value)
    task.labels.labels.add(key="mesokit.app", value=app.name)
    task.labels.labels.add(key="mesokit.version", value=app.version)
    return task


def _fill_command(
    command: mesos_pb2.CommandInfo, document: dict[str, Any], secret: Callable[[str], bytes]
) -> None:
    if document.get("argv"):
        command.shell = False
        command.value = document["argv"][0]
        command.arguments.extend(document["argv"])
    else:
        command.value = document["cmd"]
    if document.get("user"):
        command.user = document["user"]
    for name, value in (document.get("environment") or {}).items():
        command.environment.variables.add(name=name, value=value)
    for name, source in (document.get("secrets") or {}).items():
        variable = command.environment.variables.add(name=name, type=mesos_pb2.Environment.Variable.SECRET)
        variable.secret.type = mesos_pb2.Secret.VALUE
        variable.secret.value.data = secret(source)


def _uri(document: dict[str, Any]) -> mesos_pb2.CommandInfo.URI:
    uri = mesos_pb2.CommandInfo.URI(value=document["uri"], extract=document.get("extract") is not False)
    uri.executable = bool(document.get("execute"))
    uri.cache = bool(document.get("cache"))
    if document.get("output_file"):
        uri.output_file = document["output_file"]
    return uri


def _shared_out(app: App, pieces: Resources) -> list[Resources]:
    """The pieces of an instance, dealt to its executor and each task; ports go to the first task."""
    wants = [dict(OVERHEAD), *(dict(task.scalars) for task in app.tasks)]
    shares: list[dict[Kind, Any]] = [{} for _ in wants]
    for kind, amount in pieces:
        if not isinstance(amount, int):
            shares[1][kind] = amount
            continue
        left = amount
        for want, share in zip(wants, shares, strict=True):
            part = min(left, want.get(kind.name, 0))
            if part:
                share[kind] = part
                want[kind.name] -= part
                left -= part
    return [Resources(share) for share in shares]


def seconds_text(value: float) -> str:
    """A duration for people: `never`, `90 s`, `5 min`."""
    if math.isinf(value):
        return "never"
    return f"{value:g} s" if value < 120 else f"{value / 60:g} min"
