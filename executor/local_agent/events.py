"""What the agent tells about its work while it works: one frozen record for each thing worth seeing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mesos.v1 import mesos_pb2


@dataclass(frozen=True, slots=True)
class PluginCalled:
    """One CNI call came back. `addresses` are CIDR texts, `seconds` its duration, `error` "" on success."""

    container: str
    verb: str
    network: str
    ifname: str
    plugin: str
    seconds: float
    addresses: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    """An executor was started; `nsenter` is the command line that enters its namespaces."""

    container: str
    executor: str
    pid: int
    sandbox: str
    nsenter: tuple[str, ...]
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExecutorSubscribed:
    """The executor's event stream is open. `transport` is `unix` or `tcp`, `encoding` that of the events."""

    container: str
    transport: str
    encoding: str


@dataclass(frozen=True, slots=True)
class StatusUpdate:
    """A task's new state, from the executor or (`source` AGENT) from the agent itself."""

    container: str
    task: str
    state: str
    source: str
    message: str = ""
    reason: str = ""
    healthy: bool | None = None
    addresses: tuple[str, ...] = ()
    status: mesos_pb2.TaskStatus = field(default_factory=mesos_pb2.TaskStatus, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class FrameworkMessage:
    """The executor sent the framework a message of so many bytes."""

    container: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ExecutorExited:
    """The executor's process ended; `exit` is in words."""

    container: str
    exit: str


@dataclass(frozen=True, slots=True)
class ContainerGone:
    """Everything of the container is gone: processes, attachments, mounts, namespaces. Its sandbox goes with
    the agent, unless that is to keep it.
    """

    container: str
    sandbox: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something to know that stops nothing, or (`trouble`) something that went wrong."""

    text: str
    trouble: bool = False


Observation = (
    PluginCalled
    | ContainerStarted
    | ExecutorSubscribed
    | StatusUpdate
    | FrameworkMessage
    | ExecutorExited
    | ContainerGone
    | Note
)

Observer = Callable[[Observation], None]
