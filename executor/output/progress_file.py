"""A file that a task writes progress to, followed as it grows: by inotify(7), so nothing polls.

The file need not exist yet; its directory must. What is in it already when following starts counts too. A
file that becomes shorter, or is replaced, is read from its start again.

The task may write as much and as often as it likes. Only the latest progress counts, so of what is new the
end alone is read, once in a while.
"""

import ctypes
import os
import struct
from collections.abc import Callable

from executor.eventloop import READ, Loop, Timer
from executor.output.directory import Directory

_IN_MODIFY = 0x2
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_ONLYDIR = 0x1000000
_EVENT = struct.Struct("iIII")
# Bytes; what is new beyond them is skipped, but for the end.
_MOST = 65536
# Seconds from one look to the next.
_PAUSE = 0.05

_libc = ctypes.CDLL(None, use_errno=True)


class FollowedFile:
    """Calls `tap` on the loop with what is added to a file. Close it when the task has ended."""

    def __init__(
        self,
        loop: Loop,
        directory: Directory,
        name: str,
        tap: Callable[[bytes], None],
        owner: int | None = None,
    ) -> None:
        """Begin with `name` in `directory`, which is closed at the end. A file of somebody else than us and
        uid `owner` is not read. Raises OSError when there are no watches left.
        """
        self._loop = loop
        self._directory = directory
        self._name = name
        self._owner = owner
        self._tap = tap
        self._waiting: Timer | None = None
        self._not_before = 0.0
        self._identity: tuple[int, int] | None = None
        self._offset = 0
        self._inotify = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._inotify < 0:
            error = _error("inotify_init1")
            directory.close()
            raise error
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE | _IN_ONLYDIR
        if _libc.inotify_add_watch(self._inotify, directory.reach().encode(), mask) < 0:
            error = _error(str(directory.path))
            os.close(self._inotify)
            directory.close()
            raise error
        loop.watch(self._inotify, READ, self._changed)
        self.read()

    def read(self) -> None:
        """Read what is new, or the end of it, without waiting to be told."""
        try:
            descriptor = self._directory.open_foreign(self._name, self._owner)
        except OSError:
            return  # nothing yet, or nothing to follow
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != self._identity or status.st_size < self._offset:
                self._identity, self._offset = (status.st_dev, status.st_ino), 0
            self._offset = max(self._offset, status.st_size - _MOST)
            data = os.pread(descriptor, _MOST, self._offset)
        except OSError:
            return
        finally:
            os.close(descriptor)
        self._offset += len(data)
        if data:
            self._tap(data)

    def close(self) -> None:
        """Stop following, after a last read."""
        if self._waiting is not None:
            self._waiting.cancel()
        self.read()
        self._loop.unwatch(self._inotify)
        os.close(self._inotify)
        self._directory.close()

    def _changed(self) -> None:
        data = os.read(self._inotify, 65536)
        name = os.fsencode(self._name)
        ours = False
        while data:
            _, _, _, size = _EVENT.unpack_from(data)
            ours |= data[_EVENT.size : _EVENT.size + size].rstrip(b"\0") == name
            data = data[_EVENT.size + size :]
        if ours and self._waiting is None:
            self._waiting = self._loop.call_at(max(self._not_before, self._loop.now()), self._due)

    def _due(self) -> None:
        self._waiting = None
        self._not_before = self._loop.now() + _PAUSE
        self.read()


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
