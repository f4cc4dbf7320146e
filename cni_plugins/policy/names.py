"""What the kernel calls profiles: as their content says, but for those that took another's place
(successors.py) and those whose own name such a one has.
"""

import hashlib
from collections.abc import Mapping

Pairs = tuple[tuple[str, str], ...]  #: of profiles: the name that says the content, and what it is called


def digest(text: str) -> str:
    """What tells contents apart in names."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


class Names:
    """Of the profiles that are called otherwise, by their content's name."""

    __slots__ = ("_called", "_taken")

    def __init__(self, pairs: Pairs = ()) -> None:
        self._called: dict[str, str] = {}
        self._taken: frozenset[str] = frozenset()
        self.become(dict(pairs))

    def become(self, called: Mapping[str, str]) -> None:
        """Know these and no others."""
        self._called = dict(called)
        self._taken = frozenset(self._called.values())

    def add(self, called: Mapping[str, str]) -> None:
        self.become({**self._called, **called})

    def __bool__(self) -> bool:
        return bool(self._called)

    @property
    def pairs(self) -> Pairs:
        """All of them, to be written down."""
        return tuple(sorted(self._called.items()))

    def of(self, content: str) -> str:
        """What the profile of this content is called."""
        if content in self._called:
            return self._called[content]
        name = content
        while name in self._taken:
            name = f"{name.partition('_')[0]}_{digest(name)}"
        return name
