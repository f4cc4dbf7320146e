"""Columns for people."""

from __future__ import annotations

from collections.abc import Sequence

from cni_plugins.spec.text import printable

_LEAST = 6  # columns of a cell that is cut


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """The rows as lines, each column as wide as its longest cell; the last one is not filled."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [indent + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def fitted(rows: Sequence[Sequence[str]], columns: int, indent: str = "") -> list[str]:
    """Rows of any text as printable lines no longer than `columns` (0: any length): the widest columns give,
    and what is cut ends with "…".
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if not cells or not columns:
        return aligned(cells, indent)
    widths = [max(len(row[number]) for row in cells) for number in range(len(cells[0]))]
    room = columns - len(indent) - 2 * (len(widths) - 1)
    while sum(widths) > room and max(widths) > _LEAST:
        widths[widths.index(max(widths))] -= 1
    cut = [[_cut(cell, widths[number]) for number, cell in enumerate(row)] for row in cells]
    return aligned(cut, indent)


def prose(text: str, columns: int, first: str = "", indent: str = "") -> list[str]:
    """A sentence as printable lines of at most `columns` (0: one line), broken between words: the first one
    behind `first`, the others behind `indent`. A word that is longer than a line has one for itself.
    """
    lines = [first]
    empty = True
    for word in printable(text).split(" "):
        if columns and not empty and len(lines[-1]) + 1 + len(word) > columns:
            lines.append(indent)
            empty = True
        lines[-1] += word if empty else f" {word}"
        empty = False
    return lines


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else text[: max(size - 1, 0)] + "…"
