"""A program in a node, running or ended, and ways to wait.

Its output is in memory files and its end comes over a pipe, so that nothing blocks on a pipe which some
daemon keeps open.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Sends a signal (second) to a program by its number in the node (first).
Signalled = Callable[[int, int], None]


class NodeError(Exception):
    """The node is gone, or a program in it failed although its caller said that it must not."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that has ended. `status` is the exit status, or the negative number of the signal that
    ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")

    def json(self) -> Any:
        """The JSON document on standard output; an empty output, as iproute2 prints for an empty list, is
        an empty list."""
        return json.loads(self.stdout or b"[]")


class Running:
    """A program that was started. `pid` is its number inside the node."""

    def __init__(
        self, argv: Sequence[str], signalled: Signalled, status: int, stdout: int | None, stderr: int | None
    ) -> None:
        self.argv = tuple(argv)
        self._signalled = signalled
        self._pipe, self._stdout, self._stderr = status, stdout, stderr
        self._lines = b""
        self._finished: Finished | None = None
        self.pid = int(self._line(None))

    def _line(self, deadline: float | None) -> str:
        while b"\n" not in self._lines:
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._pipe], [], [], timeout)[0]:
                raise TimeoutError(f"{' '.join(self.argv)}: still running")
            chunk = os.read(self._pipe, 64)
            if not chunk:
                raise NodeError(f"{' '.join(self.argv)}: the node ended under it")
            self._lines += chunk
        line, _, self._lines = self._lines.partition(b"\n")
        return line.decode()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the program itself; nothing when it has ended."""
        self._signalled(self.pid, int(number))

    def ended(self) -> bool:
        """Whether it has ended; does not wait."""
        return self._finished is not None or bool(select.select([self._pipe], [], [], 0)[0])

    def output(self) -> bytes:
        """What it has written to standard output so far."""
        return b"" if self._stdout is None else _content(self._stdout)

    def errors(self) -> bytes:
        """What it has written to standard error so far."""
        return b"" if self._stderr is None else _content(self._stderr)

    def wait(self, timeout: float = 150) -> Finished:
        """Raises TimeoutError when it has not ended within `timeout` seconds; it then runs on."""
        if self._finished is None:
            status = int(self._line(time.monotonic() + timeout))
            self._finished = Finished(self.argv, status, self.output(), self.errors())
            self.close()
        return self._finished

    def close(self) -> None:
        for fd in (self._pipe, self._stdout, self._stderr):
            if fd is not None:
                os.close(fd)
        self._stdout = self._stderr = None
        self._pipe = -1

    def __del__(self) -> None:
        if self._pipe >= 0:
            self.close()


def until(condition: Callable[[], object], *, seconds: float = 120, what: str = "condition") -> None:
    """Waits until `condition()` is true; raises TimeoutError otherwise. For facts that the kernel brings
    about by and by."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds} s still not: {what}")
        time.sleep(pause)
        pause = min(0.1, pause * 2)


def memory_of(process: Path) -> int:
    """Of a process by its directory in /proc: kB of its proportional share, without that of files: it grows
    when others who have them open end.
    """
    found = re.search(r"^Pss_Anon:\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
    if found is None:
        raise NodeError(f"{process} has no memory: it has ended")
    return int(found[1])


@contextmanager
def started(running: Running) -> Iterator[Running]:
    """Kills the program at the end of the block, if it still runs."""
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def _content(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    return os.pread(fd, size, 0)
