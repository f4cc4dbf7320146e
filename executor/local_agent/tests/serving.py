"""What the API's tests share: an executor that is expected, calls of its, and raw talk over a socket."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.local_agent.environment import Identity
from executor.local_agent.events import Observation, StatusUpdate
from executor.local_agent.executor_api import ExecutorApi
from executor.local_agent.executor_state import ManagedExecutor
from executor.local_agent.task_file import read_description
from executor.protocol import Encoding, RecordIODecoder, decode_event, encode_call

Call, Event = executor_pb2.Call, executor_pb2.Event
IDENTITY = Identity("S0", "F", "E")
CONTAINER = "11111111-2222-4333-8444-555555555555"


@dataclass(slots=True)
class Stage:
    """An API with one executor that has yet to subscribe, and what the agent would have told so far."""

    api: ExecutorApi
    executor: ManagedExecutor
    told: list[Observation] = field(default_factory=list)

    @property
    def states(self) -> list[str]:
        """The states that were reported, in order."""
        return [one.state for one in self.told if isinstance(one, StatusUpdate)]


def stage(*, key: bytes = b"", chunk_size: int | None = None, tasks: bytes | None = None) -> Stage:
    """A stage whose executor is to get `tasks` (a TASK.json), or one task `t`."""
    description = tasks or b'{"name": "t", "task_id": {"value": "t"}, "command": {"value": "true"}}'
    (request,) = read_description(description, "test")
    request.executor.executor_id.value = IDENTITY.executor
    for task in request.tasks:
        task.agent_id.value = IDENTITY.agent
    told: list[Observation] = []
    executor = ManagedExecutor(
        request,
        identity=IDENTITY,
        container=CONTAINER,
        framework=mesos_pb2.FrameworkInfo(user="root", name="test"),
        agent=mesos_pb2.AgentInfo(hostname="here"),
        observe=told.append,
    )
    return Stage(ExecutorApi({("F", "E"): executor}, key, chunk_size), executor, told)


def subscribe_call() -> executor_pb2.Call:
    """SUBSCRIBE of the stage's executor."""
    return call(Call(type=Call.SUBSCRIBE, subscribe=Call.Subscribe()))


def update_call(
    state: mesos_pb2.TaskState, task: str = "t", identity: bytes | None = None
) -> executor_pb2.Call:
    """UPDATE of a task."""
    status = mesos_pb2.TaskStatus(
        task_id=mesos_pb2.TaskID(value=task),
        state=state,
        source=mesos_pb2.TaskStatus.SOURCE_EXECUTOR,
        uuid=identity or uuid.uuid4().bytes,
    )
    return call(Call(type=Call.UPDATE, update=Call.Update(status=status)))


def call(body: executor_pb2.Call) -> executor_pb2.Call:
    """A call with the ids of the stage's executor."""
    body.framework_id.value = IDENTITY.framework
    body.executor_id.value = IDENTITY.executor
    return body


def posted(
    body: executor_pb2.Call | bytes,
    encoding: Encoding = Encoding.JSON,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A POST as it travels."""
    content = body if isinstance(body, bytes) else encode_call(body, encoding)
    lines = {"Host": "x", "Content-Type": encoding.content_type, "Accept": encoding.content_type}
    lines |= {"Content-Length": str(len(content)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /api/v1/executor HTTP/1.1\r\n{head}\r\n".encode() + content


def events(records: bytes, encoding: Encoding = Encoding.JSON) -> list[executor_pb2.Event]:
    """The events of a piece of a stream."""
    return [decode_event(record, encoding) for record in RecordIODecoder().feed(records)]
