"""Which processes may change the network that they are in (capabilities(7), CAP_NET_ADMIN)."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_NET_ADMIN = 1 << 12
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)


def network_admins() -> Iterator[tuple[int, tuple[int, int]]]:
    """Each such process, with the device and inode of its network namespace. Whoever has the capability in
    another user namespace than the network's owner has it in vain; who may take it up again (permitted, not
    effective) counts.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            found = _admin_of(entry)
        except OSError:  # it has ended, or is not ours to see
            continue
        if found is not None:
            yield int(entry.name), found


def _admin_of(process: Path) -> tuple[int, int] | None:
    status = (process / "status").read_text("utf-8", "replace")
    permitted = next((line.split()[1] for line in status.splitlines() if line.startswith("CapPrm:")), "0")
    if not int(permitted, 16) & _NET_ADMIN:
        return None
    own = (process / "ns/user").stat()
    fd = os.open(process / "ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        place = os.fstat(fd)
        owner_fd = fcntl.ioctl(fd, _NS_GET_USERNS)
        try:
            owner = os.fstat(owner_fd)
        finally:
            os.close(owner_fd)
    finally:
        os.close(fd)
    if (own.st_dev, own.st_ino) != (owner.st_dev, owner.st_ino):
        return None
    return place.st_dev, place.st_ino
