"""Work that a call leaves for when there is time (Reply.idle), such as the removal of a table that may be
wanted again at once.

It is done `SECONDS` after the last call that left the same, or when the worker ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("mesokit.node")

SECONDS = 2.0

Work = Callable[[], None]


@dataclass(slots=True)
class Idle:
    """Safe to use from any thread. Two works with the same `key` are one."""

    seconds: float = SECONDS
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _due: dict[Any, tuple[float, Work]] = field(default_factory=dict)
    _timer: threading.Timer | None = None

    def put_off(self, works: Iterable[Work]) -> None:
        """Do these later; returns at once."""
        with self._lock:
            for work in works:
                self._due[getattr(work, "key", work)] = time.monotonic() + self.seconds, work
            self._arm()

    def finish(self) -> None:
        """Do all that is left now."""
        with self._lock:
            left = [work for _, work in self._due.values()]
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
        _do(left)

    def _arm(self) -> None:
        if self._due and self._timer is None:
            first = min(moment for moment, _ in self._due.values())
            self._timer = threading.Timer(max(0.0, first - time.monotonic()), self._ring)
            self._timer.daemon = True
            try:
                self._timer.start()
            except RuntimeError:  # no room for a thread: the next call tries again, and the end does it
                self._timer = None

    def _ring(self) -> None:
        now = time.monotonic()
        with self._lock:
            self._timer = None
            ready = [(key, work) for key, (moment, work) in self._due.items() if moment <= now]
            for key, _ in ready:
                del self._due[key]
            self._arm()
        _do([work for _, work in ready])


def _do(works: Iterable[Work]) -> None:
    for work in works:
        try:
            work()
        except Exception:  # nobody waits for it: it is tried again after the next call that leaves it
            log.exception("work that was put off failed")
