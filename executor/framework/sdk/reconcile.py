"""Reconciliation: what a master says of our tasks, asked until everything is answered. No I/O, no clock.

After each subscription every task that may live is asked for by name and agent, in batches; what is not
answered is asked for again, ever more slowly, because a master that has just taken over is silent about
agents that have not come back. Silence is never an answer. Every so often the whole list is asked for, to
find tasks that we do not know; a question about a task that cannot exist goes behind it, and its answer marks
the end of that list, since a master answers in order (master.cpp `reconcileTasks`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from executor.framework.sdk.calls import Call, TaskRef, reconcile

FENCE_AGENT = "mesokit-fence"


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: the first wait for answers, the longest one, and between two questions for everything."""

    first_wait: float = 4.0
    longest_wait: float = 30.0
    implicit_every: float = 900.0
    batch: int = 1000


@dataclass(slots=True)
class Reconciler:
    """Feed it the time, the answers and the subscriptions; it returns calls to make."""

    pace: Pace = field(default_factory=Pace)
    _remaining: dict[str, str] = field(default_factory=dict)
    _wait: float = 0.0
    _ask_at: float | None = None
    _implicit_at: float | None = None
    _fence: str = ""
    _seen: set[str] = field(default_factory=set)
    _rounds: int = 0

    @property
    def remaining(self) -> int:
        """Tasks that no answer has come for."""
        return len(self._remaining)

    @property
    def alarm(self) -> float | None:
        """When `due` has something to say, None for never."""
        return min((time for time in (self._ask_at, self._implicit_at) if time is not None), default=None)

    def subscribed(self, tasks: Iterable[TaskRef], now: float) -> list[Call]:
        """A new subscription: ask for all of these."""
        self._remaining = {task.task_id: task.agent_id for task in tasks}
        self._wait = self.pace.first_wait
        self._fence = ""
        self._implicit_at = now + self.pace.first_wait
        return self._ask(now)

    def disconnected(self) -> None:
        """Nothing is asked until the next subscription."""
        self._ask_at = self._implicit_at = None
        self._fence = ""

    def add(self, task: TaskRef, now: float) -> list[Call]:
        """One more question, for a task that has been silent too long."""
        self._remaining[task.task_id] = task.agent_id
        if self._ask_at is None:
            self._wait = self.pace.first_wait
            self._ask_at = now + self._wait
        return [reconcile([task])]

    def unlisted(self, tasks: Iterable[TaskRef], now: float) -> list[Call]:
        """The whole list has come (`heard` was True): ask for those of these that were not on it. That they
        were not proves nothing: the list has no tasks of agents that are away.
        """
        absent = [task for task in tasks if task.task_id not in self._seen]
        self._remaining.update({task.task_id: task.agent_id for task in absent})
        if absent and self._ask_at is None:
            self._wait = self.pace.first_wait
            self._ask_at = now + self._wait
        size = self.pace.batch
        return [reconcile(absent[start : start + size]) for start in range(0, len(absent), size)]

    def heard(self, task_id: str) -> bool:
        """An update of this task came. True if it ends the whole list that was asked for."""
        self._remaining.pop(task_id, None)
        if not self._remaining:
            self._ask_at = None
        if self._fence and task_id == self._fence:
            self._fence = ""
            return True
        if self._fence:
            self._seen.add(task_id)
        return False

    def due(self, now: float) -> list[Call]:
        """The calls to make now."""
        calls: list[Call] = []
        if self._ask_at is not None and now >= self._ask_at:
            self._wait = min(self._wait * 2, self.pace.longest_wait)
            calls += self._ask(now)
        if self._implicit_at is not None and now >= self._implicit_at:
            self._implicit_at = now + self.pace.implicit_every
            self._rounds += 1
            self._fence = f"{FENCE_AGENT}.{self._rounds}"
            self._seen = set()
            calls += [reconcile([]), reconcile([TaskRef(self._fence, FENCE_AGENT)])]
        return calls

    def is_fence(self, task_id: str) -> bool:
        """Whether a task id is one of the questions that nobody can answer."""
        return task_id.startswith(f"{FENCE_AGENT}.")

    def _ask(self, now: float) -> list[Call]:
        tasks = [TaskRef(task, agent) for task, agent in self._remaining.items()]
        self._ask_at = now + self._wait if tasks else None
        size = self.pace.batch
        return [reconcile(tasks[start : start + size]) for start in range(0, len(tasks), size)]
