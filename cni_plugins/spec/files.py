"""Small files, read and written with three system calls.

pathlib and io spend ten on each, and a call of a plugin touches two dozen files.
"""

import errno
import os

Place = str | os.PathLike[str]


def read(path: Place, *, directory: int | None = None) -> bytes:
    """The whole of a file that is not expected to be large. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        data = os.read(fd, 4096)
        if len(data) < 4096:
            return data
        parts = [data]
        while data := os.read(fd, 1 << 16):
            parts.append(data)
        return b"".join(parts)
    finally:
        os.close(fd)


def write(
    path: Place, data: bytes, *, flags: int = os.O_CREAT | os.O_TRUNC, mode: int = 0o644,
    directory: int | None = None,
) -> None:  # fmt: skip
    """Replace what a file holds. OSError, ENOSPC too when only a part had room."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, mode, dir_fd=directory)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)
