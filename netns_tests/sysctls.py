"""Sysctls of network namespaces, that are read again and again.

A namespace has a hundred for each of its links, and to open a file below /proc/sys takes eight times as long
as to read it: a snapshot would spend most of its time there. So files stay open, for the namespaces that were
read last. An open file knows its setting: when the link is renamed or goes, and when the namespace goes,
whose number another one may have then, reading fails, and what has that name now is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

#: Files, folders of files and, named `conf`, folders with one for each link; below /proc/sys/net.
SYSCTLS = (
    "ipv4/ip_forward", "ipv4/conf", "ipv6/conf", "ipv4/ip_local_port_range", "ipv4/tcp_syncookies",
    "core/somaxconn", "bridge",
)  # fmt: skip
_TOP = "/proc/sys/net/"
#: In bytes: for every reading the kernel clears as much memory as is asked for.
_LONGEST = 128
#: So many stay open, with numbers from the first on: below 1,024 is what select() can have. A process that
#: may not have so many opens all of them each time.
_MOST, _FIRST = 4096, 2048


@dataclass(slots=True)
class Folder:
    """Of the files of a folder, or one that is alone: descriptors by path, and what they said at the last
    look: as bytes, and as facts."""

    files: dict[str, int]
    said: list[bytes | None] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def read(self) -> bool:
        """Look again. False where these are files of what is there no more."""
        said: list[bytes | None] = []
        for descriptor in self.files.values():
            try:
                said.append(os.pread(descriptor, _LONGEST, 0))
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return False
                said.append(None)  # an address that was not set yet
        if said != self.said:
            self.said = said
            pairs = zip(self.files, said, strict=True)
            self.facts = {path: text.decode().removesuffix("\n") for path, text in pairs if text}
        return True

    def close(self) -> None:
        for descriptor in self.files.values():
            os.close(descriptor)


Folders = dict[str, Folder]


@dataclass(slots=True)
class Sysctls:
    """Safe to use from any thread."""

    most: int = _MOST if resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= _FIRST + 2 * _MOST else 0
    _kept: dict[int, Folders] = field(default_factory=dict)  # by number of namespace, last used last
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, namespace: int) -> dict[str, str]:
        """Path below /proc/sys/net and content, of the namespace that the thread is in, whose number this is;
        what the kernel does not say is left out."""
        with self._lock:
            known = self._kept.pop(namespace, {})
        now: Folders = {}
        try:
            return dict(_facts(known, now, lasting=self.most > 0))
        finally:
            for folder in known.values():  # of links that have gone
                folder.close()
            with self._lock:
                # Another thread may have read the same.
                gone = [self._kept.pop(namespace, {})]
                self._kept[namespace] = now
                while (
                    sum(len(each.files) for all in self._kept.values() for each in all.values()) > self.most
                ):
                    gone.append(self._kept.pop(next(iter(self._kept))))
            for each in gone:
                for folder in each.values():
                    folder.close()


def _open_of(folders: Folders) -> int:
    return sum(len(folder.files) for folder in folders.values())


def _facts(known: Folders, now: Folders, *, lasting: bool) -> Iterator[tuple[str, str]]:
    """What each folder says; descriptors go from `known` to `now`."""
    for path in _folders():
        folder = known.pop(path, None)
        if folder is not None and not folder.read():
            folder.close()
            folder = None
        if folder is None:
            folder = Folder(_open(path, lasting=lasting))
            folder.read()
        now[path] = folder
        yield from folder.facts.items()


def _folders() -> Iterator[str]:
    for each in SYSCTLS:
        if each.endswith("/conf"):
            with contextlib.suppress(FileNotFoundError):
                yield from (f"{each}/{link}" for link in _names(each))
        else:
            yield each


def _names(folder: str) -> list[str]:
    with os.scandir(_TOP + folder) as entries:
        return [entry.name for entry in entries]


def _open(folder: str, *, lasting: bool) -> dict[str, int]:
    """Some can only be written, and a link may go meanwhile."""
    try:
        paths = [f"{folder}/{name}" for name in _names(folder)]
    except NotADirectoryError:
        paths = [folder]
    except FileNotFoundError:
        return {}
    files = {}
    for path in paths:
        with contextlib.suppress(OSError):
            files[path] = _opened(_TOP + path, lasting=lasting)
    return files


def _opened(path: str, *, lasting: bool) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if not lasting:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    finally:
        os.close(descriptor)
