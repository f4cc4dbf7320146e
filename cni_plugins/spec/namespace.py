"""A network namespace as a plugin is given it: an open descriptor, the path it came by, and its identity."""

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from cni_plugins.spec.errors import CniError, Code

_NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
_CLONE_NEWNET = 0x40000000

OWN_NETNS = "/proc/thread-self/ns/net"


@dataclass(frozen=True, slots=True)
class Namespace:
    """`device` and `inode` tell one namespace from another for as long as `fd` is open."""

    fd: int
    path: str
    device: int
    inode: int

    def same(self, other: "Namespace") -> bool:
        return (self.device, self.inode) == (other.device, other.inode)


def from_descriptor(fd: int, path: str) -> Namespace:
    """The namespace behind an open descriptor, which stays the caller's. CniError 8 if it is no network
    namespace.
    """
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        kind = 0
    if kind != _CLONE_NEWNET:
        raise CniError(Code.INVALID_NETNS, f"CNI_NETNS={path} is not a network namespace")
    status = os.fstat(fd)
    return Namespace(fd, path, status.st_dev, status.st_ino)


def open_namespace(path: str) -> Namespace | None:
    """Open `path`; None if nothing is there. CniError 8 if it is something else than a network namespace."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CniError(Code.INVALID_NETNS, f"cannot open CNI_NETNS={path}", str(error)) from error
    try:
        return from_descriptor(fd, path)
    except CniError:
        os.close(fd)
        raise


def own_mounts() -> list[int]:
    """Device and inode of this process's mount namespace: in another, a path may lead to other files. Empty
    without /proc.
    """
    try:
        found = Path("/proc/self/ns/mnt").stat()
    except OSError:
        return []
    return [found.st_dev, found.st_ino]
