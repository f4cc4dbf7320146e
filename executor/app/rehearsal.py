"""A first task that nobody sent, while the agent has not answered SUBSCRIBE.

What is done for the first time takes longest: protobuf makes the classes of messages, and finds the fields of
each, when they are first met, which is a millisecond and a half for a LAUNCH. So one is read, a task made of
it, and its status written, in the time in which there is nothing to do. Nothing is started or told.
"""

import contextlib
import time

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.app.launch_spec import Surroundings, specify
from executor.protocol import DecodeError, Encoding, decode_repaired, encode_call, encode_event
from executor.task.state import State
from executor.task.status import make_status
from executor.task.task import Task


def rehearse(encoding: Encoding, around: Surroundings) -> None:
    """See the module. Whatever goes wrong is the real task's to tell."""
    with contextlib.suppress(DecodeError, ValueError, OSError):
        event, _ = decode_repaired(encode_event(_launch(), encoding), executor_pb2.Event(), encoding)
        specify(event.launch.task, mesos_pb2.ExecutorInfo(), around)
        task = Task(event.launch.task, None)
        task.step(State.STARTING, time.time())
        status = make_status(task, around.settings.executor_id, time.time())
        call = executor_pb2.Call(type=executor_pb2.Call.UPDATE)
        call.framework_id.value, call.executor_id.value = "rehearsal", "rehearsal"
        call.update.status.CopyFrom(status)
        encode_call(call, encoding)


def _launch() -> executor_pb2.Event:
    event = executor_pb2.Event(type=executor_pb2.Event.LAUNCH)
    task = event.launch.task
    task.name = task.task_id.value = task.agent_id.value = "rehearsal"
    scalar = task.resources.add(name="cpus", type=mesos_pb2.Value.SCALAR)
    scalar.scalar.value = 0.1
    scalar.allocation_info.role = "*"
    ports = task.resources.add(name="ports", type=mesos_pb2.Value.RANGES)
    ports.ranges.range.add(begin=1, end=1)
    task.executor.executor_id.value = "rehearsal"
    task.command.value = "exit 0"
    task.command.environment.variables.add(name="NAME", value="value")
    task.labels.labels.add(key="key", value="value")
    return event
