"""Modules that start faster in a bundle than they come.

`dataclasses` writes the methods of every class as text and compiles it when the class is made: half of what
a plugin's imports cost. A bundle carries the compiled methods along (`dataclass_methods.bin`, text to code),
and a `dataclasses` that looks there first; a text that is not there is compiled as ever. It also leaves out
the signature that a class without a docstring gets for one, for which `inspect` would have to be loaded.

`google.protobuf.internal.python_message` is the implementation for those who have no compiled one. It is
imported all the same, with much that it needs; the bundle has the compiled one, so there it is
an empty module.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from frozen import TOP, Entry

TABLE = "dataclass_methods.bin"

_LOOK_UP = f"""

import marshal, sys

with open(f"{{sys._MEIPASS}}/{TABLE}", "rb") as _stream:
    _METHODS = marshal.load(_stream)
_exec = exec


def exec(text, globals, namespace):
    code = _METHODS.get(text)
    _exec(text if code is None else marshal.loads(code), globals, namespace)
"""

_SIGNATURE = "str(inspect.signature(cls)).replace(' -> None', '')"

_RECORD = """
import dataclasses, importlib, marshal, sys
table = {}
def record(text, globals, namespace):
    table[text] = marshal.dumps(compile(text, "<dataclass>", "exec"))
    exec(text, globals, namespace)
dataclasses.exec = record
for name in sys.argv[2:]:
    importlib.import_module(name)
with open(sys.argv[1], "wb") as stream:
    marshal.dump(dict(sorted(table.items())), stream)
"""


def replaced(pure: Iterable[Entry], build: Path) -> list[Entry]:
    """`pure` with the quicker modules in the place of the usual ones."""
    files = {
        "dataclasses": _dataclasses(build),
        "google.protobuf.internal.python_message": _written(build / "python_message.py", ""),
    }
    return [(name, files.get(name, path), kind) for name, path, kind in pure]


def methods(build: Path, modules: Iterable[str]) -> list[Entry]:
    """The table of compiled methods of every dataclass in `modules`, as a data file of the bundle."""
    path = os.pathsep.join((os.fspath(TOP), os.fspath(TOP / "proto")))
    table = build / TABLE
    answer = subprocess.run(
        [sys.executable, "-c", _RECORD, table, *modules],
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"], "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=False,
    )
    if answer.returncode:
        raise SystemExit(f"a module of ours cannot be imported:\n{answer.stderr.decode()[-2000:]}")
    assert marshal.loads(table.read_bytes()), "no dataclass was recorded"
    return [(TABLE, os.fspath(table), "DATA")]


def _dataclasses(build: Path) -> str:
    import dataclasses  # noqa: PLC0415 - its source is wanted, not its use

    assert dataclasses.__file__ is not None
    source = Path(dataclasses.__file__).read_text()
    for part in ("import inspect\n", _SIGNATURE, "exec(txt, globals, ns)"):
        assert source.count(part) == 1, f"dataclasses.py of this Python is written otherwise: {part}"
    source = source.replace("import inspect\n", "").replace(_SIGNATURE, "'(...)'")
    return _written(build / "dataclasses.py", source + _LOOK_UP)


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return os.fspath(path)
