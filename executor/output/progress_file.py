"""A file that a task writes progress to, followed as it grows: by inotify(7), so nothing polls.

The file need not exist yet; its directory must. What is in it already when following starts counts too. A
file that becomes shorter, or is replaced, is read from its start again.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

from executor.eventloop import READ, Loop

_IN_MODIFY = 0x2
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_ONLYDIR = 0x1000000
_EVENT = struct.Struct("iIII")
# More than this in one go is skipped, but for the end: only the latest progress counts.
_MOST = 1024 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class FollowedFile:
    """Calls `tap` on the loop with what is added to `path`. Close it when the task has ended."""

    def __init__(self, loop: Loop, path: Path, tap: Callable[[bytes], None]) -> None:
        """Begin. Raises OSError when the directory is missing or there are no watches left."""
        self._loop = loop
        self._path = path
        self._tap = tap
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        self._inotify = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._inotify < 0:
            raise _error("inotify_init1")
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE | _IN_ONLYDIR
        if _libc.inotify_add_watch(self._inotify, os.fsencode(path.parent), mask) < 0:
            error = _error(str(path.parent))
            os.close(self._inotify)
            raise error
        loop.watch(self._inotify, READ, self._changed)
        self.read()

    def read(self) -> None:
        """Read what is new, without waiting to be told of it."""
        try:
            # The task chooses what stands here, and may be another user than we are.
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags)
        except OSError:
            return
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != self._identity or status.st_size < self._offset:
                self._identity, self._offset = (status.st_dev, status.st_ino), 0
            self._offset = max(self._offset, status.st_size - _MOST)
            while data := os.pread(descriptor, 65536, self._offset):
                self._offset += len(data)
                self._tap(data)
        except OSError:
            return  # a directory, a FIFO: nothing to follow
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Stop following, after a last read."""
        self.read()
        self._loop.unwatch(self._inotify)
        os.close(self._inotify)

    def _changed(self) -> None:
        data = os.read(self._inotify, 65536)
        name = os.fsencode(self._path.name)
        ours = False
        while data:
            _, _, _, size = _EVENT.unpack_from(data)
            ours |= data[_EVENT.size : _EVENT.size + size].rstrip(b"\0") == name
            data = data[_EVENT.size + size :]
        if ours:
            self.read()


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
