"""What must not change while a hostile task runs, and what must not be opened."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path

_IN_OPEN = 0x20
_IN_ISDIR = 0x40000000
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)

PRIVATE = "progress: 77 nobody may know this\n"

#: Files of the host that a hostile task would like to have, or to have changed.
WANTED = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/cron.d", "/root")


def make_outside(outside: Path) -> None:
    """A root-owned place beside the sandbox, with what an attacker would want."""
    folder = outside / "folder"
    folder.mkdir(parents=True)
    outside.chmod(0o755)
    for path, text in ((outside / "secret", PRIVATE), (folder / "p", PRIVATE), (folder / "stdout", PRIVATE)):
        path.write_text(text)
        path.chmod(0o600)
    (folder / "precious").write_text("precious")


def picture(outside: Path) -> dict[str, tuple[object, ...]]:
    """Owner, mode, identity, time of the last change and content of everything there and of WANTED."""
    seen: dict[str, tuple[object, ...]] = {}
    for path in (outside, *sorted(outside.rglob("*")), *map(Path, WANTED)):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            change = status.st_ctime_ns if path.is_relative_to(outside) else 0
            seen[str(path)] = (status.st_uid, status.st_gid, status.st_mode, status.st_ino, change, content)
    return seen


class Opens:
    """Tells of files below a folder that anybody opens from now on (inotify(7))."""

    def __init__(self, root: Path) -> None:
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._descriptor >= 0
        self._places: dict[int, Path] = {}
        for path in (root, *root.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN)
                assert watch > 0, path
                self._places[watch] = path

    def take(self) -> list[str]:
        """The files opened since the last time."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 1 << 16):
                while data:
                    watch, mask, _, size = _EVENT.unpack_from(data)
                    name = os.fsdecode(data[_EVENT.size : _EVENT.size + size].rstrip(b"\0"))
                    data = data[_EVENT.size + size :]
                    if mask & _IN_OPEN and not mask & _IN_ISDIR:
                        found.append(str(self._places[watch] / name))
        return found

    def close(self) -> None:
        os.close(self._descriptor)
