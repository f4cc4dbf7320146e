"""What an agent that died has left: found by its lock, ended and detached by the next agent that starts.

Every agent holds a lock on `<runtime_dir>/<agent id>/lock`, in which it names its plugin directories. A lock
that can be taken belongs to an agent that is gone; its containers' networks are still described in its
directory, as a Mesos agent finds them after a restart, and get their DEL from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from pathlib import Path

from executor.local_agent import namespaces
from executor.local_agent.events import Note, Observer
from executor.local_agent.isolator import IsolationError, Isolator
from executor.local_agent.plugin_call import Patience

ISOLATOR_ROOT = "isolators/network/cni"
"""Where in an agent's directory the isolator keeps its state."""


def take_lock(directory: Path, plugin_path: str) -> int:
    """Lock an agent's own directory for as long as the descriptor is open. Raises OSError."""
    fresh = directory / ".lock"
    lock = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, plugin_path.encode())
    fresh.rename(directory / "lock")  # nobody sees it before it is held
    return lock


async def clean_up_after_the_dead(
    runtime_dir: Path, own: Path, observe: Observer, patience: Patience
) -> None:
    """End what agents left that died: processes in their containers, attachments, mounts, directories.

    What cannot be ended, or is cancelled in the middle, stays described for the next agent.
    """
    for directory in sorted(path for path in runtime_dir.iterdir() if path.is_dir() and path != own):
        try:
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another agent is just making it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            await _clean_up(directory, os.read(lock, 65536).decode(), observe, patience)
        except BlockingIOError:
            continue  # its agent lives
        finally:
            os.close(lock)


async def _clean_up(directory: Path, plugin_path: str, observe: Observer, patience: Patience) -> None:
    root = directory / ISOLATOR_ROOT
    isolator = Isolator(root, directory, plugin_path, observe, patience)
    observe(Note(f"cleaning up after an agent that died: {directory.name}"))
    for container in sorted(path.name for path in root.glob("*")):
        _end_processes(root / container / "ns")
        try:
            await isolator.detach(container)
        except (IsolationError, OSError) as error:
            observe(Note(f"container {container} cannot be cleaned up: {error}", trouble=True))
            return
    isolator.close()
    shutil.rmtree(directory, ignore_errors=True)


def _end_processes(handle: Path) -> None:
    """End whatever still runs in a network namespace; its executor may have outlived its agent."""
    if not namespaces.is_namespace(handle):
        return
    wanted = handle.stat().st_ino
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "ns/net").stat().st_ino == wanted:
                os.kill(int(process.name), signal.SIGKILL)
