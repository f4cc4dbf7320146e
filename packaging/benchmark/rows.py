"""The table's rows: what was measured beside whom, and whether the aim is met."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Times = Mapping[str, Mapping[str, Sequence[float]]]

FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `ours` and `others` are in `unit`; `ratio` is to the first of `others`,
    `above_floor` to the floor.
    """

    operation: str
    unit: str
    ours: float
    others: dict[str, float]
    ratio: float | None
    aim: str
    met: bool | None
    above_floor: float | None = None


@dataclass(frozen=True, slots=True)
class Aim:
    """What ours may be of the reference's, and of the floor; None: no aim."""

    ratio: float | None = None
    floor: float | None = None

    def __str__(self) -> str:
        limits = (("", self.ratio), (" floors", self.floor))
        return ", ".join(f"≤ {limit:g}{unit}" for unit, limit in limits if limit is not None)

    def is_met(self, ratio: float | None, above_floor: float | None) -> bool | None:
        pairs = ((self.ratio, ratio), (self.floor, above_floor))
        known = [found <= limit for limit, found in pairs if limit is not None and found is not None]
        return all(known) if known else None


NONE = Aim()

# What is measured, and the aims of ADD and DEL.
PAIRS = (
    ("plain", "bridge + host-local", Aim(0.3, 1.6), Aim(0.08)),
    ("alone", "the same, first and last of a bridge", Aim(0.5), Aim(0.3)),
    ("dual", "the same, dual stack and ipMasq", Aim(0.12), Aim(0.08)),
    ("reservations", "bridge + host-local, 5,000 reservations", NONE, NONE),
    ("chain", "bridge, portmap (5 ports), bandwidth, tuning", Aim(0.08), Aim(0.08)),
)


def median(times: Sequence[float]) -> float:
    """In milliseconds, of seconds."""
    return statistics.median(times) * 1000


def compared(operation: str, ours: float, theirs: dict[str, float], aim: Aim) -> Row:
    """Beside the first of `theirs`, and the floor if it is there."""
    ratio = ours / next(iter(theirs.values()))
    above = ours / theirs[FLOOR] if FLOOR in theirs else None
    return Row(operation, "ms", ours, theirs, ratio, str(aim), aim.is_met(ratio, above), above)


def sized(operation: str, unit: str, value: float, most: float | None, *, aim: str = "") -> Row:
    """Beside nobody, with the most that it may be."""
    met = None if most is None else value <= most
    return Row(operation, unit, value, {}, None, aim or ("" if most is None else f"≤ {most:g}"), met)


def plugin_rows(found: Mapping[str, Any], others: Sequence[str]) -> Iterator[Row]:
    for name, operation, *aims in PAIRS:
        for verb, aim in zip(("ADD", "DEL"), aims, strict=True):
            if name in found:
                yield _pair(f"{operation}: {verb}", found[name], verb, others, aim)
    if "plain" in found:
        for verb, aim in (("ADD", Aim(3)), ("DEL", Aim(2))):
            ours, theirs = median(found["plain"]["one-shot"][verb]), _theirs(found["plain"], verb, others)
            yield compared(f"bridge + host-local without service: {verb}", ours, theirs, aim)
    yield from _our_rows(found, others[0])
    if "throughput" in found:
        for verb, aim in (("ADD", Aim(0.3)), ("DEL", NONE)):
            operation = f"{verb}s by 16 workers at once: time per {verb}"
            yield _pair(operation, found["throughput"], verb, others, aim)
    if "growth" in found:
        yield from growth_rows(found["growth"], others)
    if "memory" in found:
        sizes = [each / 1e6 for each in found["memory"]]
        yield sized("service, PSS at start", "MB", sizes[0], None)
        yield sized("service, PSS after all the calls", "MB", sizes[-1], 45, aim="≤ 45, flat")
        growth = sizes[-1] - sizes[len(sizes) // 2]
        yield sized("  of which grown in their second half", "MB", growth, None)


def _our_rows(found: Mapping[str, Any], reference: str) -> Iterator[Row]:
    """What the reference cannot do, beside what comes next to it."""
    if "policed" in found:
        times = found["policed"]
        for verb, aim in (("ADD", Aim(1.3)), ("DEL", NONE)):
            title, without = f"bridge + host-local, isolated: {verb}", median(times["open"][verb])
            yield compared(title, median(times["policed"][verb]), {"no policy": without}, aim)
    if "gone" in found:
        theirs = {reference: found["gone"]["reference"] * 1000}
        for verb, how in (
            ("DEL", "by 16 workers at once"),
            ("GC", "in one call, beside the reference's DEL"),
        ):
            title = f"{verb} of many {how}: time for each"
            yield compared(title, found["gone"][verb] * 1000, theirs, NONE)


def _pair(operation: str, times: Times, verb: str, others: Sequence[str], aim: Aim) -> Row:
    return compared(operation, median(times["ours"][verb]), _theirs(times, verb, others), aim)


def _theirs(times: Times, verb: str, others: Sequence[str]) -> dict[str, float]:
    return {name: median(times[name][verb]) for name in (*others, FLOOR) if name in times}


def growth_rows(found: Mapping[str, Any], others: Sequence[str]) -> Iterator[Row]:
    """Each number of attachments beside the one before."""
    counts = found["counts"]
    for name in ("ours", others[0]):
        for before, count, limit in zip(counts, counts[1:], (1.05, 1.1), strict=False):
            for verb in ("ADD", "DEL"):
                few, many = (median(found["times"][name][f"{verb} {each}"]) for each in (before, count))
                whose = "" if name == "ours" else f", {name}'s"
                aim = Aim(limit) if name == "ours" else NONE
                label = f"beside {count:,} attachments, reservations{whose}: {verb}"
                yield compared(label, many, {f"beside {before:,}": few}, aim)


def table(rows: Sequence[Row]) -> str:
    """For people: one line for each row."""
    others = list(dict.fromkeys(name for each in rows for name in each.others))
    width = max((len(each.operation) for each in rows), default=10) + 2
    names = "".join(f"{name:>13}" for name in others)
    lines = [f"{'operation':<{width}}{'ours':>9}{names}{'ratio':>8}{'/floor':>9}   aim\n"]
    for each in rows:
        cells = "".join(f"{each.others[name]:>13.1f}" if name in each.others else " " * 13 for name in others)
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        above = "" if each.above_floor is None else f"{each.above_floor:.2f}"
        verdict = "" if each.met is None else "  met" if each.met else "  NOT met"
        head = f"{each.operation:<{width}}{each.ours:>6.1f} {each.unit}{cells}"
        lines.append(f"{head}{ratio:>8}{above:>9}   {each.aim}{verdict}\n")
    return "".join(lines)
