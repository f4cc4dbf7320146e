"""Address reservations in host-local's own files, so that a node can change plugins in either direction.

A network's directory holds one file per address, named by its text, with `CONTAINER\\r\\nIFNAME` in it;
`lock`, held while anything changes; and `last_reserved_ip.N`, where the search of range set N goes on. The
reference plugin reads every file on every call. We keep an index beside our other state, a file per owner,
and know that it is complete as long as the directory carries the modification time that we gave it: anybody
else who adds or removes a file sets another one. When it differs the index is made anew from the files, which
are the only truth.

Each file of ours carries the boot and the moment of its making in an extended attribute: the file's times are
of the wall clock, which may be set, and its content is the reference plugin's. A file system without
attributes makes a reservation that is never taken for void.

A file of no bytes is the trace of a crash between creation and writing. Whoever holds the lock knows that
nobody is at that point, so such a file counts as free.
"""

import hashlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cni_plugins.spec import files
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import Ip, parse_ip
from cni_plugins.store import boot
from cni_plugins.store.locks import locked

T = TypeVar("T")
_A_WHILE = 1_000  # files
_LAST = "last_reserved_ip."
_MARK = "user.mesokit.reserved"


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
    """A reservation on disk; `ifname` is "" in the oldest format. `boot` is the boot in which it was made,
    and `at` the seconds since then (the clock of store.boot); "" and 0 for one that somebody else made.
    """

    address: Ip
    container_id: str
    ifname: str
    boot: str
    at: float


class Reservations:
    """A network's directory, open and locked."""

    __slots__ = ("_changed", "_deadline", "_index", "_synchronous", "_taken", "directory")

    def __init__(self, directory: str, index: str, deadline: Deadline) -> None:
        self.directory = directory
        self._index = index
        self._deadline = deadline
        self._taken: set[str] | None = None
        self._changed = False
        self._synchronous = self._is_synchronous()

    def _is_synchronous(self) -> bool:
        try:
            return int(files.read(f"{self._index}/stamp")) == os.stat(self.directory).st_mtime_ns
        except (OSError, ValueError):
            return False

    def _entry(self, owner: Owner) -> str:
        return f"{self._index}/{hashlib.sha256(owner.content.encode()).hexdigest()[:40]}"

    def _rebuild(self) -> None:
        _cleared(self._index)
        for item in self.every():  # one by one: memory for ten thousand would stay with the process
            entry = self._entry(Owner(item.container_id, item.ifname))
            files.write(entry, f"{item.address}\n".encode(), flags=os.O_CREAT | os.O_APPEND)
        self._synchronous = self._changed = True

    def owned(self, owner: Owner) -> list[Ip]:
        """The addresses that `owner` holds, legacy files of its container included. CniError 5."""
        with suppress(OSError):
            if not self._synchronous:
                self._rebuild()
            try:
                return self._indexed(owner)
            except (ValueError, IsADirectoryError):  # somebody wrote into the index: it is but a cache
                self._rebuild()
                return self._indexed(owner)
        # No room for an index, or none that may be written: a container is taken apart without one.
        self._synchronous = False
        try:
            return [
                item.address for item in self.every() if owner.holds(f"{item.container_id}\r\n{item.ifname}")
            ]
        except OSError as error:
            raise CniError(Code.IO, f"cannot list {self.directory}", str(error)) from error

    def _indexed(self, owner: Owner) -> list[Ip]:
        names: list[str] = []
        for key in (owner, Owner(owner.container_id, "")):
            entry = self._entry(key)
            indexed = _names(entry)
            held = [name for name in indexed or () if owner.holds(self.content(name) or "")]
            if indexed is not None and not held:  # a crash came between the index and the file
                os.unlink(entry)
            names += held
        return [parse_ip(name) for name in names]

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
            return files.read(f"{self.directory}/{name}").decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CniError(Code.IO, f"cannot read {self.directory}/{name}", str(error)) from error

    def free(self, address: Ip) -> bool:
        """Whether nobody holds an address. CniError 5."""
        try:
            return os.stat(f"{self.directory}/{address}").st_size == 0
        except FileNotFoundError:
            return True
        except OSError as error:
            raise CniError(Code.IO, f"cannot look at {self.directory}/{address}", str(error)) from error

    def taken(self) -> Collection[str]:
        """The names of all files that are not torn, for a search in a crowded range; read once, since each of
        many range sets may be one. CniError 5 or 11.
        """
        if self._taken is None:
            try:
                with os.scandir(self.directory) as entries:
                    self._taken = {entry.name for entry in self._in_time(entries) if entry.stat().st_size}
            except OSError as error:
                raise CniError(Code.IO, f"cannot list {self.directory}", str(error)) from error
        return self._taken

    def _in_time(self, items: Iterable[T]) -> Iterator[T]:
        """Each of many files: whoever holds the lock lets go when the call's time is over. CniError 11."""
        for number, item in enumerate(items):
            if number % _A_WHILE == 0:
                self._deadline.require(f"the reservations in {self.directory} to be read")
            yield item

    def reserve(self, address: Ip, owner: Owner) -> None:
        """Write a reservation for a free address. CniError 5."""
        path = f"{self.directory}/{address}"
        self._changed = True
        if self._taken is not None:
            self._taken.add(str(address))
        try:
            if self._synchronous:
                self._note(address, owner)
            files.write(path, owner.content.encode(), mode=0o600)
            with suppress(OSError):
                os.setxattr(path, _MARK, f"{boot.current()} {boot.elapsed()}".encode())
        except OSError as error:
            with suppress(OSError):
                os.truncate(path, 0)
            raise CniError(Code.IO, f"cannot reserve {address} in {self.directory}", str(error)) from error

    def _note(self, address: Ip, owner: Owner) -> None:
        """One line more for an owner: of thousands of addresses each is written once."""
        entry, line = self._entry(owner), f"\n{address}".encode()
        try:
            files.write(entry, line, flags=os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            try:
                if not os.stat(entry).st_size:  # died in writing: nobody knows what it had
                    raise ValueError(f"{entry} is empty")
                files.write(entry, line, flags=os.O_APPEND)
            except (ValueError, IsADirectoryError):
                self._rebuild()
                files.write(entry, line, flags=os.O_CREAT | os.O_APPEND)

    def release(self, address: str, owner: Owner) -> bool:
        """Remove `owner`'s (or a torn) reservation of an address; False if it is not there or another's.
        CniError 5.
        """
        return bool(self.release_all([address], owner))

    def release_all(self, addresses: Sequence[str], owner: Owner) -> list[str]:
        """`release` of many: those that were there and are gone, all that can be. CniError 5."""
        gone: list[str] = []
        problems: dict[str, CniError] = {}
        for address in addresses:
            try:
                if self._unlink(address, owner):
                    gone.append(address)
            except CniError as error:
                problems[address] = error
        try:
            try:
                self._forget(
                    set(addresses) - set(problems), owner
                )  # also where a crash came between the index and the file
            except (ValueError, IsADirectoryError):
                self._rebuild()
        except OSError:  # an index that cannot be written is made anew when it can
            self._synchronous = False
        if problems:
            raise next(iter(problems.values()))
        return gone

    def _unlink(self, address: str, owner: Owner) -> bool:
        content = self.content(address)
        if content is None or not (content == "" or owner.holds(content)):
            return False
        self._changed = True
        try:
            with suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{address}")
        except OSError as error:
            raise CniError(Code.IO, f"cannot release {address} in {self.directory}", str(error)) from error
        return True

    def _forget(self, addresses: Set[str], owner: Owner) -> None:
        for key in (owner, Owner(owner.container_id, "")):
            entry = self._entry(key)
            names = _names(entry)
            left = [name for name in names or () if name not in addresses]
            if left:
                files.write(entry, "".join(f"\n{name}" for name in left).encode())  # as `_note` does
            elif names is not None:
                os.unlink(entry)

    def last(self, number: int) -> Ip | None:
        """Where the search of range set `number` stopped; None if it is unknown."""
        try:
            return parse_ip(files.read(f"{self.directory}/{_LAST}{number}").decode().strip())
        except (OSError, ValueError):
            return None

    def set_last(self, number: int, address: Ip) -> None:
        """Remember where the search stopped. CniError 5."""
        path = f"{self.directory}/{_LAST}{number}"
        self._changed = True
        try:
            files.write(path, str(address).encode(), mode=0o600)
        except OSError as error:
            raise CniError(Code.IO, f"cannot write {path}", str(error)) from error

    def every(self) -> Iterator[Reservation]:
        """All reservations of the directory, read from the files themselves; torn ones are passed over."""
        for name in self._in_time(os.listdir(self.directory)):
            found = read_reservation(f"{self.directory}/{name}", name)
            if found is not None:
                yield found

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
        self._taken = None
        try:
            Path(self.directory, name).unlink(missing_ok=True)
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
            files.write(f"{self._index}/stamp", str(os.stat(self.directory).st_mtime_ns).encode())


def read_reservation(path: str, name: str) -> Reservation | None:
    """The reservation in the file `path` of a network's directory, called `name` there; None for one that is
    torn or cannot be read, and for what is no reservation.
    """
    try:
        address = parse_ip(name)
        content = files.read(path).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None
    if not content:
        return None
    container, _, ifname = content.partition("\r\n")
    return Reservation(address, container, ifname, *_mark(path))


def _mark(path: str) -> tuple[str, float]:
    """The boot and the moment in which a reservation of ours was made."""
    try:
        name, _, moment = os.getxattr(path, _MARK).decode().partition(" ")
        return name, float(moment)
    except (OSError, ValueError):
        return "", 0.0


def _names(entry: str) -> list[str] | None:
    """The addresses that an entry of the index holds, None without the entry. OSError; ValueError for an
    entry that we cannot have written, or died in writing: an empty one says nothing of what its owner holds.
    """
    try:
        names = [str(parse_ip(name)) for name in files.read(entry).decode().split()]
    except FileNotFoundError:
        return None
    if not names:
        raise ValueError(f"{entry} is empty")
    return names


def _cleared(index: str) -> None:
    """Make the index an empty directory, whatever was there. OSError."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for folder, folders, names in os.walk(index, topdown=False):
            for name in (*names, *folders):
                path = Path(folder, name)
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    if not Path(index).is_dir():
        Path(index).unlink(missing_ok=True)
    Path(index).mkdir(mode=0o700, parents=True, exist_ok=True)


def directory_of(roots: Roots, data_dir: str, network: str) -> str:
    """Where a network's reservations are; an empty `data_dir` is the default place."""
    return f"{roots.relocate(data_dir) if data_dir else roots.host_local}/{network}"


@contextmanager
def opened(
    directory: str, roots: Roots, deadline: Deadline, *, undoing: bool = False
) -> Iterator[Reservations]:
    """Lock a network's directory, made when missing; `undoing` as in store.locks. CniError 5 or 11."""
    with locked(f"{directory}/lock", deadline, mode=0o750, undoing=undoing):
        name = hashlib.sha256(directory.encode()).hexdigest()[:40]
        reservations = Reservations(directory, f"{roots.run}/host-local/{name}", deadline)
        try:
            yield reservations
        finally:
            reservations.close()
