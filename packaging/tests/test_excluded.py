"""What a bundle leaves out, no module that is in it imports: the build would only notice for `--help`."""

from __future__ import annotations

import ast
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]

# The spec file, the rooms that its bundle holds, and what of them it does not.
BUNDLES = {
    "mesokit": (("cni_plugins", "executor"), ()),
    "executor": (("executor",), ("executor.local_agent", "executor.framework")),
}


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(os.fspath(TOP / "packaging/bundle"))
    return importlib.import_module("frozen")


@pytest.mark.parametrize("name", BUNDLES)
def test_no_module_of_a_bundle_imports_what_the_bundle_leaves_out(frozen: Any, name: str) -> None:
    rooms, absent = BUNDLES[name]
    left_out = (*frozen.EXCLUDED, *_more(name))
    found = [
        f"{module} imports {imported}"
        for module in frozen.modules_of(*rooms)
        if not _below(module, absent)
        for imported in _imports(module)
        if _below(imported, left_out)
    ]
    assert found == []


def _more(name: str) -> list[str]:
    """What one bundle leaves out beside what all do."""
    text = (TOP / f"packaging/bundle/{name}.spec").read_text()
    listed = re.search(r"excludes=\[\*frozen\.EXCLUDED, (.*?)\]", text)
    assert listed is not None, "the spec file is written otherwise"
    return re.findall(r'"([^"]+)"', listed[1])


def _below(module: str, names: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def _imports(module: str) -> Iterator[str]:
    path = TOP / (module.replace(".", "/") + ".py")
    path = path if path.exists() else TOP / module.replace(".", "/") / "__init__.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
