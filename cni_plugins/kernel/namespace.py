"""Working in a namespace that is not ours, from any thread.

setns(2) moves the calling thread alone, so a thread enters a namespace, does the few system calls that look
at it (socket(2), open(2) below /proc/sys/net, fork(2)) and leaves again. What was opened inside keeps working
outside.
"""

import ctypes
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import OWN_NETNS, Namespace

_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71  # socket(7), since Linux 5.14
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


@contextmanager
def entered(namespace: Namespace) -> Iterator[None]:
    """Run the block with this thread in `namespace`. CniError 8 if the kernel refuses."""
    own = os.open(OWN_NETNS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(own)
        if (status.st_dev, status.st_ino) == (namespace.device, namespace.inode):
            yield
            return
        try:
            _setns(namespace.fd)
        except OSError as error:
            raise CniError(
                Code.INVALID_NETNS, f"cannot enter the network namespace {namespace.path}", str(error)
            ) from error
        try:
            yield
        finally:
            _setns(own)
    finally:
        os.close(own)


def fingerprint(namespace: Namespace) -> list[int]:
    """What tells a namespace from all others of this boot, for a record: the kernel gives the inode of one
    that died to the next, its cookie never (kernels before 5.14 have none). CniError 8.
    """
    known = [namespace.device, namespace.inode]
    with entered(namespace), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            cookie = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return known
    return [*known, int.from_bytes(cookie, sys.byteorder)]
