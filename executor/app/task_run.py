"""One task that the executor keeps, with everything that belongs to it while it lives."""

from dataclasses import dataclass, field

from executor.checks.check import Checker
from executor.checks.health import HealthChecker
from executor.eventloop import Timer
from executor.output.progress_watcher import ProgressWatcher
from executor.output.task_output import TaskOutput
from executor.process.launch import Launch, Process
from executor.task.status import Ending
from executor.task.task import Task


@dataclass(slots=True, eq=False)
class TaskRun:
    """`process` is there while the task's own process is; `ending` from then on. `lingering` are pidfds of
    processes that the task left behind and that are given the rest of its grace. While it is `draining`,
    all of it is over but the last of its output."""

    task: Task
    launch: Launch | None = None
    process: Process | None = None
    started: Process | None = None
    ending: Ending | None = None
    lingering: list[int] = field(default_factory=list)
    escalation: Timer | None = None
    completion: Timer | None = None
    health: HealthChecker | None = None
    checker: Checker | None = None
    output: TaskOutput | None = None
    progress: ProgressWatcher | None = None
    draining: bool = False

    def silence(self) -> None:
        """No check may speak of the task from here on."""
        if self.health is not None:
            self.health.pause()
        if self.checker is not None:
            self.checker.pause()
