"""Messages that the kernel takes long to serve, sent by somebody else.

send(2) on a netlink socket returns when the kernel has served the message: for the deletion of a link that is
10 to 50 ms of waiting for other processors, in which no signal ends the sender. A process with several
threads has another thread send. The end of a process waits for all its threads, so that a one-shot program
would gain nothing by that: a process with one thread forks, and its child's child, which nobody has to wait
for, sends. It holds nothing but the socket: no lock, no namespace, no output that a caller waits to see
closed.
"""

import os
from _socket import socket
from _thread import _count, start_new_thread
from collections.abc import Callable
from contextlib import suppress

_DESCRIPTORS = 1 << 30


def send(channel: socket, data: bytes) -> None:
    """Have `data` sent; the answer comes to the socket. Where there is room for neither a thread nor a
    process, the caller sends.
    """

    def work() -> None:
        with suppress(OSError):  # a socket that was closed meanwhile: nobody waits for the answer
            channel.send(data)

    try:
        if _count():
            start_new_thread(work, ())
        else:
            _fork(channel, work)
    except (RuntimeError, OSError):
        work()


def _fork(channel: socket, work: Callable[[], None]) -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.closerange(0, channel.fileno())
        os.closerange(channel.fileno() + 1, _DESCRIPTORS)
        if not _is_parent():
            work()
    finally:
        os._exit(0)


def _is_parent() -> bool:
    try:
        return os.fork() != 0
    except OSError:
        return False
