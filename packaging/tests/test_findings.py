"""The tables of findings name every finding, and tests that are there.

A finding is something that went wrong once: S security, E executor, C plugins, R the reference's own rules,
M a real agent, U people. Its row tells it to a stranger and names the tests that fail if it comes back.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
TABLES = (TOP / "executor/tests/README.md", TOP / "netns_tests/README.md")
LAST = {"S": 28, "E": 20, "C": 25, "R": 8, "M": 7, "U": 13}
#: May have a row, and need none.
MORE = {f"U{number}" for number in range(14, 16)}

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
