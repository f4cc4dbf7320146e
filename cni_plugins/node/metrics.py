"""What the service did: calls, errors by code, and how long calls took, per plugin and verb.

Durations are kept twice: in the buckets of a Prometheus histogram since the start, and the last 512 of each
kind exactly, from which `mesokit node status` reads its percentiles. All of it has a fixed size.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Upper bounds, in seconds.
BUCKETS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAST = 512
_CODES = 512
_PERCENTILES = (50, 90, 99)
_VERBS = frozenset(("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"))


@dataclass(slots=True)
class Durations:
    """Durations of one kind of call, in seconds."""

    count: int = 0
    total: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    last: array[float] = field(default_factory=lambda: array("d"))

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        if len(self.last) < _LAST:
            self.last.append(seconds)
        else:
            self.last[self.count % _LAST] = seconds
        self.count += 1
        self.total += seconds

    def percentiles(self) -> dict[str, float]:
        """Milliseconds, of the last 512 calls."""
        ordered = sorted(self.last)
        named = {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in _PERCENTILES}
        return {name: round(value * 1000, 2) for name, value in (*named.items(), ("max", ordered[-1]))}


class Metrics:
    """Of one thread, the supervisor's. `running` is set by whoever knows; `watching` is what is done about
    networks' files that change (network_upkeep.py). Plugins' names are the caller's to bound; codes beyond
    the first `_CODES`, which somebody else's plugin may have made up, are -1.
    """

    def __init__(self, version: str, watching: str = "off") -> None:
        self.version = version
        self.watching = watching
        self.started = time.time()
        self._began = time.monotonic()
        self._durations: dict[tuple[str, str], Durations] = {}
        self._errors: Counter[tuple[str, str, int]] = Counter()
        self._refused = 0
        self.running = 0

    def add(self, plugin: str, verb: str, seconds: float, code: int) -> None:
        """A call is over; `code` is 0, or the code of its error."""
        verb = verb if verb in _VERBS else "other"
        kind = self._durations.get((plugin, verb))
        if kind is None:
            kind = self._durations[plugin, verb] = Durations()
        kind.add(seconds)
        if code:
            if (plugin, verb, code) not in self._errors and len(self._errors) >= _CODES:
                code = -1
            self._errors[plugin, verb, code] += 1

    def refuse(self, count: int = 1) -> None:
        self._refused += count

    def status(self, threads: int, processes: Sequence[int]) -> dict[str, Any]:
        """What `mesokit node status --json` prints."""
        calls = [
            {"plugin": plugin, "verb": verb, "calls": kind.count, "milliseconds": kind.percentiles()}
            for (plugin, verb), kind in sorted(self._durations.items())
        ]
        errors = [
            {"plugin": plugin, "verb": verb, "code": code, "count": count}
            for (plugin, verb, code), count in sorted(self._errors.items())
        ]
        return {
            "version": self.version,
            "pid": processes[0],
            "workers": list(processes[1:]),
            "started": self.started,
            "uptime_seconds": round(time.monotonic() - self._began, 1),
            "running_calls": self.running,
            "refused_calls": self._refused,
            "threads": threads,
            "watch_networks": self.watching,
            "memory_bytes": memory(processes),
            "calls": calls,
            "errors": errors,
        }

    def prometheus(self, threads: int, processes: Sequence[int]) -> str:
        """The text format, version 0.0.4."""
        lines: list[str] = []

        def family(name: str, kind: str, about: str) -> None:
            lines.append(f"# HELP {name} {about}\n# TYPE {name} {kind}")

        sizes = memory(processes)
        family("mesokit_node_info", "gauge", "The running service.")
        lines.append(f"mesokit_node_info{{{_labels({'version': self.version})}}} 1")
        family("mesokit_node_start_time_seconds", "gauge", "When it started, seconds since the epoch.")
        lines.append(f"mesokit_node_start_time_seconds {self.started:.3f}")
        family("mesokit_node_running_calls", "gauge", "Plugin calls in work.")
        lines.append(f"mesokit_node_running_calls {self.running}")
        family("mesokit_node_workers", "gauge", "Processes that take calls.")
        lines.append(f"mesokit_node_workers {len(processes) - 1}")
        family("mesokit_node_threads", "gauge", "Threads that take calls.")
        lines.append(f"mesokit_node_threads {threads}")
        family("mesokit_node_refused_calls_total", "counter", "Calls sent back to the launcher.")
        lines.append(f"mesokit_node_refused_calls_total {self._refused}")
        family("mesokit_node_memory_bytes", "gauge", "Memory of the service, by kind.")
        lines += [f'mesokit_node_memory_bytes{{kind="{kind}"}} {size}' for kind, size in sizes.items()]
        family("mesokit_node_errors_total", "counter", "Calls that ended in an error, by its CNI code.")
        for (plugin, verb, code), count in sorted(self._errors.items()):
            labels = _labels({"plugin": plugin, "verb": verb, "code": str(code)})
            lines.append(f"mesokit_node_errors_total{{{labels}}} {count}")
        family("mesokit_node_call_seconds", "histogram", "Duration of plugin calls.")
        for (plugin, verb), kind in sorted(self._durations.items()):
            labels = _labels({"plugin": plugin, "verb": verb})
            below = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), kind.buckets, strict=True):
                below += count
                lines.append(f'mesokit_node_call_seconds_bucket{{{labels},le="{bound}"}} {below}')
            lines.append(f"mesokit_node_call_seconds_sum{{{labels}}} {kind.total:.6f}")
            lines.append(f"mesokit_node_call_seconds_count{{{labels}}} {kind.count}")
        return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    def escape(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())


def memory(processes: Iterable[int]) -> dict[str, int]:
    """Resident and proportional size of processes together, in bytes; empty where /proc does not tell."""
    total: Counter[str] = Counter()
    for pid in processes:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in rollup.splitlines()[1:])
        for name in ("Rss", "Pss"):
            if name in fields:
                total[name.lower()] += int(fields[name].split()[0]) * 1024
    return dict(total)
