"""Everything is loaded before the first task of another user, and nothing after it."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOM = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys
import executor.bootstrap, executor.config.settings
from executor.app.preload import load_everything
load_everything()
load_everything()
loaded = sorted(sys.modules)
try:
    import colorsys
except ImportError as error:
    print(json.dumps([loaded, str(error)]))
"""


def late_imports() -> Iterator[tuple[Path, str]]:
    """Each module that a function of the executor's imports when it is called."""
    for path in sorted(ROOM.rglob("*.py")):
        parts = path.relative_to(ROOM).parts
        # What main imports comes before the connection; the others are programs of their own.
        if "tests" in parts or parts[0] in ("local_agent", "framework", "main.py"):
            continue
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for statement in ast.walk(function):
                    if isinstance(statement, ast.Import):
                        yield from ((path, alias.name) for alias in statement.names)
                    elif isinstance(statement, ast.ImportFrom) and statement.module:
                        yield path, statement.module


def test_what_functions_import_is_loaded_and_nothing_else_is_any_more() -> None:
    words = [sys.executable, "-c", PROGRAM]
    answer = subprocess.run(words, capture_output=True, check=True, cwd=ROOM.parent)
    loaded, refusal = json.loads(answer.stdout)
    late = list(late_imports())
    assert late
    assert not [(path.name, name) for path, name in late if name not in loaded]
    assert refusal == "colorsys was not loaded before the first task of another user"
