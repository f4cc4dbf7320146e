"""Shapes of plain JSON documents: a table of keys and kinds, checked in one walk that reports every fault."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

from executor.local_agent.validation import Fault, Json, fault, missing, unknown_key


@dataclass(frozen=True, slots=True)
class Text:
    """A string, one of `choices` (in any case of letters) where there are some."""

    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Number:
    """A number from `low` to `high`; whole if `whole`."""

    low: float = 0
    high: float = sys.float_info.max
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind."""

    item: Kind


@dataclass(frozen=True, slots=True)
class MapOf:
    """An object with free keys and values of one kind."""

    value: Kind


@dataclass(frozen=True, slots=True)
class Object:
    """An object with these keys and no others."""

    keys: Mapping[str, Kind]
    required: tuple[str, ...] = ()


Kind = Union[Text, Number, Flag, ListOf, MapOf, Object]  # noqa: UP007  (a recursive alias has to be one)


def faults_of(value: Json, kind: Kind, key: str = "") -> list[Fault]:
    """Every fault of a document against its shape; null stands for "not given"."""
    match kind:
        case Object(keys, required):
            return _object_faults(value, keys, required, key)
        case ListOf(item) if isinstance(value, list):
            return [f for index, entry in enumerate(value) for f in faults_of(entry, item, f"{key}[{index}]")]
        case MapOf(item) if isinstance(value, dict):
            return [f for name, entry in value.items() for f in faults_of(entry, item, f"{key}.{name}")]
    return [] if _fits(value, kind) else [fault(key, value, expected(kind))]


def expected(kind: Kind) -> str:
    """The kind in words."""
    match kind:
        case Text(choices):
            return f"one of {', '.join(choices)}" if choices else "a string"
        case Number(low, high, whole):
            span = f"from {low:g}" if high == sys.float_info.max else f"from {low:g} to {high:g}"
            wide = f"{'a whole number' if whole else 'a number'} {span}"
            return f"{low:g}" if low == high else wide
        case Flag():
            return "true or false"
        case ListOf(item):
            return f"a list, each {expected(item)}"
        case MapOf(item):
            return f"an object, each value {expected(item)}"
        case Object(keys):
            return f"an object with {', '.join(keys)}"


def _object_faults(value: Json, keys: Mapping[str, Kind], required: tuple[str, ...], key: str) -> list[Fault]:
    if not isinstance(value, dict):
        return [fault(key, value, expected(Object(keys)))]
    prefix = f"{key}." if key else ""
    faults = [unknown_key(key, name, keys) for name in value if name not in keys]
    for name, kind in keys.items():
        if value.get(name) is not None:
            faults += faults_of(value[name], kind, prefix + name)
        elif name in required:
            faults.append(missing(prefix + name, expected(kind)))
    return faults


def _fits(value: Json, kind: Kind) -> bool:
    match kind:
        case Text(choices):
            return isinstance(value, str) and (not choices or value.lower() in map(str.lower, choices))
        case Number(low, high, whole):
            types = int if whole else int | float
            return isinstance(value, types) and not isinstance(value, bool) and low <= value <= high
        case Flag():
            return isinstance(value, bool)
    return False
