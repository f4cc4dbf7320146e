"""Which attachments of a container were made, or are taken away, by an operator while it runs.

Its runtime knows nothing of those, so their end hangs on this: a directory for each container that has any,
`/run/mesokit/added/HASH`, with a link for each, named for its record and leading there:

    NAME           the attachment is the operator's: it goes when the runtime detaches the container
    NAME.going     it is being taken away; whoever finds that finishes it

A link is made before the attachment is, and goes after it. Links are made, renamed and removed in one system
call each, so that a process may die anywhere; a container without the directory costs a look-up of one name.
The directory is locked while one of them is made or taken away.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.roots import Roots
from cni_plugins.store.locks import acquire

_GOING = ".going"


@dataclass(frozen=True, slots=True)
class Link:
    """`record` is where the attachment's record is, or will be."""

    record: Path
    going: bool


def folder(roots: Roots, container_id: str) -> Path:
    return Path(f"{roots.run}/added/{hashlib.sha256(container_id.encode()).hexdigest()[:40]}")


def folders(roots: Roots) -> list[Path]:
    """The directories of all containers that have any."""
    return _entries(Path(f"{roots.run}/added"))


def links(place: Path) -> list[Link]:
    """What a directory holds; nothing when it is not there."""
    found = []
    for path in _entries(place):
        with suppress(OSError):  # gone meanwhile, or no link: then it is nobody's of ours
            found.append(Link(path.readlink(), path.name.endswith(_GOING)))
    return found


def _entries(place: Path) -> list[Path]:
    try:
        return sorted(place.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def held(place: Path, deadline: Deadline) -> Iterator[None]:
    """Hold a container's directory, made if need be; it goes after that when it is empty. CniError 5, 11."""
    fd = _opened(place, deadline)
    try:
        yield
        try:
            place.rmdir()
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.ENOENT}:
                raise CniError(Code.IO, f"cannot remove {place}", str(error)) from error
    finally:
        os.close(fd)


def _opened(place: Path, deadline: Deadline) -> int:
    while True:
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise CniError(Code.IO, f"cannot open {place}", str(error)) from error
        try:
            acquire(fd, deadline, f"the networks added to a container, {place}")
            with suppress(FileNotFoundError):  # else who had it removed it, and another one may have its name
                if os.path.samestat(os.fstat(fd), place.lstat()):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def begin(place: Path, record: Path) -> None:
    """The attachment of `record` is made next; the directory is held. CniError 5."""
    _link(place / record.name, record)


def end(place: Path, record: Path) -> None:
    """The attachment of `record` is taken away next; the directory is held. CniError 5."""
    going = place / (record.name + _GOING)
    try:
        (place / record.name).rename(going)
    except FileNotFoundError:
        _link(going, record)
    except OSError as error:
        raise CniError(Code.IO, f"cannot write {going}", str(error)) from error


def forget(place: Path, record: Path) -> None:
    """There is no such attachment any more; the directory is held. CniError 5."""
    for name in (record.name, record.name + _GOING):
        try:
            (place / name).unlink(missing_ok=True)
        except OSError as error:
            raise CniError(Code.IO, f"cannot remove {place / name}", str(error)) from error


def _link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target)
    except FileExistsError:
        return
    except OSError as error:
        raise CniError(Code.IO, f"cannot write {path}", str(error)) from error
