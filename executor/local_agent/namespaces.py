"""The few system calls of a container that Python 3.11 has no name for: unshare, mount, umount, and lo up."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

_MNT_DETACH = 2
_NOT_THERE = frozenset((errno.ENOENT, errno.EINVAL, errno.ENOTDIR))
_NSFS_MAGIC = 0x6E736673
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the namespaces named by CLONE_* flags for new ones. Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: Path | None, target: Path, flags: int) -> None:
    """Bind mounts and propagation changes (MS_* flags); there is no file system type. Raises OSError."""
    origin = None if source is None else os.fsencode(source)
    _checked(_libc.mount(origin, os.fsencode(target), None, ctypes.c_ulong(flags), None), f"mount {target}")


def unmount(target: Path) -> None:
    """Detach a mount; one that is not mounted, or not there, is detached already. Raises OSError for the
    rest.
    """
    if _libc.umount2(os.fsencode(target), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        if number not in _NOT_THERE:
            raise OSError(number, os.strerror(number), str(target))


def is_mounted(target: Path) -> bool:
    """Whether something is mounted exactly there."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == _escaped(target) for line in lines)


def is_namespace(path: Path) -> bool:
    """Whether a path is a namespace handle (on nsfs), as a bind mount of /proc/PID/ns/net is."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    magic: int = ctypes.c_long.from_buffer(buffer).value
    return magic == _NSFS_MAGIC


def set_loopback_up() -> None:
    """Set lo up in the namespace of the calling process. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        (flags,) = struct.unpack_from("h", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _escaped(path: Path) -> str:
    """A path as mountinfo writes it."""
    return "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in str(path))


def _checked(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
