"""Files of root's in a directory where tasks write too: the sandbox.

The sandbox stays root's, whoever the tasks run as. It is sticky, like /tmp: what lies in it is renamed and
removed by its owner and by root only, so whatever root has made there stays what and where it is: the log,
the outputs, the socket, and the bundle that this program runs from. A task's user gets in by an entry of the
directory's access control list (acl(5)), one for each user, so that tasks of several users work side by side;
where a file system has no such lists, by the directory's group, which is one user's at most. An executor that
is not root shares its sandbox with nobody: its tasks are the user that it is itself.

What a task puts there *before* root comes for a name is the rest of the matter. So nothing here takes a path:

* a name is one component, below a descriptor that is open; a path is walked component by component, none of
  them a link, each owned by us or by whom the caller names. openat2(2) would walk as safely in one call, but
  would not look at owners, and kernels before 5.6 do not have it;
* a file that root writes is a regular one with a single name and root's own; everything else is an error and
  is neither written, changed nor waited for;
* what changes an owner, a mode or a list does so through a descriptor, never through a name.

Files are renamed only in directories where no task may write, or where the sticky bit keeps tasks from names
that are ours.
"""

import binascii
import errno
import os
import stat
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from executor.process.identity import Identity

_ACL = "system.posix_acl_access"
_ACL_VERSION = 2
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
# Tags of acl(5)'s entries as the kernel writes them (include/uapi/linux/posix_acl.h).
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_ALL = 7

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LONGEST_NAME = 255


def file_name(task_id: str) -> str:
    """A task's id as one name of a file: unchanged, but for what would make it more than one, or none."""
    name = task_id.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    if name in ("", ".", ".."):
        return "%2E" * len(name) or "%"
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    start = os.fsencode(name)[:200].decode(errors="ignore")
    return f"{start}%{binascii.crc32(os.fsencode(name)):08x}"


class Directory:
    """A directory that is open. `path` is what people and tasks call it; nothing here goes by it."""

    __slots__ = ("descriptor", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def of(cls, path: Path) -> "Directory":
        """Open by name, before a task runs. Raises OSError."""
        return cls(path, os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def close(self) -> None:
        """Close the descriptor; harmless when that was done."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def enter(self, names: Sequence[str], *, make: bool = False, owner: int | None = None) -> "Directory":
        """The directory below this one, through `names`, each of them ours or `owner`'s.

        With `make`, what is missing is made, ours, and everybody may pass through it. Raises OSError.
        """
        entered = Directory(self.path, os.dup(self.descriptor))
        try:
            for name in names:
                self._step(entered, name, make, owner)
        except BaseException:
            entered.close()
            raise
        return entered

    def _step(self, entered: "Directory", name: str, make: bool, owner: int | None) -> None:
        here = entered.path / _component(name)
        made = False
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=entered.descriptor)
                made = True
        try:
            descriptor = os.open(name, _FOLDER, dir_fd=entered.descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(here)) from None
        entered.close()
        entered.path, entered.descriptor = here, descriptor
        uid = os.fstat(descriptor).st_uid
        if uid not in (os.geteuid(), owner):
            raise OSError(errno.EPERM, f"belongs to uid {uid}, not to the executor", str(here))
        if made and uid == os.geteuid():
            os.fchmod(descriptor, 0o755)

    def open_own(self, name: str, flags: int, mode: int) -> int:
        """A descriptor of a file of ours to write to, made where it is missing. Raises OSError for everything
        else that has the name.
        """
        flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        where = str(self.path / _component(name))
        try:
            descriptor = os.open(name, flags, mode, dir_fd=self.descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, where) from None
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EPERM, "is not a file of the executor's own", where)

    def open_foreign(self, name: str, owner: int | None) -> int:
        """A descriptor to read a regular file with, ours or `owner`'s, that has this one name. Raises
        OSError.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(_component(name), flags, dir_fd=self.descriptor)
        status = os.fstat(descriptor)
        # A further name could be that of a file which its owner wanted nobody to read.
        if stat.S_ISREG(status.st_mode) and status.st_uid in (os.geteuid(), owner) and status.st_nlink <= 1:
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EPERM, "is not a file of the task's own", str(self.path / name))

    def shift(self, name: str, backups: int) -> None:
        """Make room at `name`: NAME becomes NAME.1, that NAME.2, the oldest goes. Raises OSError."""
        here = self.descriptor
        for number in range(backups, 0, -1):
            older = f"{_component(name)}.{number - 1}" if number > 1 else name
            with suppress(FileNotFoundError):
                os.rename(older, f"{name}.{number}", src_dir_fd=here, dst_dir_fd=here)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=here)

    def lies(self, name: str) -> tuple[int, int] | None:
        """Device and inode of what has a name here, a link itself; None when nothing has it."""
        try:
            status = os.stat(_component(name), dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def remove(self, name: str) -> None:
        """Take a name away that is no directory's; harmless when it is missing. Raises OSError."""
        with suppress(FileNotFoundError):
            os.unlink(_component(name), dir_fd=self.descriptor)

    def reach(self, name: str = "") -> str:
        """A path for calls that take nothing else; it leads through our descriptor."""
        return f"/proc/self/fd/{self.descriptor}" + (f"/{_component(name)}" if name else "")

    def share(self, user: Identity) -> None:
        """Let a task's user make files here, and nobody move or remove ours. Raises OSError."""
        ours = os.geteuid()
        if user.uid in (0, ours):
            return
        status = os.fstat(self.descriptor)
        former = status.st_uid
        if former != ours:
            # Its owner could rename in it whatever the sticky bit says.
            os.fchown(self.descriptor, ours, -1)
        if former != ours or not status.st_mode & stat.S_ISVTX:
            os.fchmod(self.descriptor, stat.S_IMODE(status.st_mode) | stat.S_ISVTX)
        if former not in (ours, user.uid):
            self._grant(former, None)
        self._grant(user.uid, user)

    def _grant(self, uid: int, user: Identity | None) -> None:
        status = os.fstat(self.descriptor)
        try:
            entries = _read_acl(self.descriptor)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._grant_by_group(status, user)
            return
        entries = entries or _from_mode(status.st_mode)
        groups = user.groups if user is not None else ()
        if _allowed(entries, uid, groups, status.st_gid) == _ALL:
            return
        entries = [entry for entry in entries if entry[::2] != (_USER, uid) and entry[0] != _MASK]
        entries += [(_USER, _ALL, uid), (_MASK, _ALL, _NOBODY)]
        order = (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER)
        entries.sort(key=lambda entry: (order.index(entry[0]), entry[2]))
        value = _HEADER.pack(_ACL_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)
        try:
            os.setxattr(self.descriptor, _ACL, value)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._grant_by_group(status, user)

    def _grant_by_group(self, status: os.stat_result, user: Identity | None) -> None:
        bits = stat.S_IMODE(status.st_mode)
        if user is None:
            return
        if status.st_gid in user.groups:
            os.fchmod(self.descriptor, bits | 0o070)
        elif bits & _ALL == _ALL:
            return
        elif status.st_gid == 0 or not bits & 0o020:
            os.fchown(self.descriptor, -1, user.gid)
            os.fchmod(self.descriptor, bits | 0o070)
        else:
            text = f"has no access control lists, and its group {status.st_gid} is not user {user.name!r}'s"
            raise OSError(errno.EOPNOTSUPP, text, str(self.path))


def unsafe_ancestor(path: Path) -> Path | None:
    """The first directory on the way to `path` in which somebody who is not root may rename, or None."""
    for folder in path.resolve().parents:
        status = folder.stat()
        if status.st_uid != 0 or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
            return folder
    return None


def _component(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, "is not the name of a file", name)
    return name


def _read_acl(descriptor: int) -> list[tuple[int, int, int]]:
    """(tag, permissions, id) of each entry; none where there is no list. Raises OSError."""
    try:
        value = os.getxattr(descriptor, _ACL)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return []
        raise
    return [_ENTRY.unpack_from(value, at) for at in range(_HEADER.size, len(value), _ENTRY.size)]


def _from_mode(mode: int) -> list[tuple[int, int, int]]:
    return [
        (_USER_OBJ, mode >> 6 & _ALL, _NOBODY),
        (_GROUP_OBJ, mode >> 3 & _ALL, _NOBODY),
        (_OTHER, mode & _ALL, _NOBODY),
    ]


def _allowed(entries: list[tuple[int, int, int]], uid: int, groups: Sequence[int], owning_group: int) -> int:
    """What a user who is not the owner may do: the algorithm of acl(5)."""
    mask = next((permissions for tag, permissions, _ in entries if tag == _MASK), _ALL)
    for tag, permissions, whose in entries:
        if tag == _USER and whose == uid:
            return permissions & mask
    of_groups = [
        permissions & mask
        for tag, permissions, whose in entries
        if (tag == _GROUP and whose in groups) or (tag == _GROUP_OBJ and owning_group in groups)
    ]
    if of_groups:
        return max(of_groups)
    return next(permissions for tag, permissions, _ in entries if tag == _OTHER)
