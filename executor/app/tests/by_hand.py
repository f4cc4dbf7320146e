"""The parts of an executor put together by hand: a clock that goes when told, processes that are only said to
be, and a link that writes down what it is asked for."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.app.connection import Connection
from executor.app.executor import Executor
from executor.app.launch_spec import Surroundings
from executor.app.sandbox import TaskFiles
from executor.app.task_event import ProgressMade, Said
from executor.app.task_manager import TaskManager
from executor.app.task_run import Services
from executor.config.settings import Settings, load
from executor.output.progress_reporter import Progress
from executor.output.pump import Pump
from executor.output.task_output import OutputPolicy, TaskOutput
from executor.process.launch import Exit, Launch, LaunchError, Process
from executor.process.procfs import Stat
from executor.process.signals import Sweep
from executor.process.tests.fixtures import ManualLoop
from executor.process.tree import Signalled
from executor.protocol import Encoding, decode_call
from executor.transport import CallAnswered, EventReceived, Report

Event = executor_pb2.Event
ENVIRON = {
    "MESOS_FRAMEWORK_ID": "F",
    "MESOS_EXECUTOR_ID": "E",
    "MESOS_AGENT_ENDPOINT": "127.0.0.1:5051",
    "MESOS_CHECKPOINT": "1",
    "MESOS_SUBSCRIPTION_BACKOFF_MAX": "2secs",
}


def settings(*options: str, **variables: str) -> Settings:
    return load({**ENVIRON, **variables}, options, Path("/"))


class Turns(ManualLoop):
    """A manual loop that an executor can turn: what is due is called, and the clock stands."""

    def run_once(self, limit: float | None = None) -> None:
        self.advance(0.0)


@dataclass
class Started:
    """A start that was asked for."""

    launch: Launch
    started: Callable[[Process | LaunchError], None]
    ended: Callable[[Exit], None]
    number: int
    process: Process | None = None

    def runs(self) -> None:
        self.process = Process(self.launch.key, 10**8 + self.number, -1, 1, str(self.number), self.number)
        self.started(self.process)

    def fails(self, error: LaunchError) -> None:
        self.started(error)

    def ends(self, code: int | None = 0, number: int | None = None) -> None:
        self.ended(Exit(code, number))


@dataclass
class Processes:
    """In a supervisor's place. `living` are those that are left of a task, by the number of its start;
    `growing` are the starts whose processes make others faster than they are killed.
    """

    starts: list[Started] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    signals: list[tuple[int, int]] = field(default_factory=list)
    living: dict[int, list[Stat]] = field(default_factory=dict)
    growing: set[int] = field(default_factory=set)
    refuse: Exception | None = None

    def begin(
        self,
        launch: Launch,
        started: Callable[[Process | LaunchError], None],
        ended: Callable[[Exit], None],
    ) -> int:
        if self.refuse is not None:
            raise self.refuse
        self.starts.append(Started(launch, started, ended, len(self.starts) + 1))
        return len(self.starts)

    def cancel(self, number: int) -> None:
        self.cancelled.append(number)

    def signal_trees(self, processes: list[Process], number: int) -> Signalled:
        self.signals += [(process.token, number) for process in processes]
        return Signalled(
            len(processes), frozenset(one.cookie for one in processes if one.token in self.growing)
        )

    def signal_tree(self, process: Process, number: int) -> int:
        return self.signal_trees([process], number).count

    def members(self, processes: Iterable[Process]) -> Mapping[str, list[Stat]]:
        return {process.cookie: self.living.get(process.token, []) for process in processes}


@dataclass
class World:
    """Tasks without an agent."""

    loop: Turns
    processes: Processes
    tasks: TaskManager
    services: Services

    @property
    def started(self) -> Started:
        """The latest start."""
        return self.processes.starts[-1]

    def said(self) -> list[str]:
        """What the tasks have said since the last look: `id STATE`, and the words of the last state."""
        found = []
        while (said := self.tasks.take()) is not None:
            found.append(words(said))
        return found

    def statuses(self) -> list[mesos_pb2.TaskStatus]:
        found = []
        while (said := self.tasks.take()) is not None:
            assert not isinstance(said, ProgressMade)
            found.append(said.status)
        return found


def words(said: Said) -> str:
    if isinstance(said, ProgressMade):
        return f"{said.task_id} {said.progress.percent}%"
    return f"{said.status.task_id.value} {mesos_pb2.TaskState.Name(said.status.state).removeprefix('TASK_')}"


def world(*options: str) -> World:
    made, loop, processes = settings(*options), Turns(), Processes()
    any_supervisor: Any = processes

    def prepare(info: mesos_pb2.TaskInfo, launch: Launch, tell: Callable[[Progress], None]) -> TaskFiles:
        any_pump: Any = None
        pump: Pump = any_pump
        return TaskFiles(launch, launch, TaskOutput(pump, OutputPolicy(), info.task_id.value), None)

    services = Services(loop, any_supervisor, Sweep(loop, any_supervisor), prepare, made)
    return World(loop, processes, TaskManager(services, Surroundings(made, {"PATH": "/bin"})), services)


def task(task_id: str, command: str = "exit 0", grace: float | None = None) -> mesos_pb2.TaskInfo:
    info = mesos_pb2.TaskInfo(name=task_id)
    info.task_id.value = task_id
    info.agent_id.value = "A"
    info.command.value = command
    if grace is not None:
        info.kill_policy.grace_period.nanoseconds = int(grace * 1e9)
    return info


def launch_event(*infos: mesos_pb2.TaskInfo) -> executor_pb2.Event:
    event = Event(type=Event.LAUNCH_GROUP)
    event.launch_group.task_group.tasks.extend(infos)
    return event


def subscribed() -> executor_pb2.Event:
    event = Event(type=Event.SUBSCRIBED)
    event.subscribed.executor_info.executor_id.value = "E"
    event.subscribed.framework_info.user = event.subscribed.framework_info.name = "x"
    event.subscribed.agent_info.hostname = "h"
    return event


@dataclass
class Wire:
    """In a link's place."""

    hear: Callable[[Report], None]
    calls: list[executor_pb2.Call] = field(default_factory=list)
    attempt: int = 0
    refuse: Exception | None = None

    def subscribe(self, attempt: int, body: bytes) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.attempt = attempt
        self.calls.append(decode_call(body, Encoding.PROTOBUF))

    def send(self, attempt: int, uuid: bytes | None, body: bytes, task: str | None = None) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.calls.append(decode_call(body, Encoding.PROTOBUF))

    def drop(self) -> None:
        self.attempt = 0

    def close(self) -> None:
        self.attempt = -1

    def event(self, event: executor_pb2.Event) -> None:
        self.hear(EventReceived(self.attempt, event))

    def updates(self) -> list[mesos_pb2.TaskStatus]:
        return [call.update.status for call in self.calls if call.type == executor_pb2.Call.UPDATE]

    def acknowledge(self, status: mesos_pb2.TaskStatus) -> None:
        made = Event(type=Event.ACKNOWLEDGED)
        made.acknowledged.task_id.value = status.task_id.value
        made.acknowledged.uuid = status.uuid
        self.event(made)

    def answer(self, status: mesos_pb2.TaskStatus, code: int) -> None:
        self.hear(CallAnswered(self.attempt, status.uuid, code, "so it is"))


def connected(made: Settings, loop: Turns) -> tuple[Connection, Wire]:
    """A connection that has sent its first SUBSCRIBE."""
    wires: list[Wire] = []

    def link(_: object, hear: Callable[[Report], None]) -> Wire:
        wires.append(Wire(hear))
        return wires[0]

    connection = Connection(made, loop, link)
    connection.open()
    return connection, wires[0]


@dataclass
class Whole:
    """An executor and all around it."""

    world: World
    executor: Executor
    connection: Connection
    wire: Wire

    def turn(self, seconds: float = 0.0) -> int | None:
        """Let time pass, then turn until nothing more happens; the exit status, if it has one."""
        if seconds:
            self.world.loop.advance(seconds)
        status = None
        for _ in range(20):
            if status is None:
                status = self.executor.turn()
        return status

    def run(self, *infos: mesos_pb2.TaskInfo) -> None:
        """Launch tasks, and let their processes be started."""
        before = len(self.world.processes.starts)
        self.wire.event(launch_event(*infos))
        self.turn()
        for started in self.world.processes.starts[before:]:
            started.runs()
        self.turn()

    def acknowledge_all(self) -> None:
        for status in self.connection.session.unacknowledged:
            self.wire.acknowledge(status)


def whole(*options: str, **variables: str) -> Whole:
    """An executor that is subscribed."""
    made = world(*options)
    chosen = settings(*options, **variables)
    connection, wire = connected(chosen, made.loop)
    executor = Executor(chosen, made.loop, connection, made.tasks)
    wire.event(subscribed())
    result = Whole(made, executor, connection, wire)
    result.turn()
    return result
