"""Colours, where somebody looks who can see them."""

from __future__ import annotations

import os
from typing import TextIO


def takes_colour(stream: TextIO) -> bool:
    """A terminal that is not dumb, and no NO_COLOR (no-color.org: set and not empty)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"


def coloured(text: str, colour: str, stream: TextIO) -> str:
    """`text` in a colour of ECMA-48 (SGR), if `stream` takes it."""
    return f"\x1b[{colour}m{text}\x1b[0m" if takes_colour(stream) else text
