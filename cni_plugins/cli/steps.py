"""Steps of an attachment as lines for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from cni_plugins.cli import look
from cni_plugins.cli.colour import coloured
from cni_plugins.cli.table import prose
from cni_plugins.spec.text import printable
from cni_plugins.view.verdict import StepState, Verdict

MARKS = {Verdict.OK: ("ok", "32"), Verdict.FAILED: ("FAILED", "31"), Verdict.PASSIVE: ("-", "0")}
_UNKNOWN = ("?", "33")


def step_lines(steps: Sequence[StepState], indent: str = "  ") -> Iterator[str]:
    """Steps for people: the state, what it is, and where it does not stand why, and the way out. That is one
    line, however long, so that it can be pasted.
    """
    columns = look.width()
    size = max((len(step.kind) for step in steps), default=0)
    for step in steps:
        mark, colour = MARKS.get(step.verdict, _UNKNOWN)
        head = f"{indent}{mark:<6}"
        first, *rest = prose(
            step.about, columns, f"{head}  {step.kind:<{size}}  ", " " * (len(head) + size + 4)
        )
        yield indent + coloured(f"{mark:<6}", colour, sys.stdout) + first.removeprefix(head).rstrip()
        yield from rest
        below = f"{indent}        "
        if step.problem:
            yield from prose(step.problem, columns, below, below)
        if step.remedy:
            yield printable(f"{below}remedy: {step.remedy}")
