"""Address reservations in host-local's own files, so that a node can change plugins in either direction.

A network's directory holds one file per address, named by its text, with `CONTAINER\\r\\nIFNAME` in it;
`lock`, held while anything changes; and `last_reserved_ip.N`, where the search of range set N goes on. The
reference plugin reads every file on every call. We keep an index beside our other state, a file per owner,
and know that it is complete as long as the directory carries the modification time that we gave it: anybody
else who adds or removes a file sets another one. When it differs the index is made anew from the files, which
are the only truth.

A file of no bytes is the trace of a crash between creation and writing. Whoever holds the lock knows that
nobody is at that point, so such a file counts as free.
"""

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import Ip, parse_ip
from cni_plugins.store.locks import acquire, open_file

_LAST = "last_reserved_ip."


@dataclass(frozen=True, slots=True)
class Owner:
    """One interface of one container."""

    container_id: str
    ifname: str

    @property
    def content(self) -> str:
        return f"{self.container_id}\r\n{self.ifname}"

    def holds(self, content: str) -> bool:
        """Whether a file of this content is ours; oldest versions wrote the container alone."""
        return content.strip() in {self.content, self.container_id}


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation on disk; `ifname` is "" in the oldest format; `modified` is in seconds of the wall
    clock.
    """

    address: Ip
    container_id: str
    ifname: str
    modified: float


class Reservations:
    """A network's directory, open and locked."""

    __slots__ = ("_changed", "_index", "_synchronous", "directory")

    def __init__(self, directory: Path, index: Path) -> None:
        self.directory = directory
        self._index = index
        self._changed = False
        self._synchronous = self._is_synchronous()

    def _is_synchronous(self) -> bool:
        try:
            return int((self._index / "stamp").read_bytes()) == self.directory.stat().st_mtime_ns
        except (OSError, ValueError):
            return False

    def _entry(self, owner: Owner) -> Path:
        return self._index / hashlib.sha256(owner.content.encode()).hexdigest()[:40]

    def _rebuild(self) -> None:
        self._index.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._index.iterdir():
            path.unlink()
        owners: dict[Owner, list[str]] = {}
        for item in self.every():
            owners.setdefault(Owner(item.container_id, item.ifname), []).append(str(item.address))
        for owner, addresses in owners.items():
            self._entry(owner).write_text("\n".join(addresses))
        self._synchronous = self._changed = True

    def owned(self, owner: Owner) -> list[Ip]:
        """The addresses that `owner` holds, legacy files of its container included. CniError 5."""
        try:
            if not self._synchronous:
                self._rebuild()
            names: list[str] = []
            for key in (owner, Owner(owner.container_id, "")):
                with suppress(FileNotFoundError):
                    entry = self._entry(key)
                    indexed = entry.read_text().split()
                    held = [name for name in indexed if owner.holds(self.content(name) or "")]
                    if not held:  # a crash came between the index and the file
                        entry.unlink()
                    names += held
            return [parse_ip(name) for name in names]
        except OSError as error:
            raise CniError(
                Code.IO, f"cannot index the reservations in {self.directory}", str(error)
            ) from error

    def reindex(self) -> None:
        """Make the index anew from the files. CniError 5."""
        try:
            self._rebuild()
        except OSError as error:
            raise CniError(
                Code.IO, f"cannot index the reservations in {self.directory}", str(error)
            ) from error

    def content(self, name: str) -> str | None:
        """What stands in an address's file: None if there is none, "" if it is torn. CniError 5."""
        try:
            return (self.directory / name).read_bytes().decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CniError(Code.IO, f"cannot read {self.directory / name}", str(error)) from error

    def free(self, address: Ip) -> bool:
        """Whether nobody holds an address. CniError 5."""
        try:
            return (self.directory / str(address)).stat().st_size == 0
        except FileNotFoundError:
            return True
        except OSError as error:
            raise CniError(Code.IO, f"cannot look at {self.directory / str(address)}", str(error)) from error

    def taken(self) -> frozenset[str]:
        """The names of all files that are not torn, for a search in a crowded range. CniError 5."""
        try:
            with os.scandir(self.directory) as entries:
                return frozenset(entry.name for entry in entries if entry.stat().st_size)
        except OSError as error:
            raise CniError(Code.IO, f"cannot list {self.directory}", str(error)) from error

    def reserve(self, address: Ip, owner: Owner) -> None:
        """Write a reservation for a free address. CniError 5."""
        path = self.directory / str(address)
        entry = self._entry(owner)
        self._changed = True
        try:
            if self._synchronous:
                before = entry.read_text() + "\n" if entry.exists() else ""
                entry.write_text(before + str(address))
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                content = owner.content.encode()
                if os.write(fd, content) != len(content):
                    os.ftruncate(fd, 0)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(fd)
        except OSError as error:
            raise CniError(Code.IO, f"cannot reserve {address} in {self.directory}", str(error)) from error

    def release(self, address: str, owner: Owner) -> bool:
        """Remove `owner`'s (or a torn) reservation of an address; False if it is not there or another's.
        CniError 5.
        """
        content = self.content(address)
        held = content is not None and (content == "" or owner.holds(content))
        try:
            if held:
                self._changed = True
                (self.directory / address).unlink(missing_ok=True)
            self._forget(address, owner)  # also where a crash came between the index and the file
        except OSError as error:
            raise CniError(Code.IO, f"cannot release {address} in {self.directory}", str(error)) from error
        return held

    def _forget(self, address: str, owner: Owner) -> None:
        for key in (owner, Owner(owner.container_id, "")):
            entry = self._entry(key)
            try:
                left = [name for name in entry.read_text().split() if name != address]
            except FileNotFoundError:
                continue
            if left:
                entry.write_text("\n".join(left))
            else:
                entry.unlink()

    def last(self, number: int) -> Ip | None:
        """Where the search of range set `number` stopped; None if it is unknown."""
        try:
            return parse_ip((self.directory / f"{_LAST}{number}").read_text().strip())
        except (OSError, ValueError):
            return None

    def set_last(self, number: int, address: Ip) -> None:
        """Remember where the search stopped. CniError 5."""
        path = self.directory / f"{_LAST}{number}"
        self._changed = True
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, os.write(fd, str(address).encode()))
            finally:
                os.close(fd)
        except OSError as error:
            raise CniError(Code.IO, f"cannot write {path}", str(error)) from error

    def every(self) -> Iterator[Reservation]:
        """All reservations of the directory, read from the files themselves; torn ones are passed over."""
        with os.scandir(self.directory) as entries:
            listed = list(entries)
        for entry in listed:
            try:
                address = parse_ip(entry.name)
                content = Path(entry.path).read_bytes().decode("utf-8", "replace").strip()
                modified = entry.stat().st_mtime
            except (OSError, ValueError):
                continue
            if content:
                container, _, ifname = content.partition("\r\n")
                yield Reservation(address, container, ifname, modified)

    def torn(self) -> list[str]:
        """The names of address files that a crash left empty."""
        names = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                with suppress(ValueError, OSError):
                    parse_ip(entry.name)
                    if entry.stat().st_size == 0:
                        names.append(entry.name)
        return names

    def discard(self, name: str) -> None:
        """Remove an address's file whatever it holds; the index is made anew. CniError 5."""
        self._changed, self._synchronous = True, False
        try:
            (self.directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise CniError(Code.IO, f"cannot release {name} in {self.directory}", str(error)) from error

    def close(self) -> None:
        """Mark the directory as ours, if we changed it and the index knows."""
        if not self._changed or not self._synchronous:
            return
        now = time.time_ns()
        # Below a millisecond the kernel only knows its tick: a number it will not come upon by itself.
        stamp = now - now % 1_000_000 + 1 + int.from_bytes(os.urandom(4), "big") % 999_999
        with suppress(OSError):
            os.utime(self.directory, ns=(stamp, stamp))
            (self._index / "stamp").write_text(str(self.directory.stat().st_mtime_ns))


def directory_of(roots: Roots, data_dir: str, network: str) -> Path:
    """Where a network's reservations are; an empty `data_dir` is the default place."""
    return (roots.relocate(data_dir) if data_dir else roots.host_local) / network


@contextmanager
def opened(directory: Path, roots: Roots, deadline: Deadline) -> Iterator[Reservations]:
    """Lock a network's directory, made when missing. CniError 5 or 11."""
    lock = directory / "lock"
    fd = open_file(lock, os.O_RDWR | os.O_CREAT, 0o750)
    try:
        acquire(fd, deadline, str(lock))
        name = hashlib.sha256(str(directory).encode()).hexdigest()[:40]
        reservations = Reservations(directory, roots.run / "host-local" / name)
        try:
            yield reservations
        finally:
            reservations.close()
    finally:
        os.close(fd)
