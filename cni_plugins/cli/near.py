"""What somebody may have meant by a name that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], alike: float = 0.6) -> str | None:
    """The known name that is most like `name`, None when none is by `alike` (0 to 1; difflib's ratio)."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=alike)), None)
