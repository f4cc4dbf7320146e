"""What one turn stores, and what it says and does after that."""

from collections.abc import Callable
from dataclasses import dataclass, field

from mesos.v1.scheduler.scheduler_pb2 import OfferConstraints

from executor.framework.sdk.calls import Call
from executor.framework.store.interface import Delete, Put, Write


@dataclass(slots=True)
class Turn:
    """Once all `writes` are stored, `calls` are made, in order, and `after` is done. `dirty`: apps to plan
    anew. `suppressed`: roles that the next SUBSCRIBE says are suppressed, None for as before. `constraints`:
    what the master is to keep to from now on, said before the calls; None for as before.
    """

    writes: dict[str, Write] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)
    dirty: set[str] = field(default_factory=set)
    suppressed: frozenset[str] | None = None
    constraints: OfferConstraints | None = None

    def call(self, call: Call) -> None:
        """Say something to the master when all is stored."""
        self.calls.append(call)

    def put(self, key: str, value: bytes) -> None:
        """Store a value; the last word of a turn counts."""
        self.writes[key] = Put(key, value)

    def put_write(self, write: Write) -> None:
        """The same with a write that is made already."""
        self.writes[write.key] = write

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.writes[key] = Delete(key)
