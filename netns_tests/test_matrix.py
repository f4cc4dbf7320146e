"""The table "What each was tested with" of cni_plugins/README.md says what the tests say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from cni_plugins.plugins.registry import MODULES
from netns_tests.case import Case
from netns_tests.cases import CASES
from netns_tests.cases_links import RARE as RARE_CASES
from netns_tests.plugins import TOP
from netns_tests.test_crash import SCENARIOS
from netns_tests.test_qemu_crash import RARE

_TITLE = "## What each was tested with"


def rows() -> dict[str, list[str]]:
    """The cells of each plugin's row behind its name."""
    text = (TOP / "cni_plugins/README.md").read_text().partition(_TITLE)[2]
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return {first: rest for first, *rest in cells}


def types(value: Any) -> Iterator[str]:
    """Every plugin that a configuration names."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
        value = value.values()
    if isinstance(value, list | tuple) or not isinstance(value, str | int | bytes | float | None):
        for item in value:
            yield from types(item)


def counted(cases: list[Case]) -> Counter[str]:
    return Counter(name for case in cases for name in set(types(case.plugins)))


def test_every_plugin_has_a_row() -> None:
    assert set(rows()) == set(MODULES)


def test_cases_against_the_reference_are_as_many_as_there_are() -> None:
    """A number, and what else is compared, such as leases."""
    found = counted([*CASES, *RARE_CASES])
    for name, cells in rows().items():
        if found[name]:
            assert cells[3].split(" ")[0] == str(found[name]), name


def test_killed_at_every_change_is_what_the_crash_tests_kill() -> None:
    killed = {*types(dict(SCENARIOS)), *types(dict(RARE))}
    for name, cells in rows().items():
        assert cells[4].startswith("ADD, DEL") is (name in killed), name
        assert ("QEMU" in cells[4]) is (name not in set(types(dict(SCENARIOS)))), name
