"""Network devices as sysfs(5) tells them: what tells one from all others, and what hardware it is.

A device keeps the inode of its directory in sysfs through names, MAC addresses, aliases and namespaces, and
no other device gets it while the node runs (kernfs numbers its nodes upwards). A task that may make and
rename links of its namespace has no way to it. A sysfs shows the devices of the namespace that it was mounted
from: here one is mounted nowhere, for each question.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cni_plugins.kernel import links
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.namespace import Namespace

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on every architecture, since Linux 5.2
_CLOEXEC, _CREATE = 1, 6
_libc = ctypes.CDLL(None, use_errno=True)

#: Drivers that give a device to a program: it is no link of any namespace then (DPDK).
USERSPACE_DRIVERS = frozenset(("vfio-pci", "uio_pci_generic", "igb_uio"))


@contextmanager
def _class_net(namespace: Namespace) -> Iterator[int]:
    """A descriptor of `class/net` in a sysfs of that namespace. OSError where the kernel gives none."""
    opened: list[int] = []
    try:
        with entered(namespace):
            opened.append(_libc.syscall(_FSOPEN, b"sysfs", _CLOEXEC))
            if opened[0] >= 0 and _libc.syscall(_FSCONFIG, opened[0], _CREATE, None, None, 0) == 0:
                opened.append(_libc.syscall(_FSMOUNT, opened[0], _CLOEXEC, 0))
        if len(opened) < 2 or opened[1] < 0:
            raise OSError(ctypes.get_errno(), "no sysfs")
        opened.append(os.open("class/net", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened[1]))
        yield opened[2]
    finally:
        for descriptor in opened:
            if descriptor >= 0:
                os.close(descriptor)


def identity(namespace: Namespace, name: str) -> int:
    """What tells the device called `name` from all others of this boot; 0 when there is none, or the kernel
    gives no sysfs (before Linux 5.2).
    """
    try:
        with _class_net(namespace) as folder:
            return os.stat(name, dir_fd=folder).st_ino
    except OSError:
        return 0


def find(netlink: Netlink, wanted: int) -> Link | None:
    """The link of the socket's namespace with that identity, whatever it is called. CniError 999."""
    found = ""
    try:
        with _class_net(netlink.namespace) as folder:
            for name in os.listdir(folder):  # noqa: PTH208 - a descriptor
                with suppress(OSError):  # gone meanwhile
                    if os.stat(name, dir_fd=folder).st_ino == wanted:
                        found = name
    except OSError:
        return None
    return links.find(netlink, found) if found else None


def driver(device: Path) -> str:
    """The driver of a device of a bus (`/sys/bus/pci/devices/0000:00:1f.6`), "" without one."""
    try:
        return (device / "driver").resolve(strict=True).name
    except OSError:
        return ""


def interface_of(device: Path) -> str | None:
    """The first network interface of a device of a bus, or of the virtio device that it is; None without
    one.
    """
    for folder in (device / "net", *sorted(device.glob("virtio*/net"))):
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError:
            continue
        if names:
            return names[0]
    return None
