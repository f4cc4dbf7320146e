"""Resources of offers and tasks, in the master's own arithmetic.

A master compares and adds scalars as whole thousandths, ranges as sorted sets of integers, and never mixes
pieces that differ in anything but their amount: role, the whole stack of reservations, disk, revocability,
provider. A framework that computes otherwise accepts what the master refuses. So a `Resources` maps each kind
of piece (`Kind`) to its amount, and says yes and no exactly as `src/common/resources.cpp` does.

Scalars are integers of 1/1000 everywhere in this package: `cpus` 1500 is one processor and a half, `mem`
32000 is 32 MiB. `text` and `from_milli` are for people and for the wire.
"""

import math
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from mesos.v1 import mesos_pb2

Interval = tuple[int, int]
"""First and last, both included."""

Ranges = tuple[Interval, ...]
"""Sorted, apart from each other by more than one."""

Amount = int | Ranges | frozenset[str]

UNMERGED = (
    mesos_pb2.Resource.DiskInfo.Source.MOUNT,
    mesos_pb2.Resource.DiskInfo.Source.BLOCK,
)


class InvalidResourceError(ValueError):
    """A resource that no master would take; says which and why."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What pieces have in common that may be added to each other.

    `role` is the allocation role ("" where none is set). `reservations`, `disk`, `provider` are serialized
    messages: only their equality counts. `reserved_to` is the role of the innermost reservation, "" if
    unreserved; `labels` are that reservation's: it belongs to somebody in particular if there are any.
    """

    name: str
    type: int
    role: str = ""
    reservations: tuple[bytes, ...] = ()
    reserved_to: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    disk: bytes = b""
    whole: bool = False
    persistence: str = ""
    revocable: bool = False
    shared: bool = False
    provider: str = ""
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Kinds are looked up far more often than made.
        object.__setattr__(self, "_hash", hash((self.name, self.role, self.reservations, self.disk)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def labelled(self) -> bool:
        """Whether somebody in particular reserved it."""
        return bool(self.labels)


def milli(value: float) -> int:
    """A scalar as the master rounds it: to thousandths, halves away from zero. InvalidResourceError."""
    if not math.isfinite(value):
        raise InvalidResourceError(f"{value!r} is no amount")
    scaled = abs(value) * 1000
    if math.isinf(scaled):
        raise InvalidResourceError(f"{value!r} is no amount")
    whole = math.floor(scaled)
    if scaled - whole >= 0.5:
        whole += 1
    return -whole if value < 0 else whole


def from_milli(value: int) -> float:
    """The double that the wire carries for so many thousandths."""
    return value / 1000


def merge(intervals: Iterable[Interval]) -> Ranges:
    """The union: sorted, touching intervals joined."""
    found: list[Interval] = []
    for first, last in sorted(intervals):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def without(ranges: Ranges, taken: Ranges) -> Ranges:
    """The set difference."""
    found: list[Interval] = []
    for first, last in ranges:
        start = first
        for low, high in taken:
            if high < start or low > last:
                continue
            if low > start:
                found.append((start, low - 1))
            start = max(start, high + 1)
        if start <= last:
            found.append((start, last))
    return tuple(found)


def covers(ranges: Ranges, wanted: Ranges) -> bool:
    """Whether all of `wanted` lies in `ranges`."""
    return not without(wanted, ranges)


def count(ranges: Ranges) -> int:
    """How many integers there are."""
    return sum(last - first + 1 for first, last in ranges)


class Resources:
    """A bag of pieces. Never changed once made; `+` and `-` make new ones."""

    __slots__ = ("_amounts",)

    def __init__(self, amounts: Mapping[Kind, Amount] | None = None) -> None:
        self._amounts: dict[Kind, Amount] = {
            kind: amount for kind, amount in (amounts or {}).items() if amount
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resources) and self._amounts == other._amounts

    def __hash__(self) -> int:
        return hash(frozenset(self._amounts.items()))

    def __bool__(self) -> bool:
        return bool(self._amounts)

    def __repr__(self) -> str:
        return f"Resources({self.text()})"

    def __iter__(self) -> Iterator[tuple[Kind, Amount]]:
        return iter(self._amounts.items())

    def items(self) -> ItemsView[Kind, Amount]:
        """The pieces, as `iter` gives them."""
        return self._amounts.items()

    def __add__(self, other: "Resources") -> "Resources":
        found = dict(self._amounts)
        for kind, amount in other:
            found[kind] = _plus(found[kind], amount) if kind in found else amount
        return Resources(found)

    def __sub__(self, other: "Resources") -> "Resources":
        """What is left. Raises InvalidResourceError where `other` is not contained."""
        found = dict(self._amounts)
        for kind, amount in other:
            left = _minus(kind, found.get(kind), amount)
            if left is None:
                raise InvalidResourceError(f"{kind.name} {_say(amount)} is not in {self.text() or 'nothing'}")
            found[kind] = left
        return Resources(found)

    def contains(self, other: "Resources") -> bool:
        """Whether every piece of `other` can be taken from the piece of the same kind here."""
        amounts = self._amounts
        return all(_minus(kind, amounts.get(kind), amount) is not None for kind, amount in other)

    def of(self, name: str) -> "Resources":
        """The pieces of one name."""
        return Resources({kind: amount for kind, amount in self._amounts.items() if kind.name == name})

    def total(self, name: str) -> int:
        """Of all kinds together: thousandths of a scalar, the count of a range or set."""
        total = 0
        for kind, amount in self._amounts.items():
            if kind.name == name:
                total += amount if isinstance(amount, int) else quantity(amount)
        return total

    def text(self) -> str:
        """For people: `cpus 1.5, mem 64, ports 31000-31005`."""
        parts = []
        for kind, amount in sorted(
            self._amounts.items(), key=lambda item: (item[0].name, item[0].reserved_to)
        ):
            role = f" ({kind.reserved_to})" if kind.reserved_to else ""
            parts.append(f"{kind.name}{role} {_say(amount)}")
        return ", ".join(parts)


def quantity(amount: Amount) -> int:
    """Thousandths of a scalar, the count of anything else."""
    if isinstance(amount, int):
        return amount
    return len(amount) if isinstance(amount, frozenset) else count(amount)


def _say(amount: Amount) -> str:
    if isinstance(amount, int):
        return f"{amount / 1000:g}"
    if isinstance(amount, frozenset):
        return "{" + ",".join(sorted(amount)) + "}"
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in amount)


def _plus(mine: Amount, other: Amount) -> Amount:
    if isinstance(mine, int) and isinstance(other, int):
        return mine + other
    if isinstance(mine, frozenset) and isinstance(other, frozenset):
        return mine | other
    assert isinstance(mine, tuple) and isinstance(other, tuple)
    return merge((*mine, *other))


def _minus(kind: Kind, mine: Amount | None, other: Amount) -> Amount | None:
    """What is left of `mine`, None where `other` is not in it. A whole disk is taken whole or not at all."""
    if mine is None:
        return None
    if kind.whole and mine != other:
        return None
    if isinstance(mine, int) and isinstance(other, int):
        return mine - other if other <= mine else None
    if isinstance(mine, frozenset) and isinstance(other, frozenset):
        return mine - other if other <= mine else None
    assert isinstance(mine, tuple) and isinstance(other, tuple)
    return without(mine, other) if covers(mine, other) else None


def parse(resources: Iterable[mesos_pb2.Resource]) -> Resources:
    """Resources off the wire, in either reservation format. Raises InvalidResourceError."""
    found: dict[Kind, Amount] = {}
    for resource in resources:
        kind, amount = _kind(resource), _amount(resource)
        if not amount:
            continue
        if kind in found and not kind.whole:
            found[kind] = _plus(found[kind], amount)
        elif kind in found and kind.shared:
            continue  # copies of one shared volume: which task uses it is the master's count
        elif kind in found:
            raise InvalidResourceError(f"{kind.name} of one disk is there twice")
        else:
            found[kind] = amount
    return Resources(found)


def _amount(resource: mesos_pb2.Resource) -> Amount:
    if resource.type == mesos_pb2.Value.SCALAR:
        amount = milli(resource.scalar.value)
        if amount < 0 or (amount == 0 and resource.scalar.value != 0):
            raise InvalidResourceError(f"{resource.name} {resource.scalar.value!r} is no amount")
        return amount
    if resource.type == mesos_pb2.Value.RANGES:
        pairs = [(item.begin, item.end) for item in resource.ranges.range]
        if any(first > last for first, last in pairs):
            raise InvalidResourceError(f"a range of {resource.name} ends before it begins")
        return merge(pairs)
    if resource.type == mesos_pb2.Value.SET:
        return frozenset(resource.set.item)
    raise InvalidResourceError(f"{resource.name} is of type {resource.type}, which no resource is")


@lru_cache(maxsize=1024)
def _plain(name: str, kind: int, role: str) -> Kind:
    return Kind(name, kind, role)


def _is_plain(resource: mesos_pb2.Resource) -> bool:
    if resource.reservations or (resource.HasField("role") and resource.role != "*"):
        return False
    return not any(resource.HasField(name) for name in _SPECIAL)


_SPECIAL: tuple[Literal["disk", "revocable", "shared", "provider_id"], ...] = (
    "disk",
    "revocable",
    "shared",
    "provider_id",
)


def _kind(resource: mesos_pb2.Resource) -> Kind:
    if _is_plain(resource):
        return _plain(resource.name, resource.type, resource.allocation_info.role)
    reservations = [item.SerializeToString(deterministic=True) for item in resource.reservations]
    last = resource.reservations[-1] if resource.reservations else None
    reserved_to, labels = ("", ()) if last is None else (last.role, _labels(last))
    if last is None and resource.role not in ("", "*"):
        # The form before refinement: a role, and a dynamic reservation's principal and labels beside it.
        made = mesos_pb2.Resource.ReservationInfo()
        if resource.HasField("reservation"):
            made.CopyFrom(resource.reservation)
        made.role = resource.role
        made.type = (
            mesos_pb2.Resource.ReservationInfo.DYNAMIC
            if resource.HasField("reservation")
            else mesos_pb2.Resource.ReservationInfo.STATIC
        )
        reservations = [made.SerializeToString(deterministic=True)]
        reserved_to, labels = made.role, _labels(made)
    disk = resource.disk
    return Kind(
        resource.name,
        resource.type,
        resource.allocation_info.role,
        tuple(reservations),
        reserved_to,
        labels,
        disk.SerializeToString(deterministic=True) if resource.HasField("disk") else b"",
        resource.HasField("disk") and (disk.source.type in UNMERGED or disk.HasField("persistence")),
        disk.persistence.id,
        resource.HasField("revocable"),
        resource.HasField("shared"),
        resource.provider_id.value,
    )


def _labels(info: mesos_pb2.Resource.ReservationInfo) -> tuple[tuple[str, str], ...]:
    return tuple((label.key, label.value) for label in info.labels.labels) if info.HasField("labels") else ()


def wire(resources: Resources) -> list[mesos_pb2.Resource]:
    """As messages, in the format with `reservations`."""
    found = []
    for kind, amount in resources:
        resource = mesos_pb2.Resource(name=kind.name, type=kind.type)  # type: ignore[arg-type]
        if isinstance(amount, int):
            resource.scalar.value = from_milli(amount)
        elif isinstance(amount, frozenset):
            resource.set.item.extend(sorted(amount))
        else:
            for first, last in amount:
                resource.ranges.range.add(begin=first, end=last)
        if kind.role:
            resource.allocation_info.role = kind.role
        for data in kind.reservations:
            resource.reservations.add().MergeFromString(data)
        if kind.disk:
            resource.disk.MergeFromString(kind.disk)
        if kind.revocable:
            resource.revocable.SetInParent()
        if kind.shared:
            resource.shared.SetInParent()
        if kind.provider:
            resource.provider_id.value = kind.provider
        found.append(resource)
    return found
