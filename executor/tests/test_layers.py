"""The import graph of this room: dependencies point downwards only."""

import ast
from pathlib import Path

import pytest

ROOM = Path(__file__).parent.parent

BELOW = {
    "codec": set(),
    "config": {"codec", "progress"},
    "session": set(),
    "tasks": {"codec"},
    "link": {"codec", "config"},
    "supervisor": set(),
    "checks": {"supervisor", "tasks"},
    "output": {"supervisor"},
    "progress": {"supervisor"},
    "usage": {"supervisor"},
    "inspect": {"supervisor", "checks", "progress", "usage"},
    "app": {
        "codec", "config", "session", "tasks", "link", "supervisor",
        "checks", "output", "progress", "usage", "inspect",
    },
    "agent": {"codec", "config"},
}  # fmt: skip


def imported(source: Path) -> set[str]:
    """The layers of this room that a module imports from, and other rooms by their names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    parts = [name.split(".") for name in names]
    layers = {part[1] for part in parts if part[0] == "executor" and len(part) > 1}
    return layers | {part[0] for part in parts if part[0] == "cni_plugins"}


def test_every_layer_is_in_the_table() -> None:
    folders = {path.parent.name for path in ROOM.glob("*/__init__.py")}
    assert folders - {"tests"} == set(BELOW)


@pytest.mark.parametrize("layer", sorted(BELOW))
def test_dependencies_point_downwards(layer: str) -> None:
    for source in (ROOM / layer).rglob("*.py"):
        if "tests" not in source.relative_to(ROOM).parts:
            assert imported(source) <= BELOW[layer] | {layer}, source


def test_the_dependencies_have_no_cycle() -> None:
    left = {layer: set(below) for layer, below in BELOW.items()}
    while left:
        free = {layer for layer, below in left.items() if not below & left.keys()}
        assert free, f"in a cycle: {sorted(left)}"
        left = {layer: below for layer, below in left.items() if layer not in free}
