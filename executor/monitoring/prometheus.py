"""The document as Prometheus text, exposition format 0.0.4."""

from collections.abc import Iterable

from executor.monitoring.snapshot import ExecutorView, TaskView

_TASK_GAUGES = (
    ("task_memory_bytes", "gauge", "Resident memory of the processes, or what a control group charges."),
    ("task_memory_peak_bytes", "gauge", "The highest memory seen."),
    ("task_processes", "gauge", "Processes of the task."),
    ("task_threads", "gauge", "Threads of the task."),
    ("task_cpu_seconds_total", "counter", "Processor time of the task."),
    ("task_healthy", "gauge", "1 when the health check passes, 0 when it fails."),
    ("task_progress_percent", "gauge", "The task's latest progress."),
)


def to_prometheus(view: ExecutorView) -> bytes:
    """All metrics. Every one has the prefix mesokit_executor_."""
    lines: list[str] = []
    _family(lines, "info", "gauge", "The executor.", [({"id": view.executor_id}, 1)])
    subscribed = int(view.connection.phase == "subscribed")
    _family(lines, "subscribed", "gauge", "1 while subscribed with the agent.", [({}, subscribed)])
    _family(lines, "attempts_total", "counter", "SUBSCRIBE calls made.", [({}, view.connection.attempts)])
    _family(lines, "uptime_seconds", "gauge", "Age of the executor.", [({}, view.now - view.started_at)])
    count = len(view.unacknowledged)
    _family(lines, "unacknowledged_updates", "gauge", "Updates without acknowledgement.", [({}, count)])
    states: dict[str, int] = {}
    for task in view.tasks:
        states[task.state] = states.get(task.state, 0) + 1
    _family(lines, "tasks", "gauge", "Living tasks by state.", _by_state(states))
    _family(lines, "tasks_ended_total", "counter", "Ended tasks by state.", _by_state(view.ended_by_state))
    for name, kind, about in _TASK_GAUGES:
        _family(lines, name, kind, about, _samples(name, view.tasks))
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


_Samples = list[tuple[dict[str, str], float]]


def _by_state(counts: dict[str, int]) -> _Samples:
    return [({"state": state}, count) for state, count in sorted(counts.items())]


def _samples(name: str, tasks: Iterable[TaskView]) -> _Samples:
    samples: _Samples = []
    for task in tasks:
        labels = {"task": task.id}
        if name == "task_healthy":
            if task.healthy is not None:
                samples.append((labels, int(task.healthy)))
        elif name == "task_progress_percent":
            if task.progress is not None:
                samples.append((labels, task.progress.percent))
        elif task.usage is None:
            continue
        elif name == "task_cpu_seconds_total":
            samples.append(({**labels, "mode": "user"}, task.usage.user_seconds))
            samples.append(({**labels, "mode": "system"}, task.usage.system_seconds))
        else:
            samples.append((labels, getattr(task.usage, name.removeprefix("task_"))))
    return samples


def _family(lines: list[str], name: str, kind: str, about: str, samples: _Samples) -> None:
    if not samples:
        return
    lines += [f"# HELP mesokit_executor_{name} {about}", f"# TYPE mesokit_executor_{name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        shown = f"{{{inside}}}" if inside else ""
        lines.append(f"mesokit_executor_{name}{shown} {value:.10g}")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
