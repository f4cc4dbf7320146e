"""A timer that threads wait for and that costs whoever sets it one system call: nobody is woken to wait."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field

_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK  # timerfd_create(2) has the same numbers
_OFF = struct.pack("4l", 0, 0, 0, 0)  # struct itimerspec
_libc = ctypes.PyDLL(None, use_errno=True)  # neither call waits


def _created() -> int:
    descriptor: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, _CLOEXEC_NONBLOCK)
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return descriptor


@dataclass(slots=True)
class Alarm:
    """Rings `seconds` after `set`, unless `clear` comes first."""

    seconds: float
    _timer: int = field(default_factory=_created)
    _on: bytes = field(init=False)

    def __post_init__(self) -> None:
        whole, rest = divmod(round(self.seconds * 1e9), 10**9)
        self._on = struct.pack("4l", 0, 0, whole, rest)

    def set(self) -> None:
        _libc.timerfd_settime(self._timer, 0, self._on, None)

    def clear(self) -> None:
        _libc.timerfd_settime(self._timer, 0, _OFF, None)

    def ring(self) -> None:
        """At once."""
        _libc.timerfd_settime(self._timer, 0, struct.pack("4l", 0, 0, 0, 1), None)

    def wait(self, other: int) -> None:
        """Until it rings, for one of those who wait, or `other` can be read. It may ring for nothing."""
        events = select.poll()
        events.register(self._timer, select.POLLIN)
        events.register(other, select.POLLIN)
        events.poll()
        with suppress(BlockingIOError):  # another thread has read it, or it was `other`
            os.read(self._timer, 8)
