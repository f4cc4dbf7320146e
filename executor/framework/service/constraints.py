"""Where an app's instances may run: constraints on attributes of agents and on one another.

`field` is an attribute's name, or @hostname, @region, @zone; an attribute that an agent has twice counts by
its first. The operators are Marathon's, with their meaning (an absent attribute satisfies `unlike` alone),
and `any`, the talk's filters: at least one of some texts is the value of any attribute.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mesos.v1 import mesos_pb2, offers_pb2

OPERATORS = ("unique", "cluster", "group_by", "like", "unlike", "max_per", "is", "any")


ADDRESS = "@address"
"""Among a place's values: where the agent itself answers. No constraint names it."""


class ConstraintError(ValueError):
    """A constraint that is none; `expected` says what would be one."""

    def __init__(self, text: str, expected: str) -> None:
        super().__init__(text)
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Constraint:
    """`pattern` is set for like and unlike, `number` for max_per and group_by."""

    field: str
    operator: str
    value: str
    pattern: "re.Pattern[str] | None" = None
    number: int = 0

    def text(self) -> str:
        """For people."""
        return " ".join(part for part in (self.field, self.operator, self.value) if part)


def parse_constraint(field: str, operator: str, value: str) -> Constraint:
    """A checked constraint. Raises ConstraintError."""
    operator = operator.lower()
    if operator not in OPERATORS:
        raise ConstraintError(f'"{operator}"', f"an operator: {', '.join(OPERATORS)}")
    if field.startswith("@") and field not in ("@hostname", "@region", "@zone"):
        raise ConstraintError(f'"{field}"', "@hostname, @region, @zone, or an attribute's name")
    if operator in ("like", "unlike"):
        try:
            return Constraint(field, operator, value, re.compile(value))
        except re.error as error:
            raise ConstraintError(f'"{value}" ({error})', "a regular expression") from None
    if operator in ("max_per", "group_by") and (value or operator == "max_per"):
        if not value.isdecimal() or not 1 <= int(value) <= 10**6:
            raise ConstraintError(f'"{value}"', "a number of at least 1")
        return Constraint(field, operator, value, number=int(value))
    if operator in ("is", "any") and not value:
        raise ConstraintError('""', f"a value for {operator}")
    return Constraint(field, operator, value)


@dataclass(frozen=True, slots=True)
class Place:
    """What constraints see of an agent: each field's first value as text."""

    agent_id: str
    hostname: str
    values: Mapping[str, str]

    def value(self, field: str) -> str | None:
        """The field's value, None where there is none."""
        return self.values.get(field)


def place_of(offer: offers_pb2.Offer) -> Place:
    """The place that an offer is for."""
    values: dict[str, str] = {"@hostname": offer.hostname}
    if offer.HasField("domain") and offer.domain.HasField("fault_domain"):
        values["@region"] = offer.domain.fault_domain.region.name
        values["@zone"] = offer.domain.fault_domain.zone.name
    if offer.url.address.port:
        host = offer.url.address.ip or offer.url.address.hostname
        values[ADDRESS] = (
            f"[{host}]:{offer.url.address.port}" if ":" in host else f"{host}:{offer.url.address.port}"
        )
    for attribute in offer.attributes:
        if attribute.name != ADDRESS:
            values.setdefault(attribute.name, _text(attribute))
    return Place(offer.agent_id.value, offer.hostname, values)


def _text(attribute: mesos_pb2.Attribute) -> str:
    if attribute.type == mesos_pb2.Value.SCALAR:
        return f"{attribute.scalar.value:.3f}".rstrip("0").rstrip(".")
    if attribute.type == mesos_pb2.Value.RANGES:
        parts = (f"{item.begin}-{item.end}" for item in attribute.ranges.range)
        return f"[{','.join(parts)}]"
    if attribute.type == mesos_pb2.Value.SET:
        return "{" + ",".join(attribute.set.item) + "}"
    return attribute.text.value


class Others:
    """Where an app's other instances are: the `Place.values` of each, counted by field as that is asked."""

    __slots__ = ("_counts", "_places")

    def __init__(self, places: Iterable[Mapping[str, str]]) -> None:
        self._places = list(places)
        self._counts: dict[str, Counter[str]] = {}

    def add(self, values: Mapping[str, str]) -> None:
        """One more."""
        self._places.append(values)
        for field, counts in self._counts.items():
            if (value := values.get(field)) is not None:
                counts[value] += 1

    def counts(self, field: str) -> Counter[str]:
        """How many have which value of a field."""
        found = self._counts.get(field)
        if found is None:
            values = (place.get(field) for place in self._places)
            found = self._counts[field] = Counter(value for value in values if value is not None)
        return found


def broken(
    constraints: Iterable[Constraint], place: Place, others: Others | Iterable[Mapping[str, str]]
) -> Constraint | None:
    """The first constraint that forbids this place; `others` are the `Place.values` of the app's others."""
    counted = others if isinstance(others, Others) else Others(others)
    for constraint in constraints:
        if not _allows(constraint, place, counted):
            return constraint
    return None


def by_place(constraint: Constraint) -> bool:
    """Whether the place alone decides, wherever the others are."""
    texts = constraint.operator in ("any", "like", "unlike", "is")
    return texts or (constraint.operator == "cluster" and bool(constraint.value))


def _allows(constraint: Constraint, place: Place, others: Others) -> bool:
    if constraint.operator == "any":
        wanted = {item.strip().lower() for item in constraint.value.split(",")}
        return any(value.lower() in wanted for value in place.values.values())
    value = place.value(constraint.field)
    if value is None:
        return constraint.operator == "unlike"
    if constraint.pattern is not None:
        return (constraint.pattern.fullmatch(value) is not None) == (constraint.operator == "like")
    if constraint.operator == "is" or (constraint.operator == "cluster" and constraint.value):
        return _same(value, constraint.value)
    return _spread(constraint, value, others.counts(constraint.field))


def _spread(constraint: Constraint, value: str, counts: Counter[str]) -> bool:
    """The operators that look at where the others are."""
    match constraint.operator:
        case "unique":
            return counts[value] == 0
        case "cluster":
            return not counts or value in counts
        case "max_per":
            return counts[value] < constraint.number
    # group_by: as even as what is known of the groups allows; unknown ones count as empty.
    known = len(counts) if value in counts else len(counts) + 1
    lowest = 0 if known < constraint.number or value not in counts else min(counts.values())
    return counts[value] <= lowest


def _same(value: str, wanted: str) -> bool:
    if value == wanted:
        return True
    try:
        return round(float(value), 3) == round(float(wanted), 3)
    except ValueError:
        return False
