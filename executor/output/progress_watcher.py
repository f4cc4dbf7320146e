"""The progress of one task, from its output and from a progress file alike."""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from executor.eventloop import Loop
from executor.output.directory import Directory
from executor.output.progress import Reading, Scanner
from executor.output.progress_file import FollowedFile
from executor.output.progress_reporter import Progress, Reporter


@dataclass(frozen=True, slots=True)
class ProgressFile:
    """Where a task writes its progress: a name in a directory that is open. `owner` is the task's uid."""

    directory: Directory
    name: str
    owner: int | None = None


class ProgressWatcher:
    """Give `tap` to the task's output. `latest` is the last report."""

    def __init__(
        self,
        loop: Loop,
        pattern: re.Pattern[bytes],
        interval: float,
        tell: Callable[[Progress], None],
        file: ProgressFile | None = None,
    ) -> None:
        """Begin; the file's directory is closed at the end. Raises OSError when `file` cannot be followed."""
        self._loop = loop
        self._pattern = pattern
        self._reporter = Reporter(loop, interval, tell)
        self._scanners: list[Scanner] = []
        self._fresh: deque[Reading] = deque(maxlen=1)
        self._called = False
        self._file: FollowedFile | None = None
        if file is not None:
            scanner = self._new_scanner()
            self._file = FollowedFile(
                loop, file.directory, file.name, lambda data: self._read(scanner.feed(data)), file.owner
            )

    @property
    def latest(self) -> Progress | None:
        """The last report told, or None."""
        return self._reporter.latest

    def tap(self) -> Callable[[bytes], None]:
        """A listener for one stream of output; it is called on the pump's thread."""
        scanner = self._new_scanner()

        def listen(data: bytes) -> None:
            reading = scanner.feed(data)
            if reading is not None:
                # However fast progress comes, one call waits on the loop, and it takes the newest. Appended
                # before the look: `_take` may be running, and then either it sees this or is called again.
                self._fresh.append(reading)
                if not self._called:
                    self._called = True
                    self._loop.post(self._take)

        return listen

    def finish(self) -> None:
        """Tell the last report, after the output is drained and before the task's end is told. May be
        repeated.
        """
        if self._file is not None:
            self._file.close()
            self._file = None
        self._take()
        for scanner in self._scanners:
            self._read(scanner.finish())
        self._reporter.finish()

    def _new_scanner(self) -> Scanner:
        scanner = Scanner(self._pattern)
        self._scanners.append(scanner)
        return scanner

    def _take(self) -> None:
        self._called = False
        while self._fresh:
            self._read(self._fresh.popleft())

    def _read(self, reading: Reading | None) -> None:
        if reading is not None:
            self._reporter.read(reading)
