"""What the framework asks of a store, and what each store promises.

A store is a map from keys (text with slashes) to values (bytes), each with a revision that grows whenever it
is written. A transaction is done whole or not at all, and is durable when `commit` returns. Leadership lives
in the same place as the data, and every transaction of a leader carries its fence: a store refuses, with
FencedError, whatever an instance writes that is no longer the leader, however late its packets come. So two
instances may believe to lead at the same time, but never write.

Values are small (an app, a task): ZooKeeper takes 1 MB, etcd 1.5 MiB and 128 writes in one transaction, and
`Txn` refuses more than the least of these, so that one store can be exchanged for another.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_VALUE = 900_000
"""Bytes of one value."""

MAX_WRITES = 100
"""Writes and conditions in one transaction."""


class StoreError(Exception):
    """The store cannot be reached or does not answer: nothing is known of what was asked. Try again."""


class ConflictError(Exception):
    """A condition did not hold: somebody else wrote. Nothing was changed."""


class FencedError(Exception):
    """This instance does not lead any more. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key, its value, and the revision it was last written at."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a value."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove exactly this key, if it is there. Never a prefix."""

    key: str


@dataclass(frozen=True, slots=True)
class Expect:
    """A condition: the key stands at this revision; 0 for a key that must not be there."""

    key: str
    revision: int


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class Txn:
    """Conditions and writes, done together. Raises ValueError beyond the limits above."""

    writes: tuple[Write, ...]
    expects: tuple[Expect, ...] = ()

    def __post_init__(self) -> None:
        parts = len(self.writes) + len(self.expects)
        if parts > MAX_WRITES:
            raise ValueError(f"a transaction of {parts} parts: at most {MAX_WRITES}")
        for write in self.writes:
            if isinstance(write, Put) and len(write.value) > MAX_VALUE:
                raise ValueError(f"{write.key}: {len(write.value)} bytes: at most {MAX_VALUE}")


class Leadership(Protocol):
    """To lead, until `lost` is set. `token` grows from leader to leader; `certain` is False while the store
    is out of reach: act no more, but do not give up yet.
    """

    @property
    def token(self) -> int: ...

    @property
    def lost(self) -> asyncio.Event: ...

    @property
    def certain(self) -> bool: ...

    async def resign(self) -> None: ...


class Store(Protocol):
    """See the module. Every method raises StoreError; `fence` is the leadership under which is written."""

    async def get(self, key: str) -> Entry | None: ...

    async def entries(self, prefix: str) -> Sequence[Entry]: ...

    async def commit(self, txn: Txn, fence: Leadership) -> None:
        """Do it, durably. Raises ConflictError, FencedError, StoreError."""

    async def campaign(self, advertised: str) -> Leadership:
        """Wait until this instance leads. `advertised` is where clients find it (`host:port`)."""

    async def leader(self) -> str:
        """What the leader advertises, "" while there is none."""

    async def close(self) -> None: ...
