"""Listening sockets in the file system."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

_BACKLOG = 1024


def bind(path: Path) -> socket.socket:
    """A fresh socket under a temporary name, renamed into place: it is never there without listening.
    OSError.
    """
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(f"{path} is there and is no socket; move it away")
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh.unlink(missing_ok=True)
    listening.bind(os.fspath(fresh))
    fresh.chmod(0o600)
    listening.listen(_BACKLOG)
    fresh.rename(path)
    listening.setblocking(False)
    return listening


def identity(path: Path) -> tuple[int, int] | None:
    """What tells the socket at `path` from a later one of the same name; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def remove(path: Path, ours: tuple[int, int]) -> None:
    """Take the socket out of the file system, unless another process has put its own there since."""
    if identity(path) == ours:
        path.unlink(missing_ok=True)
