"""Where a task's output goes: the two descriptors it is started with, and the wait for the last of it."""

from collections.abc import Callable
from dataclasses import dataclass

from executor.eventloop import Loop
from executor.output.directory import Directory, file_name
from executor.output.pump import Pump, Stream, Tap
from executor.output.rotating_file import RotatingFile, SharedStream

FOLDER = "tasks"
"""The folder in the sandbox that has a folder for each task's rotated output, named for its id."""


@dataclass(frozen=True, slots=True)
class OutputPolicy:
    """`size` 0 leaves the output with the agent; otherwise files of `size` bytes below `directory`, `backups`
    older.
    """

    directory: Directory | None = None
    size: int = 0
    backups: int = 2

    def prepare(self) -> None:
        """Make the folder of all tasks' output before a task can put something else there. Raises OSError."""
        if self.directory is not None and self.size:
            self.directory.enter([FOLDER], make=True).close()


class TaskOutput:
    """The output of one task. Give `stdout` and `stderr` to its Launch, then call `started`."""

    def __init__(
        self,
        pump: Pump,
        policy: OutputPolicy,
        task_id: str,
        tap: Callable[[], Tap] | None = None,
        *,
        for_checks: bool = False,
    ) -> None:
        """Prepare. `tap` makes a listener for each stream, called on the pump's thread. With `for_checks` the
        two descriptors stay open until `close`, because commands that check the task write to the same
        files. Raises OSError.
        """
        self._for_checks = for_checks
        self._pump = pump
        self._streams: list[Stream] = []
        self.stdout, self.stderr = 1, 2
        if policy.size or tap is not None:
            try:
                for descriptor, name in ((1, "stdout"), (2, "stderr")):
                    sink = _sink(policy, task_id, name) if policy.size else SharedStream(descriptor)
                    self._streams.append(pump.open(sink, tap() if tap else None))
            except OSError:
                self.close()
                raise
            self.stdout, self.stderr = (stream.descriptor for stream in self._streams)

    def started(self) -> None:
        """The task has its descriptors, or will never have them: close ours."""
        if not self._for_checks:
            self.close()

    def close(self) -> None:
        """Nobody is started any more who writes here. May be repeated."""
        for stream in self._streams:
            stream.close_writer()

    def drain(self, loop: Loop, done: Callable[[], None], limit: float = 5.0) -> None:
        """Call `done` once everything written until now is in place; at once when nothing is in between.

        After `limit` seconds it is called all the same: an agent that reads no output must not keep back
        the news.
        """
        waiting = len(self._streams)
        if not waiting:
            done()
            return

        def one_done() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0:
                timer.cancel()
                done()

        def give_up() -> None:
            nonlocal waiting
            waiting = -1
            done()

        timer = loop.call_at(loop.now() + limit, give_up)
        for stream in self._streams:
            self._pump.drain(stream, one_done)

    @property
    def problem(self) -> str:
        """What kept output from being written, or empty."""
        lost = sum(stream.sink.lost for stream in self._streams)
        problems = [stream.sink.problem for stream in self._streams if stream.sink.problem]
        return f"{'; '.join(problems)} ({lost} bytes of output lost)" if problems else ""


def _sink(policy: OutputPolicy, task_id: str, name: str) -> RotatingFile:
    assert policy.directory is not None
    below = (FOLDER, file_name(task_id))
    policy.directory.enter(below, make=True).close()
    return RotatingFile(policy.directory, name, policy.size, policy.backups, below)
