"""Progress found in text: the latest line that a regular expression matches.

Cook's rules: a line counts only within its first 4 KiB; the first group is per cent, a number from 0 to
100; the second, if there is one, a message of at most 512 characters. Bytes may be anything: what is not
ASCII is replaced.

A search runs while every other thread waits, and what is searched is the task's. So one piece of the stream
has a budget of processor time: the newest lines are searched first, and those that there is no time left
for count as lines without progress. A long line is tried at growing lengths first, and is cut where its
whole would cost more than that.
"""

import re
import sys
import time
from dataclasses import dataclass
from typing import Any

#: What Cook's executor looks for unless told otherwise.
DEFAULT_PATTERN = r"progress:\s+([0-9]*\.?[0-9]+)($|\s+.*)"

_LINE_LIMIT = 4096
_MESSAGE_LIMIT = 512
_FEW = 8
_BUDGET = 0.01
"""Seconds of processor time for one piece of a stream."""
_SHORT = 64
"""Bytes that are searched without a trial."""
_GROWTH = 16
"""What a line of twice the length may cost more: a pattern with repeats one after the other goes by powers of
the length, and `compile_pattern` refuses those that are worse."""


class PatternError(ValueError):
    """A regular expression that cannot find progress."""


@dataclass(frozen=True, slots=True)
class Reading:
    """`percent` from 0 to 100."""

    percent: int
    message: str


def compile_pattern(pattern: str) -> re.Pattern[bytes]:
    """Check and compile a pattern. Raises PatternError."""
    try:
        compiled = re.compile(pattern.encode())
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"{pattern!r} is no regular expression: {error}") from None
    parser: Any = sys.modules["re._parser"]
    if _explodes(parser.parse(pattern.encode()), inside=False):
        raise PatternError(
            f"{pattern!r} repeats what repeats or chooses, and may search one line for ever: "
            "make the inner repeat possessive, as in (a++)+, or the whole atomic, as in (?>a|b)+"
        )
    if compiled.groups < 1:
        raise PatternError(f"{pattern!r} has no group for the per cent: write one as ([0-9]+)")
    return compiled


def _explodes(items: Any, *, inside: bool) -> bool:
    """Whether a parsed pattern tries combinations whose number doubles with each byte: repeats or choices
    `inside` of long repeats. A search holds up every thread of this program and cannot be stopped.
    """
    for operation, argument in items:
        match operation.name:
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, body = argument
                if (least != most and inside) or _explodes(body, inside=inside or most > _FEW):
                    return True
            case "BRANCH":
                if inside or any(_explodes(branch, inside=False) for branch in argument[1]):
                    return True
            case "SUBPATTERN":
                if _explodes(argument[-1], inside=inside):
                    return True
            case "POSSESSIVE_REPEAT" | "ATOMIC_GROUP" | "ASSERT" | "ASSERT_NOT":
                if _explodes(argument if operation.name == "ATOMIC_GROUP" else argument[-1], inside=False):
                    return True
    return False


class Scanner:
    """Takes a stream of bytes in pieces. Holds at most one line of 4 KiB, however long lines are."""

    def __init__(self, pattern: re.Pattern[bytes]) -> None:
        self._pattern = pattern
        self._rest = b""
        self._overlong = False

    def feed(self, data: bytes) -> Reading | None:
        """The latest reading among the lines that are complete now."""
        *lines, rest = data.split(b"\n")
        latest: Reading | None = None
        if lines:
            lines[0] = self._rest if self._overlong else self._rest + lines[0]
            self._rest, self._overlong = b"", False
            latest = self._latest(lines)
        if not self._overlong:
            self._rest = (self._rest + rest[: _LINE_LIMIT + 1])[: _LINE_LIMIT + 1]
            self._overlong = len(self._rest) > _LINE_LIMIT
        return latest

    def finish(self) -> Reading | None:
        """The reading of a last line that has no end."""
        rest, self._rest, self._overlong = self._rest, b"", False
        return self._read(rest)

    def _latest(self, lines: list[bytes]) -> Reading | None:
        """Only the latest counts, so the search goes backwards and ends early."""
        deadline = time.thread_time() + _BUDGET
        for number, line in enumerate(reversed(lines), 1):
            reading = self._read(line)
            if reading is not None:
                return reading
            # Short lines cost less than the look at the clock.
            if (number % _FEW == 0 or len(line) > _SHORT) and time.thread_time() > deadline:
                return None
        return None

    def _affordable(self, line: bytes) -> int:
        """How much of a line can be searched: found by searching growing beginnings of it."""
        length = _SHORT
        while length < len(line):
            began = time.thread_time()
            self._pattern.search(line, 0, length)
            if (time.thread_time() - began) * _GROWTH > _BUDGET:
                return length
            length *= 2
        return len(line)

    def _read(self, line: bytes) -> Reading | None:
        line = line[:_LINE_LIMIT].rstrip(b"\r")
        match = self._pattern.search(line, 0, self._affordable(line))
        if match is None:
            return None
        try:
            percent = float(match[1])
        except (TypeError, ValueError):
            return None
        if not 0 <= percent <= 100:
            return None
        message = (match[2] or b"") if self._pattern.groups > 1 else b""
        text = message.decode("ascii", "replace").strip()
        if len(text) > _MESSAGE_LIMIT:
            text = text[: _MESSAGE_LIMIT - 1] + "…"
        return Reading(int(percent + 0.5), text)
