"""Where the files of networks lie and which of a directory's files are ones, for all who look there.

Names as in libcni (conf.go, ConfFiles); Mesos reads them from --network_cni_config_dir.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

DIRECTORY = "/etc/cni/net.d"
SUFFIXES = (".conflist", ".conf", ".json")
LARGEST = 1 << 20
"""Bytes of a file that are read; what is longer is no network's."""


def listed(directory: Path) -> list[Path]:
    """What is named as a network's file, by name, of whatever kind it is. OSError."""
    return sorted(item for item in directory.iterdir() if item.suffix in SUFFIXES)


def read(
    path: Path | str, *, directory: int | None = None, follow: bool = True
) -> tuple[bytes, os.stat_result]:
    """A file's bytes, at most LARGEST, and whose it is. Nobody can make it wait: what is no regular file is
    an OSError, and so is a symbolic link unless told to `follow`."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no regular file")
        return os.read(fd, LARGEST), status
    finally:
        os.close(fd)
