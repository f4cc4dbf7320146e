"""Working in a namespace that is not ours, from any thread.

setns(2) moves the calling thread alone, so a thread enters a namespace, does the few system calls that look
at it (socket(2), open(2) below /proc/sys/net, fork(2)) and leaves again. What was opened inside keeps working
outside. Each thread remembers where it is: asking the kernel would cost more than the way there and back.
"""

import ctypes
import os
import sys
from _socket import AF_UNIX, SOCK_DGRAM, SOL_SOCKET, socket
from _thread import _local
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from types import TracebackType

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace, open_namespace

_CLONE_NEWNET = 0x40000000
SO_NETNS_COOKIE = 71  # socket(7), since Linux 5.14
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


_here = _local()


@cache
def _home() -> Namespace:
    """Where this process's threads are when they are in no block of `entered`. CniError 5."""
    found = open_namespace("/proc/self/ns/net")
    if found is None:
        raise CniError(Code.IO, "cannot open /proc/self/ns/net: is /proc mounted?")
    return found


class _Visit:
    """A block in a namespace. A class, because a call enters twenty: a generator takes twice as long."""

    __slots__ = ("_before", "_namespace")

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._before: Namespace | None = None

    def __enter__(self) -> None:
        before: Namespace = getattr(_here, "namespace", None) or _home()
        if not before.same(self._namespace):
            move_into(self._namespace)
            self._before = before
            _here.namespace = self._namespace

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            _setns(self._before.fd)
            _here.namespace = self._before


def entered(namespace: Namespace) -> _Visit:
    """Run the block with this thread in `namespace`. CniError 8 if the kernel refuses."""
    return _Visit(namespace)


@contextmanager
def visits() -> Iterator[Callable[[Namespace], None]]:
    """For the block, a function that takes this thread into a namespace, from wherever it is; at the end it
    is where it was. What it visited last has to be open while anything else enters one. CniError 8 for one
    that the kernel refuses.
    """
    before: Namespace = getattr(_here, "namespace", None) or _home()

    away = False

    def visit(namespace: Namespace) -> None:
        nonlocal away
        move_into(namespace)
        _here.namespace, away = namespace, True

    try:
        yield visit
    finally:
        if away:  # who may enter none may not even enter his own
            _setns(before.fd)
            _here.namespace = before


def move_into(namespace: Namespace) -> None:
    """Take this thread into a namespace for good, before it becomes another program. CniError 8."""
    try:
        _setns(namespace.fd)
    except OSError as error:
        raise CniError(
            Code.INVALID_NETNS, f"cannot enter the network namespace {namespace.path}", str(error)
        ) from error


def fingerprint(namespace: Namespace) -> list[int]:
    """What tells a namespace from all others of this boot, for a record: the kernel gives the inode of one
    that died to the next, its cookie never (kernels before 5.14 have none). CniError 8.
    """
    known = [namespace.device, namespace.inode]
    with entered(namespace), closing(socket(AF_UNIX, SOCK_DGRAM)) as probe:
        try:
            cookie = probe.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8)
        except OSError:
            return known
    return [*known, int.from_bytes(cookie, sys.byteorder)]
