"""The table of scenarios in executor/tests/README.md names every scenario and tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_scenario_has_its_tests() -> None:
    text = (HERE.parent / "README.md").read_text()
    rows = {int(number): re.findall(r"`(test_\w+)`", tests) for number, tests in _rows(text)}
    assert sorted(rows) == list(range(1, 93))
    there: dict[int, list[str]] = {}
    for file in sorted(HERE.glob("test_*.py")):
        for name, number in re.findall(r"^def (test_(\d\d)_\w+)", file.read_text(), re.MULTILINE):
            there.setdefault(int(number), []).append(name)
    assert {number: sorted(names) for number, names in rows.items()} == {
        number: sorted(names) for number, names in there.items()
    }


def _rows(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^\| (\d+) \| .* \| ([^|]*) \|$", text, re.MULTILINE)
