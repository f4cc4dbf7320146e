"""The service has imported all that calls may need before it listens: an upgrade takes its files away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[3]

#: Prints, after preparation, what functions of our loaded modules would still import.
LOOK = """
import ast, importlib.util, json, sys
from pathlib import Path
from cni_plugins.node.plugins import prepare
prepare()

def names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []

def is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False

left = set()
for name, module in list(sys.modules.items()):
    if not name.startswith("cni_plugins.") or not getattr(module, "__file__", None):
        continue
    for function in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                missing = [each for each in names(node) if each not in sys.modules and is_module(each)]
                left |= {f"{name}: {each}" for each in missing}
print(json.dumps(sorted(left)))
"""


def test_nothing_is_left_to_import() -> None:
    answer = subprocess.run([sys.executable, "-c", LOOK], cwd=TOP, check=True, stdout=subprocess.PIPE)
    assert json.loads(answer.stdout) == []
