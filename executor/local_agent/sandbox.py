"""Sandboxes: a directory for each run of an executor, laid out as in an agent's work directory, and kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

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


class Follower:
    """Reads what was appended to a sandbox's stdout and stderr since the last time."""

    def __init__(self, sandbox: Path) -> None:
        self._offsets = {sandbox / name: 0 for name in STREAMS}

    def read(self) -> list[tuple[str, bytes]]:
        """New bytes by stream name; a file that was rotated away is read from its beginning again."""
        found = []
        for path, offset in self._offsets.items():
            # Tasks own the sandbox: neither a FIFO nor a link in the file's place may hold or mislead us.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            with contextlib.suppress(OSError), os.fdopen(os.open(path, flags), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    continue
                size = status.st_size
                file.seek(offset if size >= offset else 0)
                data = file.read(1 << 20)
                self._offsets[path] = file.tell()
                if data:
                    found.append((path.name, data))
        return found
