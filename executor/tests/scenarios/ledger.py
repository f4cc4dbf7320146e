"""What an agent has been told about each task, and the promises an executor must keep about it.

The ledger outlives the restarts of a scripted agent, as the status updates of a checkpointing agent do. A
promise broken anywhere in a scenario is a violation, whatever the scenario is about:

* one uuid always carries the same bytes;
* at most one terminal update, and no other update after it;
* no step back: STARTING is never seen after RUNNING, RUNNING never after KILLING (MESOS-7975).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mesos.v1 import mesos_pb2

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
RANK = {mesos_pb2.TASK_STARTING: 0, mesos_pb2.TASK_RUNNING: 1, mesos_pb2.TASK_KILLING: 2}


def state_name(status: mesos_pb2.TaskStatus) -> str:
    """`RUNNING` for TASK_RUNNING: short, for assertions that list states."""
    return mesos_pb2.TaskState.Name(status.state).removeprefix("TASK_")


def same_status(one: mesos_pb2.TaskStatus, other: mesos_pb2.TaskStatus) -> bool:
    return one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


@dataclass(slots=True)
class Ledger:
    """Updates by task, in order of first arrival, each uuid once."""

    updates: dict[str, list[mesos_pb2.TaskStatus]] = field(default_factory=dict)
    deliveries: dict[bytes, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def add(self, status: mesos_pb2.TaskStatus) -> None:
        task = status.task_id.value
        known = self.updates.setdefault(task, [])
        self.deliveries[status.uuid] = self.deliveries.get(status.uuid, 0) + 1
        for earlier in known:
            if earlier.uuid == status.uuid:
                if not same_status(earlier, status):
                    self.violations.append(f"{task}: uuid {status.uuid.hex()} came with two contents")
                return
        # An update that was lost on the wire comes late, in a SUBSCRIBE; its timestamp says where it belongs.
        before = [earlier for earlier in known if earlier.timestamp <= status.timestamp]
        if any(earlier.state in TERMINAL for earlier in known):
            final = next(earlier for earlier in known if earlier.state in TERMINAL)
            if status.state in TERMINAL or status.timestamp > final.timestamp:
                self.violations.append(
                    f"{task}: {state_name(status)} ({status.message}) after"
                    f" {state_name(final)} ({final.message})"
                )
        rank = RANK.get(status.state)
        if rank is not None and any(RANK.get(earlier.state, -1) > rank for earlier in before):
            names = [state_name(one) for one in before]
            self.violations.append(f"{task}: {state_name(status)} after {names}")
        known.append(status)

    def states(self, task: str) -> list[str]:
        """States in order of creation, runs of one state folded: health updates are RUNNING repeated."""
        ordered = sorted(self.updates.get(task, []), key=lambda status: status.timestamp)
        names = [state_name(status) for status in ordered]
        return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]

    def final(self, task: str) -> mesos_pb2.TaskStatus | None:
        """The terminal update of a task, if it has come."""
        return next((one for one in self.updates.get(task, []) if one.state in TERMINAL), None)
