"""The authentication token, taken out of the environment before anything else can see it.

Removing the variable hides it from tasks; /proc/PID/environ, which shows the memory that the process was
started with, still has it for anyone of the same user. So the value is overwritten there too, where the
kernel allows it.

Memory of this process has more copies, and a fork copies them. So before the warden is forked the token is
set aside in a file without a name, and everything in memory that looks like it is overwritten. The warden
closes the file unread. The executor itself needs the token; it is protected by not being dumpable
(process/prctl.py).
"""

import contextlib
import ctypes
import os
from collections.abc import Iterator, MutableMapping
from io import FileIO

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
    with FileIO("/proc/self/stat") as status:
        fields = status.readall().rpartition(b")")[2].split()
    begin, end = int(fields[47]), int(fields[48])
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        at = os.pread(memory, end - begin, begin).find(entry)
        if at >= 0:
            name = entry.index(b"=") + 1
            os.pwrite(memory, b"x" * (len(entry) - name), begin + at + name)
    finally:
        os.close(memory)


_SHORTEST = 16
"""Characters. What is shorter may be part of anything; tokens of agents, which are JWTs, have a hundred."""
_CHUNK = 1 << 20


def set_aside(token: str, *others: int) -> int:
    """A descriptor from which `take_back` reads the token; until then no memory of this process has it, nor
    that of the processes `others`, where the kernel allows it.
    """
    held = os.memfd_create("token", os.MFD_CLOEXEC)
    secret = os.fsencode(token)
    os.write(held, secret)
    if len(secret) >= _SHORTEST:
        # Ourselves last: what is looked for goes with it.
        for process in (*map(str, others), "self"):
            with contextlib.suppress(OSError):
                _wipe(process, secret)
    return held


def take_back(descriptor: int) -> str:
    """The token that was set aside; the descriptor is closed."""
    try:
        return os.fsdecode(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    finally:
        os.close(descriptor)


def _wipe(process: str, secret: bytes) -> None:
    """Overwrite every copy of `secret` in a process's writable memory, the one that it is given as at last.

    Through /proc/PID/mem, for which memory that is gone meanwhile is an error and no fault.
    """
    buffer = bytearray(_CHUNK + len(secret))
    window = memoryview(buffer)
    base = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    spared = []
    if process == "self":
        spared = [range(id(secret), id(secret) + bytes.__basicsize__), range(base, base + len(buffer))]
    memory = os.open(f"/proc/{process}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        for start, end in _writable(process):
            at = start
            while at < end:
                try:
                    count = os.preadv(memory, [window[: min(len(buffer), end - at)]], at)
                except OSError:
                    break
                if count <= 0:
                    break
                found = buffer.find(secret, 0, count)
                while found >= 0:
                    if not any(at + found in place for place in spared):
                        os.pwrite(memory, b"x" * len(secret), at + found)
                    found = buffer.find(secret, found + 1, count)
                at += max(count - len(secret), 1) if at + count < end else count
        ctypes.memset(base, 0, len(buffer))
        if process == "self":
            ctypes.memset(id(secret) + bytes.__basicsize__ - 1, ord("x"), len(secret))
    finally:
        os.close(memory)


def _writable(process: str) -> Iterator[tuple[int, int]]:
    with FileIO(f"/proc/{process}/maps") as maps:
        lines = maps.readall().splitlines()
    for line in lines:
        words = line.split(None, 5)
        if words[1].startswith(b"rw") and words[-1] != b"[vvar]":
            start, _, end = words[0].partition(b"-")
            yield int(start, 16), int(end, 16)
