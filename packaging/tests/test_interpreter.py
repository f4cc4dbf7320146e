"""The program of a directory bundle (packaging/launcher/interpreter.c), with a script of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"

SCRIPT = """
import sys
print(sys.argv[1:], sys.getfilesystemencoding(), flush=False)
if sys.argv[1] == "fail":
    raise ValueError("no reason")
if sys.argv[1].isdigit():
    sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("interpreter")
    (folder / "script.py").write_text(SCRIPT)
    script = (
        "import sys, _asyncio; from pathlib import Path; from interpreter import link\n"
        "link(*map(Path, sys.argv[1:]), (), [Path(_asyncio.__file__)])"
    )
    argv = [sys.executable, "-c", script]
    argv += map(os.fspath, (folder / "program", folder / "work", folder / "script.py"))
    subprocess.run(argv, check=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(BUNDLE)})
    return os.fspath(folder / "program")


@pytest.mark.parametrize(
    ("argument", "status", "said"),
    [("x", 0, ""), ("7", 7, ""), ("fail", 1, "ValueError: no reason")],
)
def test_its_status_tells_how_it_ended(program: str, argument: str, status: int, said: str) -> None:
    ended = subprocess.run([program, argument], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (status, f"['{argument}'] utf-8\n")
    assert said in ended.stderr and bool(said) == bool(ended.stderr)


@pytest.mark.parametrize("locale", ["C", "ja_JP.eucJP", "tr_TR.ISO-8859-9", "no such"])
def test_no_locale_and_no_variable_changes_it(program: str, locale: str) -> None:
    environment = {"LC_ALL": locale, "PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere", "PYTHONVERBOSE": "1"}
    ended = subprocess.run([program, "ä"], capture_output=True, check=True, env=environment)
    assert (ended.stdout, ended.stderr) == ("['ä'] utf-8\n".encode(), b"")


def test_it_is_started_by_the_program_beside_its_folder(program: str) -> None:
    ended = subprocess.run(
        ["./program", "x"], capture_output=True, text=True, check=False, cwd=Path(program).parent
    )
    assert (ended.returncode, ended.stderr) == (
        127,
        "start the program beside this folder, not what is in it\n",
    )
