"""One executor as the agent knows it: subscription, tasks and their states, and what it is still to be told.

    REGISTERING --SUBSCRIBE--> RUNNING --shutdown--> TERMINATING --exit--> TERMINATED

Launches wait until the executor subscribes. An update is acknowledged as soon as it is recorded, each time it
is sent; whatever comes after a task's terminal update is acknowledged and dropped. What the executor leaves
unsaid when it ends, the agent says in its place.
"""

from __future__ import annotations

import asyncio
import enum
import time
import uuid
from collections.abc import Iterable, Sequence

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.local_agent.environment import Identity
from executor.local_agent.event_stream import EventStream
from executor.local_agent.events import ExecutorSubscribed, FrameworkMessage, Observer, StatusUpdate
from executor.local_agent.task_file import ContainerRequest

TERMINAL = frozenset(
    {
        mesos_pb2.TASK_FINISHED,
        mesos_pb2.TASK_FAILED,
        mesos_pb2.TASK_KILLED,
        mesos_pb2.TASK_ERROR,
        mesos_pb2.TASK_LOST,
        mesos_pb2.TASK_DROPPED,
        mesos_pb2.TASK_GONE,
    }
)
Event = executor_pb2.Event


class ExecutorState(enum.Enum):
    """Where an executor stands with its agent."""

    REGISTERING = "registering"
    RUNNING = "running"
    TERMINATING = "terminating"
    TERMINATED = "terminated"


class ManagedExecutor:
    """The agent's side of one executor. Its methods are called from the event loop only."""

    def __init__(
        self,
        request: ContainerRequest,
        *,
        identity: Identity,
        container: str,
        framework: mesos_pb2.FrameworkInfo,
        agent: mesos_pb2.AgentInfo,
        observe: Observer,
    ) -> None:
        self.request, self.identity, self.container = request, identity, container
        self.state = ExecutorState.REGISTERING
        self.states: dict[str, int] = {task.task_id.value: mesos_pb2.TASK_STAGING for task in request.tasks}
        self.addresses: tuple[str, ...] = ()
        self.network_infos: Sequence[mesos_pb2.NetworkInfo] = ()
        self.pid = 0
        self.subscribed = asyncio.Event()
        self.ending = asyncio.Event()
        self._framework, self._agent, self._observe = framework, agent, observe
        self._stream: EventStream | None = None
        self._delivered = False
        self._seen: set[bytes] = set()

    @property
    def is_over(self) -> bool:
        """Whether every task has reached its terminal state."""
        return all(state in TERMINAL for state in self.states.values())

    def subscribe(self, stream: EventStream, call: executor_pb2.Call.Subscribe, transport: str) -> None:
        """Adopt a subscription, newest wins, and say all that waited for it."""
        if self._stream is not None:
            self._stream.close()
        self._stream = stream
        if self.state is not ExecutorState.RUNNING and (
            self.state is not ExecutorState.REGISTERING or self.is_over
        ):
            # Nothing to run any more: SHUTDOWN takes the place of SUBSCRIBED (MESOS-8411).
            self.shutdown()
            return
        self.state = ExecutorState.RUNNING
        self._observe(ExecutorSubscribed(self.container, transport, stream.encoding.value))
        stream.send(
            Event(
                type=Event.SUBSCRIBED,
                subscribed=Event.Subscribed(
                    executor_info=self.request.executor,
                    framework_info=self._framework,
                    agent_info=self._agent,
                    container_id=mesos_pb2.ContainerID(value=self.container),
                ),
            )
        )
        for update in call.unacknowledged_updates:
            self.update(update.status)
        if not self._delivered:
            self._delivered = True
            self._deliver()
        self.subscribed.set()

    def update(self, status: mesos_pb2.TaskStatus) -> None:
        """Record, report and acknowledge a status update of the executor's."""
        if status.HasField("agent_id") and status.agent_id.value != self.identity.agent:
            return
        task_id = status.task_id.value
        if task_id not in self.states:
            return
        if status.uuid not in self._seen and self.states[task_id] not in TERMINAL:
            self._record(status)
        self._seen.add(status.uuid)
        if self._stream is not None:
            acknowledged = Event.Acknowledged(task_id=status.task_id, uuid=status.uuid)
            self._stream.send(Event(type=Event.ACKNOWLEDGED, acknowledged=acknowledged))
        if self.is_over:
            self.ending.set()

    def message(self, data: bytes) -> None:
        """Hand a message of the executor's to the framework."""
        self._observe(FrameworkMessage(self.container, data))

    def send_message(self, data: bytes) -> None:
        """Send the executor a message of the framework's."""
        self._send(Event(type=Event.MESSAGE, message=Event.Message(data=data)))

    def heartbeat(self) -> None:
        """Send the executor a heartbeat."""
        self._send(Event(type=Event.HEARTBEAT))

    def kill(self, task_id: str, grace: int | None = None) -> None:
        """Kill a task; `grace` (nanoseconds) overrides its own kill policy."""
        if not self._delivered:
            killed_early = mesos_pb2.TaskStatus.REASON_TASK_KILLED_DURING_LAUNCH
            self.end_tasks([task_id], mesos_pb2.TASK_KILLED, killed_early, "killed before it was delivered")
            return
        event = Event(type=Event.KILL, kill=Event.Kill(task_id=mesos_pb2.TaskID(value=task_id)))
        if grace is not None:
            event.kill.kill_policy.grace_period.nanoseconds = grace
        self._send(event)

    def shutdown(self) -> None:
        """Tell the executor to stop all its tasks and exit; who waits on `ending` sees to the rest."""
        if self.state is not ExecutorState.TERMINATED:
            self.state = ExecutorState.TERMINATING
        self._send(Event(type=Event.SHUTDOWN))
        self.ending.set()

    def disconnect(self) -> None:
        """Drop the subscription, as an agent does that is restarted."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def end(self, reason: mesos_pb2.TaskStatus.Reason, message: str) -> None:
        """The executor is gone: every task that has no terminal state gets TASK_FAILED from the agent."""
        self.state = ExecutorState.TERMINATED
        self.disconnect()
        self.end_tasks(list(self.states), mesos_pb2.TASK_FAILED, reason, message)

    def end_tasks(
        self,
        task_ids: Iterable[str],
        state: mesos_pb2.TaskState,
        reason: mesos_pb2.TaskStatus.Reason,
        message: str,
    ) -> None:
        """Give tasks a terminal state that is the agent's own word."""
        for task_id in task_ids:
            if self.states[task_id] not in TERMINAL:
                self._record(
                    mesos_pb2.TaskStatus(
                        task_id=mesos_pb2.TaskID(value=task_id),
                        state=state,
                        reason=reason,
                        message=message,
                        source=mesos_pb2.TaskStatus.SOURCE_AGENT,
                        uuid=uuid.uuid4().bytes,
                    )
                )
        if self.is_over:
            self.ending.set()

    def _deliver(self) -> None:
        waiting = [task for task in self.request.tasks if self.states[task.task_id.value] not in TERMINAL]
        if self.request.is_group:
            group = mesos_pb2.TaskGroupInfo(tasks=waiting)
            self._send(Event(type=Event.LAUNCH_GROUP, launch_group=Event.LaunchGroup(task_group=group)))
            return
        for task in waiting:
            self._send(Event(type=Event.LAUNCH, launch=Event.Launch(task=task)))

    def _send(self, event: executor_pb2.Event) -> None:
        if self._stream is not None:
            self._stream.send(event)

    def _record(self, status: mesos_pb2.TaskStatus) -> None:
        """Complete a status as the agent does before it forwards it, and report it."""
        full = mesos_pb2.TaskStatus()
        full.CopyFrom(status)
        full.agent_id.value = self.identity.agent
        full.executor_id.value = self.identity.executor
        if not full.HasField("timestamp"):
            full.timestamp = time.time()
        if not full.container_status.HasField("container_id"):
            full.container_status.container_id.value = self.container
        if not full.container_status.network_infos:
            full.container_status.network_infos.extend(self.network_infos)
        if self.pid:
            full.container_status.executor_pid = self.pid
        self.states[full.task_id.value] = full.state
        has_reason = full.HasField("reason")
        self._observe(
            StatusUpdate(
                container=self.container,
                task=full.task_id.value,
                state=mesos_pb2.TaskState.Name(full.state),
                source=mesos_pb2.TaskStatus.Source.Name(full.source).removeprefix("SOURCE_"),
                message=full.message,
                reason=mesos_pb2.TaskStatus.Reason.Name(full.reason) if has_reason else "",
                healthy=full.healthy if full.HasField("healthy") else None,
                addresses=self.addresses,
                status=full,
            )
        )
