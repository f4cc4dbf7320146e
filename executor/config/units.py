"""Durations and sizes as Mesos writes them: a decimal number and a unit, no sign, no space."""

import re

MAX_NANOSECONDS = 2**63 - 1
"""The longest duration Mesos can hold, about 292 years."""

NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "secs": 10**9,
    "mins": 60 * 10**9,
    "hrs": 3600 * 10**9,
    "days": 86400 * 10**9,
    "weeks": 7 * 86400 * 10**9,
}

BYTES = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}

_NUMBER_AND_UNIT = re.compile(r"([0-9]*)(?:\.([0-9]*))?([A-Za-z]+)", re.ASCII)


def parse_duration(text: str) -> int:
    """Nanoseconds, truncated. Raises ValueError with a sentence for anything Mesos would refuse too."""
    nanoseconds = _parse(text, NANOSECONDS, "a duration such as 1500ms, 5secs or 15mins")
    if nanoseconds > MAX_NANOSECONDS:
        raise ValueError(f"{text!r} is longer than Mesos can count, about 15250 weeks")
    return nanoseconds


def format_duration(nanoseconds: int) -> str:
    """The duration as an agent prints it: in the largest unit that gives a whole number."""
    if nanoseconds < 0:
        raise ValueError(f"a duration cannot be negative: {nanoseconds} ns")
    units = sorted(NANOSECONDS.items(), key=lambda unit: -unit[1])
    for name, size in units:
        if nanoseconds >= size and nanoseconds % size == 0:
            return f"{nanoseconds // size}{name}"
    return "0ns"


def parse_size(text: str) -> int:
    """Bytes, truncated. Raises ValueError with a sentence."""
    return _parse(text, BYTES, "a size such as 64KB or 10MB")


def _parse(text: str, units: dict[str, int], wanted: str) -> int:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None or not (match[1] or match[2]) or len(text) > 64:
        raise ValueError(f"{text[:64]!r} is not {wanted}")
    whole, fraction, unit = match[1] or "0", match[2] or "", match[3]
    if unit not in units:
        raise ValueError(f"{text!r} has no known unit: use one of {', '.join(units)}")
    return int(whole + fraction) * units[unit] // int(10 ** len(fraction))
