"""The tables of findings name every finding, and tests that are there.

A finding is something that went wrong once: S security, E executor, C plugins, R the reference's own rules,
M a real agent, U people. Its row tells it to a stranger and names the tests that fail if it comes back.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from netns_tests.cases import CASES

TOP = Path(__file__).resolve().parents[2]
TABLES = (TOP / "executor/tests/README.md", TOP / "netns_tests/README.md")
LAST = {"S": 28, "E": 20, "C": 27, "R": 8, "M": 7, "U": 15}
#: May have a row, and need none.
MORE: frozenset[str] = frozenset()

#: Findings that no test keeps closed.
MISSING: frozenset[str] = frozenset()

ROW = re.compile(r"^\| ([A-Z]\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
#: `one, two (path/of/test_file.py)`, and more of these after a semicolon.
NAMED = re.compile(r"([\w`, ]+?) \(([\w/.]+\.py)\)")


def rows() -> list[tuple[str, str, str]]:
    """Id, what happened, tests."""
    return [row for table in TABLES for row in ROW.findall(table.read_text().partition("\n## Findings\n")[2])]


def named(cell: str) -> list[tuple[str, str]]:
    """The tests of a row, each with its file."""
    return [(name, path) for names, path in NAMED.findall(cell) for name in re.findall(r"\w+", names)]


@cache
def defined(path: str) -> frozenset[str]:
    """Names of functions in a file; none where there is no such file."""
    file = TOP / path
    text = file.read_text() if file.is_file() else ""
    return frozenset(re.findall(r"^ *(?:async )?def (\w+)\(", text, re.MULTILINE))


def test_every_finding_has_one_row() -> None:
    wanted = {f"{letter}{number}" for letter, last in LAST.items() for number in range(1, last + 1)}
    there = [number for number, _, _ in rows()]
    assert sorted(set(there) - wanted - MORE) == [], "no such finding"
    assert sorted(number for number in set(there) if there.count(number) > 1) == [], "more than one row"
    assert wanted - set(there) - MISSING == set(), "without a row"
    assert MISSING & set(there) == set(), "no longer missing"


def test_every_row_names_tests_that_are_there() -> None:
    for number, told, cell in rows():
        assert len(told) > 20, f"{number}: a stranger does not understand {told!r}"
        tests = named(cell)
        assert tests, f"{number}: no test in {cell!r}"
        for name, path in tests:
            assert name.startswith("test_"), f"{number}: {name}"
            assert name in defined(path), f"{number}: no {name} in {path}"


def cells(document: str, title: str) -> list[list[str]]:
    """The rows of the table below a heading of a document, without its head."""
    part = (TOP / document).read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_claim_of_security_names_its_tests() -> None:
    claims = cells("SECURITY.md", "What a task cannot do")
    assert len(claims) > 5
    for claim, cell in claims:
        assert named(cell), claim
        for name, path in named(cell):
            assert name in defined(path), f"{claim}: no {name} in {path}"


def test_every_difference_is_shown_by_a_case_or_a_test() -> None:
    known = {case.name for case in CASES}
    differences = cells("cni_plugins/DIFFERENCES.md", "Better")
    assert len(differences) > 10
    for *_, shown in differences:
        tests, cases = named(shown), re.findall(r"`([\w.-]+)`", shown)
        assert tests or cases, shown
        assert set(cases) - known == set()
        for name, path in tests:
            assert name in defined(path), f"no {name} in {path}"


def test_every_scenario_of_a_scheduler_is_played() -> None:
    rows = cells("executor/framework/SCENARIOS.md", "Scenarios")
    assert [number for number, *_ in rows] == [str(number) for number in range(1, 86)]
    for number, _, cell in rows:
        assert named(cell), number
        for name, path in named(cell):
            assert name in defined(f"executor/framework/{path}"), f"{number}: no {name} in {path}"


@pytest.mark.parametrize("subject", ["Policy", "IPv6, updates, the operator"])
def test_every_scenario_names_tests_that_are_there(subject: str) -> None:
    scenarios = cells("netns_tests/README.md", f"{subject}: scenarios and tests")
    assert len(scenarios) > 20
    for number, told, cell in scenarios:
        assert named(cell), f"{number}: {told}"
        for name, path in named(cell):
            assert name in defined(path), f"{number}: no {name} in {path}"


@pytest.mark.parametrize("table", ["executor/tests/README.md", "netns_tests/README.md"])
def test_what_was_found_later_names_tests_that_are_there(table: str) -> None:
    found = cells(table, "Found later")
    assert len(found) > 20
    for told, cell in found:
        assert len(told) > 20 and named(cell), told
        for name, path in named(cell):
            assert name in defined(path), f"{told}: no {name} in {path}"
