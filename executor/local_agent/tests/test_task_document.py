"""TASK.md: its examples are read, and its tables have every key, unit and event."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from executor.config.units import NANOSECONDS, parse_duration
from executor.local_agent import events
from executor.local_agent.shapes import ListOf, Object
from executor.local_agent.shortform import APPLICATION
from executor.local_agent.task_file import read_description

TEXT = (Path(__file__).resolve().parents[1] / "TASK.md").read_text()


def keys(shape: object) -> Iterator[str]:
    if isinstance(shape, Object):
        for key, inner in shape.keys.items():
            yield key
            yield from keys(inner)
    elif isinstance(shape, ListOf):
        yield from keys(shape.item)


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_examples_are_read() -> None:
    least, whole = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    (request,) = read_description(least.encode(), "TASK.md")
    assert request.tasks[0].task_id.value == "hello"
    requests = read_description(whole.encode(), "TASK.md")
    assert [request.tasks[0].task_id.value for request in requests] == ["web-1", "web-2"]
    assert [network.name for network in requests[0].networks] == ["data-net"]


def test_every_key_is_told() -> None:
    named = set(re.findall(r"`(\w+)`", section("The short form")))
    assert set(keys(APPLICATION)) - named == set()


def test_durations() -> None:
    text = section("Durations")
    rows = re.findall(r"^\| `(\w+)` \| .+? \| `(\S+)` \|$", text, re.MULTILINE)
    assert [unit for unit, _ in rows] == list(NANOSECONDS)
    for unit, example in rows:
        number = float(example.removesuffix(unit))
        assert parse_duration(example) == int(number * NANOSECONDS[unit])
    refused = re.search(r"(`.+) are refused", text)
    assert refused
    for example in re.findall(r"`([^`]+)`", refused[1]):
        with pytest.raises(ValueError, match=r"duration|unit"):
            parse_duration(example)


def test_every_event_has_its_keys() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`.+?`) \| .+ \|$", section("What `--json` tells"), re.MULTILINE)
    told = {event: re.findall(r"`(\w+)`", names) for event, names in rows}
    assert told.pop("Output") == ["container", "stream", "data"]
    made = {kind.__name__: [field.name for field in fields(kind)] for kind in get_args(events.Observation)}
    assert told == made
