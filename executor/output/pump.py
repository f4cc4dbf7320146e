"""The output of tasks on its way through the executor, where it goes through it at all.

By default it does not: tasks inherit the pipes of the agent, and nothing here runs. With rotation, or with
progress read from the output, each stream is a pipe that one thread empties. To a rotating file the kernel
moves the bytes (splice(2)); only where somebody listens (`tap`) are they read. Either way no more is held
than one buffer, so a flood costs no memory: the pipe fills and its writer waits.

What a task wrote before it died must be in place before its end is told. `drain` copies as many bytes as
are in the pipe at that moment and then says so. It does not wait for the end of the pipe, which a daemon
may hold open for ever.
"""

import array
import contextlib
import errno
import fcntl
import os
import select
import termios
import threading
from collections import deque
from collections.abc import Callable

from executor.eventloop import Loop
from executor.output.rotating_file import RotatingFile, SharedStream

Sink = RotatingFile | SharedStream
Tap = Callable[[bytes], None]

_CHUNK = 65536
# One stream's turn; then the others have theirs.
_TURN = 16


class Stream:
    """One pipe from a task. `descriptor` is the task's end; `close_writer` once the task has it."""

    __slots__ = ("descriptor", "reader", "sink", "tap")

    def __init__(self, sink: Sink, tap: Tap | None) -> None:
        self.reader, self.descriptor = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)
        self.sink = sink
        self.tap = tap

    def close_writer(self) -> None:
        """Close our copy of the task's end, so that the stream ends with its last writer."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Pump:
    """Empties all streams in a thread of its own, which starts with the first. Taps are called on that
    thread.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._streams: dict[int, Stream] = {}
        self._orders: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._started = False
        self._buffer = bytearray(_CHUNK)
        self._running = True

    def open(self, sink: Sink, tap: Tap | None = None) -> Stream:
        """A new stream into `sink`. Raises OSError when there are no descriptors left."""
        try:
            stream = Stream(sink, tap)
        except OSError:
            sink.close()
            raise
        try:
            self.start()
        except OSError:
            stream.close_writer()
            os.close(stream.reader)
            sink.close()
            raise
        self._order(lambda: self._add(stream))
        return stream

    def start(self) -> None:
        """Start the thread, which otherwise happens with the first stream. Raises OSError where there is no
        room for one; it may be tried again.
        """
        if self._started:
            return
        try:
            self._thread.start()
        except RuntimeError as error:
            raise OSError(errno.EAGAIN, f"no thread can be made to read the output: {error}") from None
        self._started = True

    def drain(self, stream: Stream, done: Callable[[], None]) -> None:
        """Have all that is in the pipe now copied, then `done` called on the loop."""

        def order() -> None:
            if stream.reader in self._streams and self._streams[stream.reader] is stream:
                self._move(stream, _waiting(stream.reader))
            self._loop.post(done)

        self._order(order)

    def close(self) -> None:
        """Stop the thread; what is still in pipes is lost."""
        if self._started:
            self._order(self._stop)
            self._thread.join()
        for stream in list(self._streams.values()):
            self._remove(stream)
        self._epoll.close()
        os.close(self._wake)

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        os.eventfd_write(self._wake, 1)

    def _stop(self) -> None:
        self._running = False

    def _run(self) -> None:
        while self._running:
            for descriptor, _ in self._epoll.poll():
                if descriptor != self._wake:
                    self._turn(self._streams[descriptor])
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            while self._orders:
                self._orders.popleft()()

    def _add(self, stream: Stream) -> None:
        self._streams[stream.reader] = stream
        self._epoll.register(stream.reader, select.EPOLLIN)

    def _remove(self, stream: Stream) -> None:
        self._epoll.unregister(stream.reader)
        os.close(stream.reader)
        stream.sink.close()
        del self._streams[stream.reader]

    def _turn(self, stream: Stream) -> None:
        for _ in range(_TURN):
            count = self._step(stream, _CHUNK)
            if count is None:
                return
            if count == 0:
                self._remove(stream)
                return

    def _move(self, stream: Stream, count: int) -> None:
        while count > 0:
            moved = self._step(stream, min(count, _CHUNK))
            if not moved:
                return  # the end is for the next turn to see
            count -= moved

    def _step(self, stream: Stream, limit: int) -> int | None:
        """Move up to `limit` bytes; how many, 0 at the end of the stream, None when there are none now."""
        sink = stream.sink
        try:
            if stream.tap is None and isinstance(sink, RotatingFile):
                return _splice(stream.reader, sink, limit, self._buffer)
            count = os.readv(stream.reader, [memoryview(self._buffer)[:limit]])
        except BlockingIOError:
            return None
        if count:
            data = memoryview(self._buffer)[:count]
            sink.write(data)
            if stream.tap is not None:
                stream.tap(bytes(data))
        return count


def _splice(reader: int, sink: RotatingFile, limit: int, buffer: bytearray) -> int:
    room = sink.room  # asked first: it may rotate, and then the descriptor is another
    try:
        count = os.splice(reader, sink.fileno(), min(limit, room))
    except BlockingIOError:
        raise
    except OSError as error:
        # A full disk, or a file system without splice: read, so that the task does not wait for either.
        count = os.readv(reader, [memoryview(buffer)[:limit]])
        if error.errno == errno.EINVAL:
            sink.write(memoryview(buffer)[:count])
        else:
            sink.lose(count, error)
        return count
    sink.wrote(count)
    return count


def _waiting(reader: int) -> int:
    """Bytes in a pipe."""
    count = array.array("i", [0])
    fcntl.ioctl(reader, termios.FIONREAD, count)
    return count[0]
