"""The executor's own log: a file of its own in the sandbox, apart from what tasks write, and bounded.

A log that cannot be written (a full disk, a sandbox gone read-only) is given up silently: tasks count for
more.

A traceback names files, lines and functions, and does not show the lines: to show them, Python would look for
the files, by names that in a bundle lead to the working directory, where a task may have put anything.
"""

import logging
import os
import sys
import threading
from pathlib import Path
from types import TracebackType

from executor.config.settings import Settings
from executor.output.directory import Directory

FORMAT = "%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s"
DATES = "%Y-%m-%dT%H:%M:%S"

_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

log = logging.getLogger(__name__)


class RotatingLog(logging.Handler):
    """Appends lines to a file; at `size` bytes NAME becomes NAME.1, that NAME.2, and so on to `backups`."""

    def __init__(self, directory: Directory, name: str, size: int, backups: int) -> None:
        super().__init__()
        self._directory = directory
        self._name = name
        self._size = size
        self._backups = backups
        self._descriptor: int | None = None
        self._written = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; called under the handler's lock."""
        line = (self.format(record) + "\n").encode("utf-8", "backslashreplace")
        try:
            if self._descriptor is None:
                self._open()
            if self._written and self._written + len(line) > self._size:
                self._begin_anew()
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

    def _open(self) -> None:
        self._descriptor = self._directory.open_own(self._name, os.O_WRONLY | os.O_APPEND, 0o640)
        self._written = os.fstat(self._descriptor).st_size

    def _begin_anew(self) -> None:
        previous = self._descriptor
        assert previous is not None
        try:
            self._directory.shift(self._name, self._backups)
            self._open()
        except OSError:
            # A task may have made a directory of the name that the older log would get.
            os.ftruncate(previous, 0)
            self._written = 0
            return
        os.close(previous)


class Formatter(logging.Formatter):
    """Lines as ever, and tracebacks without the text of the source. The text of a second is made once."""

    _second: tuple[int, str] = 0, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """As the other does it, which asks for the time zone for every line."""
        second = int(record.created)
        if second != self._second[0]:
            self._second = second, super().formatTime(record, datefmt)
        return self._second[1]

    def formatException(self, ei: _Raised) -> str:
        """Each exception with its frames, innermost last, the one that caused it before it."""
        return "\n".join(_told(ei[1])) if ei[1] is not None else ""


def set_up(settings: Settings, sandbox: Directory) -> None:
    """Send the log where the settings say, and there what ends a thread."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if settings.log_file is not None:
        handler = _in_a_file(settings.log_file, settings, sandbox)
    handler.setFormatter(Formatter(FORMAT, DATES))
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    logging.raiseExceptions = False
    # What no line of ours has in it is not found out for each: see "Optimization" in logging's documentation.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    threading.excepthook = _thread_ended


def _in_a_file(path: Path, settings: Settings, sandbox: Directory) -> logging.Handler:
    try:
        if path.is_absolute():
            folder = Directory.of(path.parent)
        else:
            folder = sandbox.enter(path.parent.parts, make=True)
        return RotatingLog(folder, path.name, settings.log_size, settings.log_backups)
    except OSError:
        return logging.NullHandler()


def _thread_ended(arguments: threading.ExceptHookArgs) -> None:
    raised = arguments.exc_value
    name = arguments.thread.name if arguments.thread is not None else "?"
    log.critical("thread %s fails\n%s", name, "\n".join(_told(raised)) if raised is not None else "")


def _told(raised: BaseException, depth: int = 10) -> list[str]:
    cause = raised.__cause__ or (None if raised.__suppress_context__ else raised.__context__)
    lines = [*_told(cause, depth - 1), "and then:"] if cause is not None and depth else []
    frame = raised.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        lines.append(f"  {code.co_filename}:{frame.tb_lineno} in {code.co_qualname}")
        frame = frame.tb_next
    return [*lines, f"{type(raised).__qualname__}: {raised}"]
