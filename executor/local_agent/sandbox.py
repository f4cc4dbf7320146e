"""Sandboxes: a directory for each run of an executor, laid out as in an agent's work directory."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from executor.local_agent.environment import Identity

STREAMS = ("stdout", "stderr")


def make_sandbox(work_dir: Path, identity: Identity, container: str, user: str) -> Path:
    """`<work_dir>/slaves/S/frameworks/F/executors/E/runs/<container>`, owned by `user` unless that is "".

    `latest` beside it points to it. Raises OSError.
    """
    runs = work_dir / "slaves" / identity.agent / "frameworks" / identity.framework
    runs = runs / "executors" / identity.executor / "runs"
    sandbox = runs / container
    sandbox.mkdir(mode=0o755, parents=True)
    for name in STREAMS:
        (sandbox / name).touch(mode=0o644)
    if user:
        # A user who does not exist is reported where the program would have become that user.
        with contextlib.suppress(LookupError):
            for path in (sandbox, *(sandbox / name for name in STREAMS)):
                shutil.chown(path, user)
    latest = runs / "latest"
    with contextlib.suppress(FileNotFoundError):
        latest.unlink()
    latest.symlink_to(container)
    return sandbox


def remove_sandboxes(work_dir: Path, agent: str) -> None:
    """Remove all sandboxes of an agent whose containers are gone. What cannot be removed stays.

    Tasks own what is in them: the removal goes by descriptors and follows no link (shutil.rmtree(),
    avoids_symlink_attacks), and what leads to a sandbox is root's.
    """
    shutil.rmtree(work_dir / "slaves" / agent, ignore_errors=True)
    with contextlib.suppress(OSError):  # others have sandboxes there
        (work_dir / "slaves").rmdir()


def tail(path: Path, lines: int = 10) -> str:
    """The last lines of a file in a sandbox, "" where there is none."""
    with contextlib.suppress(OSError), _open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        return "\n".join(file.read(4096).decode(errors="replace").splitlines()[-lines:])
    return ""


def _open_regular(path: Path) -> BinaryIO:
    """Tasks own the sandbox: neither a FIFO nor a link in a file's place may hold or mislead us. OSError."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
    return file


class Follower:
    """Reads what was appended to a sandbox's stdout and stderr since the last time."""

    def __init__(self, sandbox: Path) -> None:
        self._offsets = {sandbox / name: 0 for name in STREAMS}

    def read(self) -> list[tuple[str, bytes]]:
        """New bytes by stream name; a file that was rotated away is read from its beginning again."""
        found = []
        for path, offset in self._offsets.items():
            with contextlib.suppress(OSError), _open_regular(path) as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(offset if size >= offset else 0)
                data = file.read(1 << 20)
                self._offsets[path] = file.tell()
                if data:
                    found.append((path.name, data))
        return found
