"""A file that starts afresh at a size: `stdout` becomes `stdout.1`, that `stdout.2`, and the oldest goes."""

import os
from pathlib import Path


def shift(path: Path, backups: int) -> None:
    """Make room at `path`: NAME becomes NAME.1, that NAME.2, the oldest goes. Raises OSError."""
    for number in range(backups, 0, -1):
        older = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    path.unlink(missing_ok=True)


class RotatingFile:
    """A sink of bytes with at most `size` bytes to a file and `backups` older files.

    A full disk loses what does not fit, never the writer: `lost` counts those bytes, `problem` says why.
    """

    def __init__(self, path: Path, size: int, backups: int) -> None:
        """Open, appending to what is there. Raises OSError."""
        self._path = path
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
        self.problem = f"{self._path.name}: {error.strerror}"

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _open(self) -> None:
        # Not O_APPEND: splice(2) refuses it. Not waiting, should another task have put a FIFO here.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o644)
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
            shift(self._path, self._backups)
            previous = self._descriptor
            self._open()
            os.close(previous)
        except OSError as error:
            # It grows beyond its size rather than that the task waits or loses output.
            self.problem = f"{self._path.name}: {error.strerror}"


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
