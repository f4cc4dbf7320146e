"""File locks with a deadline: flock(2), which the kernel drops when its holder dies.

flock(2) waits for ever or not at all, so whoever has a deadline asks again and again, between naps. That is
how processes wait for each other. The threads of one process (the node service has many that want the lock of
one network) first queue for a lock of the process, which wakes the next one at once.
"""

import errno
import fcntl
import os
import time
from _thread import LockType, allocate_lock
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.files import Place

_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))
# Seconds. Most locks are held for a millisecond or two. Who naps a quarter longer each time wakes soon after
# the lock is free; were each nap twice the last, it might lie free for as long as it was held.
_FIRST_NAP, _LONGEST_NAP = 0.0002, 0.02


@dataclass(slots=True)
class _Queue:
    """The threads of this process that want a file's lock; `users` counts them and its holder."""

    lock: LockType = field(default_factory=allocate_lock)
    users: int = 0


_guard = allocate_lock()
_queues: dict[tuple[int, int], _Queue] = {}  # by device and inode, for as long as they have users


def acquire(fd: int, deadline: Deadline, what: str, *, shared: bool = False) -> None:
    """Take a lock on an open file, exclusive unless `shared`. CniError 11 naming `what` when the deadline
    passes.
    """
    pause = _FIRST_NAP
    while True:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(min(pause, deadline.require(f"the lock on {what}")))
            pause = min(1.25 * pause, _LONGEST_NAP)
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


def _as_it_is(path: Place, error: CniError) -> int | None:
    """A lock file that could not be opened to be written, to be locked all the same; None where there is no
    such file, nor room for one: then nobody has its lock. `error` where that is not why.
    """
    if getattr(error.__cause__, "errno", None) not in _NO_ROOM:
        raise error
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        raise error from None


class _Locked:
    """A lock that is held during a block. A class: a call holds four, and a generator takes twice as long."""

    __slots__ = ("_deadline", "_fd", "_file", "_how", "_path", "_queue")

    def __init__(self, path: Place, deadline: Deadline, mode: int, *, shared: bool, undoing: bool) -> None:
        self._path, self._deadline, self._how = path, deadline, (mode, shared, undoing)

    def __enter__(self) -> None:
        mode, shared, undoing = self._how
        try:
            self._fd: int | None = open_file(self._path, os.O_RDWR | os.O_CREAT, mode)
        except CniError as error:
            if not undoing:
                raise
            self._fd = _as_it_is(self._path, error)
        if self._fd is None:
            return
        try:
            status = os.fstat(self._fd)
            self._file = status.st_dev, status.st_ino
            self._await_turn()
            try:
                acquire(self._fd, self._deadline, str(self._path), shared=shared)
            except BaseException:
                self._queue.lock.release()
                self._leave()
                raise
        except BaseException:
            os.close(self._fd)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd is None:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # before the next of our threads asks for it
        finally:
            self._queue.lock.release()
            self._leave()
            os.close(self._fd)

    def _await_turn(self) -> None:
        """Until the other threads of this process that were first are done with the file."""
        with _guard:
            self._queue = _queues.setdefault(self._file, _Queue())
            self._queue.users += 1
        try:
            while not self._queue.lock.acquire(timeout=self._deadline.require(f"the lock on {self._path}")):
                pass
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        with _guard:
            self._queue.users -= 1
            if not self._queue.users:
                del _queues[self._file]


def locked(
    path: Place, deadline: Deadline, *, mode: int = 0o600, shared: bool = False, undoing: bool = False
) -> _Locked:
    """Hold the lock file `path` during the block; the file stays. CniError 5 or 11.

    `undoing`: what takes back comes through on a full or read-only disk, where it would fail with what it has
    to take back never made. A lock file that is there is locked as it is; one that cannot be made is held by
    nobody. (Who gets room for it and its lock within the same milliseconds is not kept out.)
    """
    return _Locked(path, deadline, mode, shared=shared, undoing=undoing)
