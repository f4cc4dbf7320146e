"""What one run of a check came to, whatever its kind."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from executor.eventloop import Loop


@dataclass(frozen=True, slots=True)
class Result:
    """One run's outcome. `ok` is what a health check calls success; `text` says it in words.

    At most one of `exit_code`, `http_status` and `connected` is set: what a CheckInfo of that kind reports.
    None of them is when the run did not come to an answer (it timed out, the server could not be reached).
    `transient` marks trouble on our side, such as no room for a process; it says nothing about the task and
    is not counted.
    """

    ok: bool
    text: str
    exit_code: int | None = None
    http_status: int | None = None
    connected: bool | None = None
    transient: bool = False


class Probe(Protocol):
    """One run of a check."""

    def start(self, loop: Loop, done: Callable[[Result], None]) -> None:
        """Begin; `done` is called once on the loop, later or at once."""

    def cancel(self) -> None:
        """Give up and let go of everything, processes included; `done` is not called any more."""
