"""File locks with a deadline: flock(2), which the kernel drops when its holder dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.files import Place


def acquire(fd: int, deadline: Deadline, what: str) -> None:
    """Take an exclusive lock on an open file. CniError 11 naming `what` when the deadline passes."""
    pause = 0.0005
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(min(pause, deadline.require(f"the lock on {what}")))
            pause = min(pause * 2, 0.02)
        else:
            return


def open_file(path: Place, flags: int, mode: int, directory_mode: int = 0o755) -> int:
    """Open a file, making its directories when they are missing. CniError 5."""
    try:
        try:
            return os.open(path, flags | os.O_CLOEXEC, mode)
        except FileNotFoundError:
            if not flags & os.O_CREAT:
                raise
            Path(path).parent.mkdir(mode=directory_mode, parents=True, exist_ok=True)
            return os.open(path, flags | os.O_CLOEXEC, mode)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CniError(Code.IO, f"cannot open {path}", str(error)) from error


@contextmanager
def locked(path: Place, deadline: Deadline, *, mode: int = 0o600) -> Iterator[None]:
    """Hold the lock file `path` during the block; the file stays. CniError 5 or 11."""
    fd = open_file(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        acquire(fd, deadline, str(path))
        yield
    finally:
        os.close(fd)
