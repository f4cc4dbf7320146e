"""The leases of one lease daemon: a directory below /var/lib/mesokit/leases with a file for each attachment
and family.

Which daemon is told by its socket: the directory `default` is that of the node service and of `mesokit dhcp`,
any other has the socket's path for its name. A file is replaced as a whole (a new one, written to disk, takes
its name), so a crash leaves the old lease or the new one. Whoever changes or removes a file holds the store's
lock and looks first whether it is there: a DEL that came meanwhile stays done.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from urllib.parse import quote

from cni_plugins.dhcp import stores
from cni_plugins.dhcp.lease6 import AnyLease, decode_any, encode_any
from cni_plugins.spec import files
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import dump_json, parse_json
from cni_plugins.store.locks import locked

_OWNER = ".daemon"
_NEW = ".new"
_LONGEST = 200


def default_socket(roots: Roots) -> Path:
    """Where the node service and `mesokit dhcp` listen."""
    return roots.run / "dhcp.sock"


class Store:
    """`socket` is the path of the daemon's socket as a configuration has it, "" for the default."""

    __slots__ = ("_lock", "directory", "roots", "socket")

    def __init__(self, roots: Roots, socket: str = "") -> None:
        self.roots = roots
        self.socket = socket
        name = quote(socket, safe="").replace(".", "%2E") if socket else "default"
        if len(name) > _LONGEST:
            name = "long-" + hashlib.sha256(socket.encode()).hexdigest()
        self.directory = stores.directory(roots) / name
        self._lock = roots.run / "locks" / f"leases-{name}"

    def path(self, identity: Identity, version: int = 4) -> Path:
        names = (identity.network, identity.container_id, identity.ifname)
        key = "\0".join(names if version == 4 else (*names, f"ipv{version}"))
        return self.directory / (hashlib.sha256(key.encode()).hexdigest()[:40] + stores.SUFFIX)

    def prepare(self) -> None:
        """Make the directories, which only root may read. CniError 5."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CniError(Code.IO, f"cannot make {self.directory}", str(error)) from error

    def locked(self, deadline: Deadline) -> AbstractContextManager[None]:
        """CniError 5 or 11."""
        return locked(self._lock, deadline)

    def read(self, identity: Identity, version: int = 4) -> AnyLease | None:
        """The lease of an attachment and family; None without one, or when its file holds none."""
        found = read(self.path(identity, version))
        return found if found is not None and found.version == version else None

    def write(self, lease: AnyLease) -> None:
        """Put a lease's file in place. CniError 5."""
        path = self.path(lease.identity, lease.version)
        new = path.with_suffix(_NEW)
        try:
            with suppress(FileNotFoundError):
                new.unlink()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(new, flags, 0o600)
            try:
                os.write(fd, dump_json(encode_any(lease)).encode())
                os.fdatasync(fd)
            finally:
                os.close(fd)
            new.rename(path)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise CniError(Code.IO, f"cannot write the lease {path}", str(error)) from error

    def replace(self, lease: AnyLease, deadline: Deadline) -> bool:
        """Put a changed lease in the place of what is there; False when it has gone meanwhile. CniError."""
        with self.locked(deadline):
            if not self.path(lease.identity, lease.version).exists():
                return False
            self.write(lease)
            return True

    def remove(self, identity: Identity, deadline: Deadline, version: int = 4) -> None:
        """CniError 5 or 11."""
        if not self.directory.is_dir():
            return
        with self.locked(deadline):
            path = self.path(identity, version)
            try:
                path.unlink(missing_ok=True)
                path.with_suffix(_NEW).unlink(missing_ok=True)  # of a writer that was killed
            except OSError as error:
                raise CniError(Code.IO, f"cannot remove {path}", str(error)) from error

    def every(self) -> Iterator[AnyLease]:
        """The leases whose files can be read."""
        for path in self.paths():
            lease = read(path)
            if lease is not None:
                yield lease

    def paths(self) -> list[Path]:
        try:
            return sorted(path for path in self.directory.iterdir() if path.suffix == stores.SUFFIX)
        except OSError:
            return []

    def claim(self) -> int:
        """Become the daemon of this store, for as long as the descriptor is open; -1 when there is one.
        CniError 5.
        """
        self.prepare()
        path = self.directory / _OWNER
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise CniError(Code.IO, f"cannot open {path}", str(error)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return -1
        os.truncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        return fd

    def owner(self) -> str:
        """The process id of the daemon that has claimed this store, as text; "" when it never had one."""
        try:
            return files.read(self.directory / _OWNER).decode("ascii", "replace").strip()
        except OSError:
            return ""


def read(path: Path) -> AnyLease | None:
    """The lease of a file; None when there is none."""
    try:
        document = parse_json(files.read(path))
        return decode_any(document) if isinstance(document, dict) else None
    except (OSError, ValueError):
        return None
