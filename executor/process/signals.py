"""Signals to whole trees and questions for survivors, those of one turn of the loop taken together.

A look at all processes costs the same for one task as for two hundred, and at a SHUTDOWN, or when many
tasks end at once, each of them needs one. A tree that grows while it is looked at gets no more than its share
of a turn: SIGKILL comes round again in the next one, and whatever else has come in has its turn before.
"""

import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

from executor.eventloop import Loop
from executor.process.launch import Process
from executor.process.procfs import Stat
from executor.process.supervisor import Supervisor

log = logging.getLogger(__name__)

PERSISTENCE = 1.5
"""Seconds for which SIGKILL is sent again to a tree that goes on growing: less than a shutdown's grace leaves
after SIGKILL."""

BREATH = 0.005
"""Seconds in between, for all else that the loop has to do."""


@dataclass(frozen=True, slots=True)
class _Signal:
    process: Process
    then: Callable[[], None] | None
    until: float
    again: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    process: Process
    then: Callable[[list[Stat]], None]


class Sweep:
    """Gathers what is asked during one turn, and does it at its end."""

    def __init__(self, loop: Loop, supervisor: Supervisor) -> None:
        self._loop = loop
        self._supervisor = supervisor
        self._signals: dict[signal.Signals, list[_Signal]] = {}
        self._questions: list[_Question] = []
        self._posted = False

    def signal(
        self, process: Process, number: signal.Signals, then: Callable[[], None] | None = None
    ) -> None:
        """Signal every process of a task, then call `then`."""
        until = self._loop.now() + (PERSISTENCE if number == signal.SIGKILL else 0.0)
        self._signals.setdefault(number, []).append(_Signal(process, then, until))
        self._post()

    def survivors(self, process: Process, then: Callable[[list[Stat]], None]) -> None:
        """Call `then` with the living processes of a task."""
        self._questions.append(_Question(process, then))
        self._post()

    def _post(self) -> None:
        if not self._posted:
            self._posted = True
            self._loop.post(self._run)

    def _run(self) -> None:
        self._posted = False
        signals, self._signals = self._signals, {}
        questions, self._questions = self._questions, []
        for number, orders in signals.items():
            processes = list({order.process.cookie: order.process for order in orders}.values())
            done = self._supervisor.signal_trees(processes, number)
            keys = ", ".join(repr(process.key) for process in processes[:5])
            more = f" and {len(processes) - 5} more" if len(processes) > 5 else ""
            if done.count and not all(order.again for order in orders):
                log.info("%s to %d processes of %s%s", number.name, done.count, keys, more)
            now = self._loop.now()
            for order in orders:
                growing = order.process.cookie in done.growing
                if growing and order.until > now:
                    self._signals.setdefault(number, []).append(replace(order, again=True))
                    continue
                if growing and number == signal.SIGKILL:
                    log.error("task %r makes processes faster than they can be killed", order.process.key)
                if order.then is not None:
                    order.then()
        if self._signals and not self._posted:
            self._posted = True
            self._loop.call_at(self._loop.now() + BREATH, self._run)
        if questions:
            members = self._supervisor.members([question.process for question in questions])
            for question in questions:
                question.then(members[question.process.cookie])
