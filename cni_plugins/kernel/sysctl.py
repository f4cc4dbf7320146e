"""Network sysctls of a namespace, which /proc/sys/net shows to whoever is in it.

Through /proc a look-up takes time for every namespace that anybody has looked at before: the kernel keeps the
names of all of them in one place, and tries them one after another (0.5 ms for each look-up with a thousand
containers). So each thread looks through a procfs of its own, mounted nowhere, which it replaces before it
has grown.
"""

import ctypes
import os
from _thread import _local
from contextlib import suppress

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec import files
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on every architecture, since Linux 5.2
_CLOEXEC, _CREATE = 1, 6
_LOOKUPS = 256
_FOLLOWING = frozenset(
    ("mtu", "forwarding", "mc_forwarding")
)  # follow from the link, and from the whole host
_libc = ctypes.CDLL(None, use_errno=True)


class _Door:
    """`sys/net` of a procfs, good for so many look-ups."""

    __slots__ = ("descriptor", "left")

    def __init__(self) -> None:
        self.left = _LOOKUPS
        self.descriptor = _sys_net()

    def __del__(self) -> None:
        os.close(self.descriptor)


_thread = _local()


def _sys_net() -> int:
    """A descriptor of `sys/net` in a procfs of its own, or in /proc where the kernel gives none. CniError
    5.
    """
    opened = [_libc.syscall(_FSOPEN, b"proc", _CLOEXEC)]
    try:
        if opened[0] >= 0 and _libc.syscall(_FSCONFIG, opened[0], _CREATE, None, None, 0) == 0:
            opened.append(_libc.syscall(_FSMOUNT, opened[0], _CLOEXEC, 0))
        root = opened[1] if len(opened) > 1 and opened[1] >= 0 else None
        path = "sys/net" if root is not None else "/proc/sys/net"
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    except OSError as error:
        raise CniError(Code.IO, "cannot open /proc/sys/net", str(error)) from error
    finally:
        for descriptor in opened:
            if descriptor >= 0:
                os.close(descriptor)


def _door(lookups: int) -> int:
    """The directory to look up that many names in."""
    door: _Door | None = getattr(_thread, "door", None)
    if door is None or door.left < lookups:
        door = _thread.door = _Door()
    door.left -= lookups
    return door.descriptor


def _checked(name: str) -> str:
    if ".." in name.split("/") or name.startswith("/"):
        raise CniError(Code.INVALID_CONFIG, f"sysctl net/{name} leaves /proc/sys/net")
    return name


def _read(door: int, name: str) -> str | None:
    try:
        return files.read(_checked(name), directory=door).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CniError(Code.IO, f"cannot read /proc/sys/net/{name}", str(error)) from error


def _write(door: int, name: str, value: str) -> None:
    try:
        files.write(_checked(name), value.encode(), flags=0, directory=door)
    except OSError as error:
        raise CniError(Code.IO, f"cannot write {value!r} to /proc/sys/net/{name}", str(error)) from error


def read(namespace: Namespace, name: str) -> str | None:
    """The value of `net/<name>` (`ipv4/conf/eth0/arp_notify`), None if the kernel has no such thing. CniError
    5.
    """
    with entered(namespace):
        return _read(_door(1), name)


def write(namespace: Namespace, values: dict[str, str]) -> None:
    """Write each `net/<name>` in order. CniError 5 naming the one that failed."""
    with entered(namespace):
        door = _door(len(values))
        for name, value in values.items():
            _write(door, name, value)


def put(namespace: Namespace, values: dict[str, str]) -> None:
    """Write each `net/<name>` of an interface that is new; what the kernel does not have or does not let us
    write is passed over.
    """
    with entered(namespace):
        put_here(values)


def put_here(values: dict[str, str]) -> None:
    """`put` in the namespace that the calling thread is in."""
    door = _door(len(values))
    for name, value in values.items():
        with suppress(CniError):
            _write(door, name, value)


def ensure(namespace: Namespace, values: dict[str, str], *, optional: bool = False) -> dict[str, str]:
    """Write only what differs, and return the values found before. With `optional`, what the kernel does not
    have or does not let us write is passed over. CniError 5.
    """
    with entered(namespace):
        return ensure_here(values, optional=optional)


def ensure_here(values: dict[str, str], *, optional: bool = False) -> dict[str, str]:
    """`ensure` in the namespace that the calling thread is in."""
    before: dict[str, str] = {}
    door = _door(2 * len(values))
    for name, value in values.items():
        found = _read(door, name)
        if found == value or (found is None and optional):
            continue
        try:
            _write(door, name, value)
        except CniError:
            if optional:
                continue
            raise
        before[name] = found or ""
    return before


def deafen_here(ifname: str) -> None:
    """Believe no router's advertisements and no redirects on an interface whose IPv6 addresses somebody else
    chooses, in this thread's namespace. (Whoever is on the link can send a redirect in the name of a gateway
    such as fe80::1.) Only the kernel's own default, 1, gives way: an accept_ra of 2 is somebody's will.
    """
    door = _door(2)
    with suppress(CniError):
        hears = _read(door, f"ipv6/conf/{ifname}/accept_ra")
        names = {"1": ("accept_ra", "accept_redirects"), "0": ("accept_redirects",)}.get(hears or "", ())
        for name in names:
            if name == "accept_ra" or _read(door, f"ipv6/conf/{ifname}/{name}") == "1":
                _write(door, f"ipv6/conf/{ifname}/{name}", "0")


def of_interface(namespace: Namespace, name: str) -> dict[str, str]:
    """The sysctls of an interface that are not the default ones, by family and name (`ipv6/accept_ra`): what
    it loses when it leaves its namespace. CniError 5.
    """
    found: dict[str, str] = {}
    with entered(namespace):
        door = _door(_LOOKUPS)
        for family in ("ipv4", "ipv6"):
            for key in _listed(door, f"{family}/conf/{name}"):
                with suppress(CniError):  # one that was never set cannot be read (stable_secret)
                    value = _read(door, f"{family}/conf/{name}/{key}")
                    if value is not None and value != _read(door, f"{family}/conf/default/{key}"):
                        found[f"{family}/{key}"] = value
    return found


def _listed(door: int, name: str) -> list[str]:
    try:
        folder = os.open(_checked(name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=door)
    except OSError:  # the kernel has no IPv6
        return []
    try:
        return sorted(set(os.listdir(folder)) - _FOLLOWING)  # noqa: PTH208 - a descriptor
    finally:
        os.close(folder)
