"""Every difference between the reference plugins (Debian's v1.1.1) and ours, with the reason why ours is
better.

An entry says in which cases (a pattern over case names) which observations (a pattern over lines "name:
reference -> ours", where "nothing" stands for an absent one) may differ. The differential test fails for a
difference that no entry explains, and for an entry that explains nothing any more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    cases: str
    lines: str
    reason: str

    def explains(self, case: str, line: str) -> bool:
        return bool(re.fullmatch(self.cases, case) and re.match(self.lines, line))


DIFFERENCES: tuple[Difference, ...] = ()
