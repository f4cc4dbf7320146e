"""When to apply policies: somebody changed a file of the directory that holds them.

inotify(7) tells of the directory, or of the nearest one above it that exists, so that it may come and go
while the service runs.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
# sys/inotify.h: close after writing, moved from and to, created, deleted, itself deleted or moved
_CHANGES = 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
_ONLY_DIRECTORIES = 0x01000000
_NO_LINKS = 0x02000000
_EVENTS = 1 << 16


class PolicyWatch:
    """Hears of changes in `place`, and `below` it in its directories; a kernel without inotify
    has none to tell. A link to a directory is none: the service does not follow it either.
    """

    __slots__ = ("_below", "_fd", "_libc", "_place")

    def __init__(self, place: Path, *, below: bool = False) -> None:
        self._place, self._below = place, below
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = int(self._libc.inotify_init1(_NONBLOCK_CLOEXEC))
        self._listen()

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def changed(self) -> bool:
        """Whether something was told since the last time. Never waits."""
        told = False
        while self._fd >= 0:
            try:
                told = bool(os.read(self._fd, _EVENTS)) or told
            except BlockingIOError:
                break
            except OSError:
                return told
        if told:
            self._listen()
        return told

    def _listen(self) -> None:
        """Watching what is watched already changes nothing."""
        for place in (self._place, *self._place.parents):
            if self._watch(place, _CHANGES | _ONLY_DIRECTORIES):
                if self._below and place == self._place:
                    self._listen_below()
                return

    def _listen_below(self) -> None:
        try:
            found = sorted(self._place.iterdir())
        except OSError:
            return
        for place in found:
            self._watch(place, _CHANGES | _ONLY_DIRECTORIES | _NO_LINKS)

    def _watch(self, place: Path, what: int) -> bool:
        return int(self._libc.inotify_add_watch(self._fd, os.fsencode(place), what)) >= 0
