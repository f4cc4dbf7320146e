"""A file that starts afresh at a size: `stdout` becomes `stdout.1`, that `stdout.2`, and the oldest goes."""

import os
from collections.abc import Sequence

from executor.output.directory import Directory


class RotatingFile:
    """A sink of bytes with at most `size` bytes to a file and `backups` older files.

    A full disk loses what does not fit, never the writer: `lost` counts those bytes, `problem` says why.
    """

    def __init__(
        self, directory: Directory, name: str, size: int, backups: int, below: Sequence[str] = ()
    ) -> None:
        """Open `name` in a directory that is reached from `directory` through `below`, appending to what is
        there. Raises OSError.
        """
        self._directory = directory
        self._below = tuple(below)
        self._name = name
        self._size = size
        self._backups = backups
        self._descriptor = -1
        self.lost = 0
        self.problem = ""
        self._open()

    @property
    def room(self) -> int:
        """Bytes that fit before the next rotation; at least 1."""
        if self._written >= self._size:
            self._rotate()
        return max(1, self._size - self._written)

    def fileno(self) -> int:
        """The descriptor to write up to `room` bytes to; told by `wrote`."""
        return self._descriptor

    def wrote(self, count: int) -> None:
        """Count what was written to the descriptor directly."""
        self._written += count

    def write(self, data: memoryview) -> None:
        """Write all of `data`, rotating where needed; what cannot be written is lost."""
        while data:
            piece = data[: self.room]
            try:
                count = os.write(self._descriptor, piece)
            except OSError as error:
                self.lose(len(data), error)
                return
            self._written += count
            data = data[count:]

    def lose(self, count: int, error: OSError) -> None:
        """Take note of bytes that could not be written."""
        self.lost += count
        self.problem = f"{self._name}: {error.strerror}"

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self, *, afresh: bool = False) -> None:
        folder = self._directory.enter(self._below)
        try:
            if afresh:
                folder.shift(self._name, self._backups)
            # Not O_APPEND: splice(2) refuses it.
            descriptor = folder.open_own(self._name, os.O_WRONLY, 0o644)
        finally:
            folder.close()
        try:
            self._written = os.lseek(descriptor, 0, os.SEEK_END)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _rotate(self) -> None:
        try:
            if self._backups == 0:
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                self._written = 0
                return
            previous = self._descriptor
            self._open(afresh=True)
            os.close(previous)
        except OSError as error:
            # It grows beyond its size rather than that the task waits or loses output.
            self.problem = f"{self._name}: {error.strerror}"


class SharedStream:
    """A sink that is somebody else's: the executor's own standard output or error, which the agent reads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.lost = 0
        self.problem = ""

    def write(self, data: memoryview) -> None:
        """Write all of `data`, waiting as long as the agent does not read."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError as error:
                self.lost += len(data)
                self.problem = error.strerror or ""
                return

    def close(self) -> None:
        """Nothing: it is not ours."""
