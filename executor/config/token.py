"""The authentication token, taken out of the environment before anything else can see it.

Removing the variable hides it from tasks; /proc/PID/environ, which shows the memory that the process was
started with, still has it for anyone of the same user. So the value is overwritten there too, where the
kernel allows it.
"""

import contextlib
import os
from collections.abc import MutableMapping
from pathlib import Path

TOKEN_VARIABLE = "MESOS_EXECUTOR_AUTHENTICATION_TOKEN"  # noqa: S105 (a name)


def take_token(environ: MutableMapping[str, str]) -> str | None:
    """The token, which is in no environment any more afterwards."""
    token = environ.pop(TOKEN_VARIABLE, None)
    if token:
        with contextlib.suppress(OSError, ValueError, IndexError):
            _overwrite(os.fsencode(f"{TOKEN_VARIABLE}={token}"))
    return token


def _overwrite(entry: bytes) -> None:
    # Fields 50 and 51 of proc(5) stat; the command in field 2 may hold anything, so count from behind it.
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    begin, end = int(fields[47]), int(fields[48])
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(begin)
        held = memory.read(end - begin)
        at = held.find(entry)
        if at >= 0:
            name = entry.index(b"=") + 1
            memory.seek(begin + at + name)
            memory.write(b"x" * (len(entry) - name))
