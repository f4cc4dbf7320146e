"""crash.c, compiled once for each content, so that a machine without a compiler (QEMU) finds it made."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from pathlib import Path

from netns_tests.plugins import TOP

_SOURCE = Path(__file__).with_name("crash.c")


def compiled() -> Path:
    """The library to preload."""
    made = TOP / "build" / f"crash-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not made.exists():
        made.parent.mkdir(exist_ok=True)
        fresh = made.with_name(f".{made.name}-{os.getpid()}")
        argv = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(fresh), str(_SOURCE), "-ldl"]
        subprocess.run(argv, check=True)
        fresh.rename(made)
    return made


def loaded() -> bool:
    """Whether this process was started with it."""
    return hasattr(ctypes.CDLL(None), "crash_count")


def count() -> None:
    """Lets it count from now on, in the file that CRASH_COUNTER names."""
    ctypes.CDLL(None).crash_count()
