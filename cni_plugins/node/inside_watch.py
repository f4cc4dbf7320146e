"""When to look at the rules in containers' own namespaces: somebody changed nf_tables in one of them.

What is told within a moment is looked at together, and not more often than twice a second, whatever a
container does all day. Where the kernel cannot tell, that often; else once in a while, whoever may have
missed what.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from cni_plugins.kernel.nft.elsewhere import Elsewhere, listen

PAUSE_SECONDS = 0.5
ANYWAY_SECONDS = 60.0


@dataclass(slots=True)
class InsideWatch:
    """`heard` is None where the kernel cannot tell."""

    heard: Elsewhere | None = field(default_factory=listen)
    _told: bool = False
    _looked: float = field(default_factory=time.monotonic)

    def watched(self) -> list[int]:
        """What to wait for. Nothing once it is told: more would tell nothing new, and wake for it."""
        return [] if self._told or self.heard is None else [self.heard.fileno()]

    def patience(self) -> float:
        """Seconds until a look is due."""
        wait = PAUSE_SECONDS if self._told or self.heard is None else ANYWAY_SECONDS
        return max(0.0, self._looked + wait - time.monotonic())

    def hear(self) -> None:
        self._told = self._told or (self.heard is not None and self.heard.changed())

    def looked(self) -> None:
        """Before a look: what is told from now on may be news to it."""
        if self.heard is not None:
            self.heard.changed()
        self._told = False
        self._looked = time.monotonic()
