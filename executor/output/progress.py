"""Progress found in text: the latest line that a regular expression matches.

Cook's rules: a line counts only within its first 4 KiB; the first group is per cent, a number from 0 to
100; the second, if there is one, a message of at most 512 characters. Bytes may be anything: what is not
ASCII is replaced.
"""

import re
import sys
from dataclasses import dataclass
from typing import Any

#: What Cook's executor looks for unless told otherwise.
DEFAULT_PATTERN = r"progress:\s+([0-9]*\.?[0-9]+)($|\s+.*)"

_LINE_LIMIT = 4096
_MESSAGE_LIMIT = 512
_FEW = 8


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
            # Only the latest counts, so the search goes backwards and ends early.
            latest = next(filter(None, map(self._read, reversed(lines))), None)
        if not self._overlong:
            self._rest = (self._rest + rest[: _LINE_LIMIT + 1])[: _LINE_LIMIT + 1]
            self._overlong = len(self._rest) > _LINE_LIMIT
        return latest

    def finish(self) -> Reading | None:
        """The reading of a last line that has no end."""
        rest, self._rest, self._overlong = self._rest, b"", False
        return self._read(rest)

    def _read(self, line: bytes) -> Reading | None:
        match = self._pattern.search(line[:_LINE_LIMIT].rstrip(b"\r"))
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
