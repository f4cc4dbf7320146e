"""The executor's own log: a file of its own in the sandbox, apart from what tasks write, and bounded.

A log that cannot be written (a full disk, a sandbox gone read-only) is given up silently: tasks count for
more.
"""

import logging
import os
import sys
from pathlib import Path

from executor.config.settings import Settings
from executor.output.rotating_file import shift

FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s"
DATES = "%Y-%m-%dT%H:%M:%S"


class RotatingLog(logging.Handler):
    """Appends lines to a file; at `size` bytes NAME becomes NAME.1, that NAME.2, and so on to `backups`."""

    def __init__(self, path: Path, size: int, backups: int) -> None:
        super().__init__()
        self._path = path
        self._size = size
        self._backups = backups
        self._descriptor: int | None = None
        self._written = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; called under the handler's lock."""
        line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        try:
            if self._descriptor is None or (self._written and self._written + len(line) > self._size):
                self._reopen(len(line))
            assert self._descriptor is not None
            self._written += os.write(self._descriptor, line)
        except OSError:
            return

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        super().close()

    def _reopen(self, room: int) -> None:
        # Tasks may write in this directory: what they put in the log's place must neither lead us elsewhere
        # nor keep us waiting.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._path.exists() and self._path.stat().st_size + room > self._size:
            shift(self._path, self._backups)
        self._descriptor = os.open(self._path, flags, 0o640)
        self._written = os.fstat(self._descriptor).st_size


def set_up(settings: Settings) -> None:
    """Send the log where the settings say."""
    handler: logging.Handler
    if settings.log_file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        path = settings.sandbox / settings.log_file
        handler = RotatingLog(path, settings.log_size, settings.log_backups)
    handler.setFormatter(logging.Formatter(FORMAT, DATES))
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    logging.raiseExceptions = False
