"""What tasks use: from a control group of their own where they have one, else added up over their processes.

A task shares the executor's group unless somebody gave it another; the group then tells of the whole
container, the executor included, and is reported as the container's. Adding up sees every process that
lives, and the processor time of those that were waited for; a child that died unnoticed between two samples
is missing, so times never go back: the highest seen is kept.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from executor.monitoring import cgroup
from executor.process.launch import Process
from executor.process.procfs import Stat
from executor.process.supervisor import Supervisor

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one task uses. `source` is "cgroup" or "processes"; `memory_peak_bytes` is the highest sample."""

    source: str
    user_seconds: float
    system_seconds: float
    memory_bytes: int
    memory_peak_bytes: int
    processes: int
    threads: int


class Sampler:
    """Samples on demand, all tasks in one look."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._own = cgroup.group_of(os.getpid())
        self._last: dict[str, Usage] = {}

    def sample(self, processes: Iterable[Process]) -> dict[str, Usage]:
        """The usage of each running task, by its process's key."""
        wanted = list(processes)
        members = self._supervisor.members(wanted)
        self._last = {
            process.cookie: self._keep_highest(process, self._measure(process, members[process.cookie]))
            for process in wanted
        }
        return {process.key: self._last[process.cookie] for process in wanted}

    def container(self, container_id: str | None) -> cgroup.GroupUsage | None:
        """The container's own group: all tasks and the executor. None where it has none."""
        own = cgroup.container_of(self._own, container_id)
        return cgroup.read(own) if own is not None else None

    def _measure(self, process: Process, entries: list[Stat]) -> Usage:
        added = Usage(
            "processes",
            user_seconds=sum(entry.user + entry.children_user for entry in entries) * _TICK,
            system_seconds=sum(entry.system + entry.children_system for entry in entries) * _TICK,
            memory_bytes=sum(entry.rss for entry in entries) * _PAGE,
            memory_peak_bytes=0,
            processes=len(entries),
            threads=sum(entry.threads for entry in entries),
        )
        group = cgroup.group_of(process.pid)
        if group is None or group == self._own:
            return added
        told = cgroup.read(group)
        if told.memory_bytes is None or told.user_seconds is None or told.system_seconds is None:
            return added
        return replace(
            added,
            source="cgroup",
            user_seconds=told.user_seconds,
            system_seconds=told.system_seconds,
            memory_bytes=told.memory_bytes,
            memory_peak_bytes=told.memory_peak_bytes or 0,
        )

    def _keep_highest(self, process: Process, usage: Usage) -> Usage:
        last = self._last.get(process.cookie, usage)
        return replace(
            usage,
            user_seconds=max(usage.user_seconds, last.user_seconds),
            system_seconds=max(usage.system_seconds, last.system_seconds),
            memory_peak_bytes=max(usage.memory_peak_bytes, usage.memory_bytes, last.memory_peak_bytes),
        )
