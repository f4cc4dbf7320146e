"""Where a task's output goes: the two descriptors it is started with, and the wait for the last of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from executor.eventloop import Loop
from executor.output.pump import Pump, Stream, Tap
from executor.output.rotating_file import RotatingFile, SharedStream


@dataclass(frozen=True, slots=True)
class OutputPolicy:
    """`size` 0 leaves the output with the agent; otherwise files of `size` bytes in `directory`, `backups`
    older.
    """

    directory: Path
    size: int = 0
    backups: int = 2

    def task_directory(self, task_id: str) -> Path:
        """Where the rotated output of a task lies: tasks/TASK-ID of the sandbox (ids have no slash)."""
        return self.directory / "tasks" / task_id


class TaskOutput:
    """The output of one task. Give `stdout` and `stderr` to its Launch, then call `started`."""

    def __init__(
        self, pump: Pump, policy: OutputPolicy, task_id: str, tap: Callable[[], Tap] | None = None
    ) -> None:
        """Prepare. `tap` makes a listener for each stream, called on the pump's thread. Raises OSError."""
        self._pump = pump
        self._streams: list[Stream] = []
        self.stdout, self.stderr = 1, 2
        if policy.size or tap is not None:
            try:
                for descriptor, name in ((1, "stdout"), (2, "stderr")):
                    sink = _sink(policy, task_id, name) if policy.size else SharedStream(descriptor)
                    self._streams.append(pump.open(sink, tap() if tap else None))
            except OSError:
                self.started()
                raise
            self.stdout, self.stderr = (stream.descriptor for stream in self._streams)

    def started(self) -> None:
        """The task has its descriptors, or will never have them: close ours."""
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
    folder = policy.task_directory(task_id)
    folder.mkdir(parents=True, exist_ok=True)
    return RotatingFile(folder / name, policy.size, policy.backups)
