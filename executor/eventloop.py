"""What the parts of the executor ask of the owner thread's event loop, and the loop itself.

One thread, one selector, timers on the monotonic clock. Other threads say everything through `post`;
nothing polls.
"""

import contextlib
import heapq
import itertools
import os
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

_CANCELLED = 64
"""Cancelled timers that are put up with before the heap is made anew."""

_LONGEST_WAIT = 86400.0
"""Seconds; epoll_wait(2) takes no more than 24 days at once."""


class Timer(Protocol):
    """A call that waits for its time."""

    def cancel(self) -> None:
        """Never make the call; harmless when it has been made."""


class Loop(Protocol):
    """The owner thread's loop as its guests see it. Only `post` may be used from other threads."""

    def now(self) -> float:
        """Seconds on the monotonic clock that all deadlines are on."""

    def watch(self, descriptor: int, events: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is ready (READ, WRITE or both); replaces what was watched
        before.
        """

    def unwatch(self, descriptor: int) -> None:
        """Stop watching; harmless when it was not watched. To be called before the descriptor is closed."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call once, not before `when`."""

    def post(self, callback: Callable[[], None]) -> None:
        """Call on the owner thread soon. From any thread."""


class TurningLoop(Loop, Protocol):
    """The loop as its owner sees it."""

    def run_once(self, limit: float | None = None) -> None:
        """Wait for the next thing to happen, at most `limit` seconds, and make the calls that are due."""


class _Call:
    __slots__ = ("callback", "loop")

    def __init__(self, loop: "SelectorLoop", callback: Callable[[], None]) -> None:
        self.loop = loop
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self.loop.forget_one()


class SelectorLoop:
    """The Loop that runs: call `run_once` until done. Exceptions of callbacks reach the caller of
    `run_once`. A call that ends in MemoryError is made again in the next turn, which it must bear.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, _Call]] = []
        self._cancelled = 0
        self._order = itertools.count()
        self._posted: deque[Callable[[], None]] = deque()
        self._asleep = False
        """Whether it waits, or is about to. Set before `_posted` is looked at, read after it was added to: so
        either the wait is none, or somebody ends it."""
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._wake_read, READ, self._woken)

    @property
    def wakeup(self) -> int:
        """A descriptor whose every written byte ends the wait: for signal.set_wakeup_fd."""
        return self._wake_write

    def now(self) -> float:
        return time.monotonic()

    def watch(self, descriptor: int, events: int, callback: Callable[[], None]) -> None:
        if descriptor in self._selector.get_map():
            self._selector.modify(descriptor, events, callback)
        else:
            self._selector.register(descriptor, events, callback)

    def unwatch(self, descriptor: int) -> None:
        if descriptor in self._selector.get_map():
            self._selector.unregister(descriptor)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        call = _Call(self, callback)
        heapq.heappush(self._timers, (when, next(self._order), call))
        return call

    def post(self, callback: Callable[[], None]) -> None:
        self._posted.append(callback)
        if self._asleep:
            # One that wakes it is enough: whoever comes until it has woken sees that somebody does.
            self._asleep = False
            self._wake()

    def run_once(self, limit: float | None = None) -> None:
        """Wait for the next thing to happen, at most `limit` seconds, and make the calls that are due."""
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
            self._cancelled -= 1
        wait = limit
        if self._timers:
            until = min(max(0.0, self._timers[0][0] - time.monotonic()), _LONGEST_WAIT)
            wait = until if wait is None else min(wait, until)
        self._asleep = True
        try:
            ready = self._selector.select(0.0 if self._posted else wait)
        finally:
            self._asleep = False
        for key, _ in ready:
            # A callback of this round may have stopped the watch of a later one.
            current = self._selector.get_map().get(key.fd)
            if current is not None and current.data is key.data:
                key.data()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2]
            callback, call.callback = call.callback, None
            if callback is None:
                self._cancelled -= 1
                continue
            try:
                callback()
            except MemoryError:
                # Not for good: whoever runs the loop lets some time pass, and it is called again.
                call.callback = callback
                heapq.heappush(self._timers, (now, next(self._order), call))
                raise
        for _ in range(len(self._posted)):
            callback = self._posted.popleft()
            try:
                callback()
            except MemoryError:
                self._posted.appendleft(callback)
                raise

    def forget_one(self) -> None:
        """A timer was cancelled. It leaves the heap when due, or with the others before they are the greater
        part of it: what is set and cancelled again for each of many tasks must not stay for its hours.
        """
        self._cancelled += 1
        if self._cancelled > max(_CANCELLED, len(self._timers) // 2):
            # The list stays the same object: this may be called from within the loop over it.
            self._timers[:] = [timer for timer in self._timers if timer[2].callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def close(self) -> None:
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # a wake-up is waiting to be read already

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 65536)  # the whole pipe
