"""Statuses as they travel, complete: ids, source, uuid, timestamp, and what is known of health and
checks."""

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from mesos.v1 import mesos_pb2

from executor.task.task import Task


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended: exactly one of `code` and `signal` is set."""

    code: int | None
    signal: int | None
    core: bool = False

    @property
    def text(self) -> str:
        """In the words of the built-in executors, which schedulers match on."""
        if self.signal is None:
            return f"Command exited with status {self.code}"
        name = signal.strsignal(self.signal) or f"Unknown signal {self.signal}"
        return f"Command terminated with signal {name}{' (core dumped)' if self.core else ''}"

    @property
    def facts(self) -> dict[str, int | bool]:
        """The same as data."""
        if self.signal is None:
            return {"exit_code": self.code or 0}
        return {"signal": self.signal, "core_dumped": self.core}


def new_uuid() -> bytes:
    """A random (version 4) UUID as 16 bytes, the only form that agents take."""
    raw = bytearray(os.urandom(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return bytes(raw)


def make_status(
    task: Task,
    executor_id: str,
    timestamp: float,
    *,
    message: str = "",
    reason: mesos_pb2.TaskStatus.Reason | None = None,
    facts: Mapping[str, object] | None = None,
) -> mesos_pb2.TaskStatus:
    """The status that tells of the task as it is. `facts` go into `data` as JSON and into labels as text."""
    status = mesos_pb2.TaskStatus(
        task_id=task.info.task_id,
        state=task.state.value,
        source=mesos_pb2.TaskStatus.SOURCE_EXECUTOR,
        executor_id=mesos_pb2.ExecutorID(value=executor_id),
        timestamp=timestamp,
        uuid=new_uuid(),
    )
    if message:
        # Names of files and variables may hold bytes that are no UTF-8; a status may not.
        status.message = message.encode("utf-8", "backslashreplace").decode()
    if reason is not None:
        status.reason = reason
    if task.healthy is not None:
        status.healthy = task.healthy
    if task.check_status is not None:
        status.check_status.CopyFrom(task.check_status)
    if facts:
        status.data = json.dumps(facts, ensure_ascii=False).encode()
        for name, value in facts.items():
            text = value if isinstance(value, str) else json.dumps(value)
            status.labels.labels.add(key=f"mesokit.{name}", value=text)
    return status
