"""What the tasks of `mesokit run --follow` print: as it is for one, line by line behind their names for more.

A name is coloured where somebody looks: on a terminal that is not dumb, unless NO_COLOR is set. The rest of a
line without an end waits for its end; control characters of a task that shares a terminal with others are
spelt out, so that no task writes over another's lines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from cni_plugins.cli.colour import coloured, takes_colour
from cni_plugins.cli.run_report import print_line
from cni_plugins.spec.text import printable

#: (container, its executor's name, `stdout` or `stderr`, bytes); no bytes are the end. May raise OSError.
Shown = Callable[[str, str, str, bytes], None]

_COLOURS = ("36", "33", "32", "35", "34", "31")
_LONGEST = 64 << 10  # bytes of a line that has no end


def follow_teller(names: Sequence[str], *, as_json: bool) -> Shown:
    """How to show what the executors of these names print."""
    if as_json:
        return _in_json
    return _Lines(names).show if len(names) > 1 else _as_it_is


def _in_json(container: str, _name: str, stream: str, data: bytes) -> None:
    if not data:
        return
    text = data.decode(errors="replace")
    print_line({"event": "Output", "container": container, "stream": stream, "data": text})


def _as_it_is(_container: str, _name: str, stream: str, data: bytes) -> None:
    target = _target(stream).buffer
    target.write(data)
    target.flush()


def _target(stream: str) -> TextIO:
    return sys.stdout if stream == "stdout" else sys.stderr


class _Lines:
    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(len(printable(name)) for name in names)
        self._colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
        self._rest: dict[tuple[str, str], bytes] = {}

    def show(self, container: str, name: str, stream: str, data: bytes) -> None:
        *lines, rest = (self._rest.pop((container, stream), b"") + data).split(b"\n")
        if len(rest) > _LONGEST or (rest and not data):
            lines, rest = [*lines, rest], b""
        if rest:
            self._rest[container, stream] = rest
        target = _target(stream)
        label = coloured(f"{printable(name):<{self._width}} |", self._colours[name], target)
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            shown = "\t".join(map(printable, text.split("\t")))
            target.write(f"{label} {_coloured_text(shown, text, target)}\n")
        target.flush()


def _coloured_text(shown: str, text: str, target: TextIO) -> str:
    """A task's own colours are kept where colours are taken: sequences that set them, and no others."""
    if "\x1b[" not in text or not takes_colour(target):
        return shown
    import re  # noqa: PLC0415 - for those that use colours

    parts = re.split(r"(\x1b\[[\d;]{0,20}m)", text)
    return "".join(p if n % 2 else printable(p) for n, p in enumerate(parts)) + "\x1b[0m"
