"""What `mesokit run --watch` shows: the tasks as a table that changes in place.

The table is drawn where the cursor is and drawn again over itself; notes stand above it and stay. Lines are
not wrapped while it is drawn, so that it is as many lines as it has, whatever characters tasks send. More
tasks than the terminal has lines: what needs somebody comes first, the rest is counted. Where no terminal is
(a pipe, a file, TERM=dumb) there is a line for each change instead.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cni_plugins.cli.colour import coloured
from cni_plugins.cli.run_report import Teller, text_teller
from cni_plugins.cli.table import fitted
from cni_plugins.spec.text import printable
from executor.local_agent.events import ContainerStarted, Note, Observation, PluginCalled, StatusUpdate

REDRAW_INTERVAL = 0.2
"""Seconds between two looks at what has changed."""

_HEAD = ("TASK", "STATE", "ADDRESS", "AGE", "MESSAGE")
_LONGEST = 300  # characters of a message: more is never seen
_WAITING, _STARTING = "waiting", "starting"
_COLOURS = {"running": "32", "failed": "31", "error": "31", "lost": "31", "killed": "33", "killing": "33"}
_ENDED = frozenset(("finished", "failed", "error", "lost", "killed", "dropped", "gone"))
_FIRST = ("failed", "error", "lost", _STARTING, _WAITING, "killing", "running")


def in_place() -> bool:
    """Whether standard output is a terminal whose cursor can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def changes_teller() -> Teller:
    """A line on standard output for each change of a task's state, and for each note."""
    text = text_teller(sys.stdout)

    def tell(observation: Observation) -> None:
        if isinstance(observation, StatusUpdate | Note):
            text(observation)

    return tell


@dataclass(slots=True)
class _Row:
    """What is known of a task. Times are monotonic seconds."""

    task: str
    state: str = _WAITING
    health: str = ""
    addresses: str = "-"
    message: str = ""
    began: float | None = None
    ended: float | None = None


class Table:
    """The tasks of a run on standard output, which is a terminal. `draw` may raise OSError."""

    def __init__(self, tasks: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._rows = {task: _Row(task) for task in tasks}
        self._of_container: dict[str, tuple[str, ...]] = {}
        self._clock = clock
        self._notes: list[str] = []
        self._drawn = 0  # lines above the cursor
        self._columns = 0
        self._last_drawn: float | None = None
        self._changed = True

    def tell(self, observation: Observation) -> None:
        self._changed = True
        match observation:
            case ContainerStarted(container=container, tasks=tasks):
                self._of_container[container] = tasks
                for task in tasks:
                    if (row := self._rows.get(task)) is not None and row.began is None:
                        row.state, row.began = _STARTING, self._clock()
            case PluginCalled(error=error) if error:
                for task in self._of_container.get(observation.container, ()):
                    if (row := self._rows.get(task)) is not None:
                        row.message = f"{observation.verb} {observation.network}: {error}"[:_LONGEST]
            case StatusUpdate():
                self._update(observation)
            case Note(text=text):
                self._notes += [printable(line) for line in text.splitlines()]
            case _:
                pass

    def _update(self, update: StatusUpdate) -> None:
        row = self._rows.get(update.task)
        if row is None:
            return
        row.state = update.state.removeprefix("TASK_").lower()
        if row.began is None:
            row.began = self._clock()
        if row.state in _ENDED and row.ended is None:
            row.ended = self._clock()
        if update.healthy is not None:
            row.health = "healthy" if update.healthy else "unhealthy"
        if update.addresses:
            row.addresses = ",".join(address.partition("/")[0] for address in update.addresses)
        if row.state in _ENDED or update.message:
            row.message = (update.message or update.reason)[:_LONGEST]

    def draw(self, *, last: bool = False) -> None:
        """Draw what has changed, ages each second; at the end all rows, however many."""
        now = self._clock()
        terminal = shutil.get_terminal_size()
        if not (last or self._changed or self._last_drawn is None or now - self._last_drawn >= 1):
            return
        lines = self._lines(terminal.columns, 0 if last else max(terminal.lines - 1, 3), now)
        # A terminal that was resized has wrapped the old lines anew.
        resized = self._columns not in {0, terminal.columns}
        erased = "\x1b[H\x1b[2J" if resized else self._erased()
        notes, body = ("".join(f"{line}\n" for line in part) for part in (self._notes, lines))
        self._notes.clear()
        sys.stdout.write(f"{erased}{notes}\x1b[?7l{body}\x1b[?7h")
        sys.stdout.flush()
        self._drawn, self._columns, self._last_drawn, self._changed = len(lines), terminal.columns, now, False

    def _erased(self) -> str:
        """Back to the table's first line, and nothing below."""
        return "\r" + (f"\x1b[{self._drawn}A" if self._drawn else "") + "\x1b[J"

    def _lines(self, columns: int, room: int, now: float) -> list[str]:
        """The table in lines of so many columns, no more lines than `room` (0: any number)."""
        rows = list(self._rows.values())
        hidden = 0
        if room and len(rows) > room - 2:
            rows.sort(key=lambda row: _FIRST.index(row.state) if row.state in _FIRST else len(_FIRST))
            rows = rows[: room - 2]
            hidden = len(self._rows) - len(rows)
        cells = [_HEAD, *(_cells(row, now) for row in rows)]
        head, *lines = fitted(cells, columns)
        shown = [
            coloured(line, _COLOURS[row.state], sys.stdout) if row.state in _COLOURS else line
            for row, line in zip(rows, lines, strict=True)
        ]
        counts = Counter(row.state for row in self._rows.values())
        total = f"{len(self._rows)} task{'' if len(self._rows) == 1 else 's'}: "
        total += ", ".join(f"{count} {state}" for state, count in counts.most_common())
        total += f"; {hidden} not shown" if hidden else ""
        return [head, *shown, total[:columns]]


def _cells(row: _Row, now: float) -> tuple[str, ...]:
    age = "-" if row.began is None else _age((row.ended or now) - row.began)
    state = f"{row.state} {row.health}" if row.health and row.state == "running" else row.state
    return (row.task, state, row.addresses, age, row.message or "-")


def _age(seconds: float) -> str:
    """`7s`, `4m05s`, `2h03m`, `3d04h`."""
    whole = max(int(seconds), 0)
    for big, small, names in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= big:
            return f"{whole // big}{names[0]}{whole % big // small:02d}{names[1]}"
    return f"{whole}s"
