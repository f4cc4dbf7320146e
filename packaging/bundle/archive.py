"""Archives that are the same bytes for the same content: sorted, owned by root, dated by the commit."""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path


def tree(root: Path) -> dict[str, Path]:
    """Everything below `root`, folders included, by its name relative to it."""
    return {os.fspath(path.relative_to(root)): path for path in sorted(root.rglob("*"))}


def write(output: Path, content: Mapping[str, Path], date: int, *, prefix: str = "", level: int = 6) -> None:
    """A .tar.gz of the files by name; files that are one file on disk are one in the archive too."""
    fresh = output.with_name(f".{output.name}.new")
    inodes: dict[tuple[int, int], str] = {}
    with (
        fresh.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=level, mtime=date) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for name, path in sorted(content.items()):
            status = path.lstat()
            entry = tarfile.TarInfo(prefix + name)
            entry.mtime = date
            entry.uname = entry.gname = "root"
            identity = (status.st_dev, status.st_ino)
            if stat.S_ISDIR(status.st_mode):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            elif stat.S_ISLNK(status.st_mode):
                entry.type, entry.mode, entry.linkname = tarfile.SYMTYPE, 0o777, os.fspath(path.readlink())
                archive.addfile(entry)
            elif identity in inodes:
                entry.type, entry.mode, entry.linkname = tarfile.LNKTYPE, 0o755, inodes[identity]
                archive.addfile(entry)
            else:
                inodes[identity] = prefix + name
                entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
                entry.size = status.st_size
                with path.open("rb") as stream:
                    archive.addfile(entry, stream)
    fresh.rename(output)
