"""What strace writes of a process, and the system calls that it tells of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SHOWN = 65536  # bytes of a buffer, the largest that the kernel sends
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|0x[0-9a-f]+|\?)(?:<.*?>(?:\(deleted\))?)?(?: (E[A-Z0-9]+))?.*")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call as strace shows it: arguments as text, the result, 0 or errno's name, and the bytes that
    went either way.
    """

    name: str
    arguments: tuple[str, ...]
    result: int
    error: str
    data: bytes


def command(folder: Path) -> list[str]:
    """What writes the calls of each thread into a file of `folder`."""
    argv = ["strace", "-ff", "-f", "-xx", "-X", "raw", "-yy", "-s", str(_SHOWN), "-o", f"{folder}/thread"]
    return [*argv, "-e", "read=all", "-e", "write=all", "-e", "trace=!futex,brk,rt_sigaction,rt_sigprocmask"]


def calls(text: str) -> Iterator[Call]:
    """The calls of one thread that came to an end, in order."""
    pending: tuple[str, tuple[str, ...], int, str] | None = None
    data = bytearray()
    whole, _, _ = text.rpartition("\n")  # strace may be in the middle of a line
    for line in whole.splitlines():
        if line.startswith(" | "):
            data += bytes.fromhex(line[10:59])
            continue
        if line.startswith(" *"):
            continue
        if pending is not None:
            yield Call(*pending, bytes(data))
        pending, found = None, _LINE.fullmatch(line)
        data.clear()
        if found is not None and found[3] != "?":
            pending = found[1], tuple(_split(found[2])), int(found[3], 0), found[4] or ""
    if pending is not None:
        yield Call(*pending, bytes(data))


def _split(text: str) -> Iterator[str]:
    """Arguments at the outermost commas."""
    depth, quoted, begun = 0, False, 0
    for place, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif not quoted and letter in "[{<":
            depth += 1
        elif not quoted and letter in "]}>" and text[place - 1 : place + 1] not in {"->", "=>"}:
            depth -= 1
        elif not quoted and letter == "," and depth == 0:
            yield text[begun:place].strip()
            begun = place + 1
    if text[begun:].strip():
        yield text[begun:].strip()
