"""What one turn stores, and what it says and does after that."""

from collections.abc import Callable
from dataclasses import dataclass, field

from executor.framework.store.interface import Delete, Put, Write


@dataclass(slots=True)
class Turn:
    """`after` is done once all `writes` are stored; `dirty` are the apps to be planned anew."""

    writes: dict[str, Write] = field(default_factory=dict)
    after: list[Callable[[], None]] = field(default_factory=list)
    dirty: set[str] = field(default_factory=set)

    def put(self, key: str, value: bytes) -> None:
        """Store a value; the last word of a turn counts."""
        self.writes[key] = Put(key, value)

    def put_write(self, write: Write) -> None:
        """The same with a write that is made already."""
        self.writes[write.key] = write

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.writes[key] = Delete(key)
