"""What a bundle leaves out, no module that is in it imports: the build would only notice for `--help`."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "packaging/bundle"))

import frozen  # noqa: E402

# The spec file, the rooms that its bundle holds, and what of them it does not.
BUNDLES = {
    "mesokit": (("cni_plugins", "executor"), ()),
    "executor": (("executor",), ("executor.local_agent", "executor.framework")),
}


@pytest.mark.parametrize("name", BUNDLES)
def test_no_module_of_a_bundle_imports_what_the_bundle_leaves_out(name: str) -> None:
    rooms, absent = BUNDLES[name]
    left_out = _left_out(name)
    found = [
        f"{module} imports {imported}"
        for module in frozen.modules_of(*rooms)
        if not _below(module, absent)
        for imported in _imports(module)
        if _below(imported, left_out)
    ]
    assert found == []


def _left_out(name: str) -> tuple[str, ...]:
    text = (TOP / f"packaging/bundle/{name}.spec").read_text()
    more = re.search(r"excludes=\[\*frozen\.EXCLUDED, (.*?)\]", text)
    assert more is not None, "the spec file is written otherwise"
    return (*frozen.EXCLUDED, *re.findall(r'"([^"]+)"', more[1]))


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
