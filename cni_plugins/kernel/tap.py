"""TAP devices: Ethernet links whose other end is a program, such as a virtual machine monitor.

Source: Documentation/networking/tuntap.rst, linux/if_tun.h.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cni_plugins.kernel import program
from cni_plugins.kernel.namespace import entered
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

_DEVICE = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER, _TUNSETGROUP = 0x400454CA, 0x400454CB, 0x400454CC, 0x400454CE
_TAP, _MULTI_QUEUE, _NO_PI, _VNET_HDR, _EXCLUSIVE = 0x0002, 0x0100, 0x1000, 0x4000, 0x8000


def create(
    namespace: Namespace,
    name: str,
    *,
    owner: int | None = None,
    group: int | None = None,
    multi_queue: bool = False,
) -> None:
    """Make a TAP device that stays, down, in `namespace`. The user `owner` and the group `group` (ids) may
    open it; None is root alone. CniError 7 when the name is taken, 50 without the driver, 999.
    """
    flags = _TAP | _NO_PI | _VNET_HDR | _EXCLUSIVE | (_MULTI_QUEUE if multi_queue else 0)
    with entered(namespace):  # the device is made in the namespace that the opener is in
        try:
            device = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CniError(
                Code.NOT_AVAILABLE, f"cannot open {_DEVICE}", f"{error}; load the module tun"
            ) from error
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        if owner is not None:
            fcntl.ioctl(device, _TUNSETOWNER, _signed(owner))
        if group is not None:
            fcntl.ioctl(device, _TUNSETGROUP, _signed(group))
        fcntl.ioctl(device, _TUNSETPERSIST, 1)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.EBUSY}:
            raise CniError(Code.INVALID_CONFIG, f"there is a link {name} already") from error
        raise CniError(Code.INTERNAL, f"cannot create the TAP device {name}", str(error)) from error
    finally:
        os.close(device)  # which takes it away again unless it is to stay


def create_labelled(
    namespace: Namespace,
    name: str,
    label: str,
    deadline: Deadline,
    *,
    owner: int | None = None,
    group: int | None = None,
    multi_queue: bool = False,
) -> None:
    """The same with the SELinux context `label` (tun_socket; selinux_tun_dev_alloc_security), which a device
    has from its maker: ip(8), started in that context. CniError 7 when the policy does not have or allow it.
    """
    argv = ["ip", "tuntap", "add", "mode", "tap", "name", name, "vnet_hdr"]
    argv += ["user", str(owner)] if owner is not None else []
    argv += ["group", str(group)] if group is not None else []
    argv += ["multi_queue"] if multi_queue else []
    with _executing(label):
        done = program.run(namespace, argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, b"", deadline)
    if done.status:
        said = done.err.decode(errors="replace").strip()
        raise CniError(Code.INTERNAL, f"cannot create the TAP device {name} in context {label!r}", said)


@contextmanager
def _executing(label: str) -> Iterator[None]:
    """What this thread executes meanwhile runs in a SELinux context (setexeccon(3))."""
    attribute = Path("/proc/thread-self/attr/exec")
    try:
        attribute.write_bytes(label.encode())
    except OSError as error:
        raise CniError(
            Code.INVALID_CONFIG, f"selinuxContext is {label!r}, and SELinux does not take it", str(error)
        ) from error
    try:
        yield
    finally:
        attribute.write_bytes(b"")


def _signed(number: int) -> int:
    """A number of 32 bits as fcntl.ioctl takes it: as a C int."""
    return number - (1 << 32) if number >> 31 else number
