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


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        r".*",
        r"after DEL: node: (link|sysctl|address|route) .*\b(br0|cni0)\b.*-> nothing",
        "a bridge that the plugin made is removed with its last port, with all that was on it",
    ),
    Difference(
        r".*",
        r'after ADD: node: link (br0|cni0)\.ifalias: nothing -> "mesokit"',
        "the mark by which a bridge of ours is known, so that no other is ever removed",
    ),
    Difference(
        r".*",
        r"ADD \w+ result\.dns: \{\} -> nothing",
        "since 1.0.0 an empty dns is left out",
    ),
    Difference(
        r".*",
        r"after ADD: \w+: link \S+\.txqlen: nothing -> 1000",
        "v1.1.1 makes interfaces with no transmit queue by accident; the kernel's default is 1000",
    ),
)
