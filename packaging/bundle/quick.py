"""What makes a bundle start faster than PyInstaller's.

* Modules that are always needed lie in one file, where `packed` finds them.
* `dataclasses` writes the methods of every class as text and compiles it when the class is made: half of what
  a plugin's imports cost. The file carries the compiled methods along, and a `dataclasses` that looks there
  first; a text that is not there is compiled as ever. It also leaves out the signature that a class without a
  docstring gets for one, for which `inspect` would have to be loaded.
* `pathlib` imports `urllib.parse` for the sake of `as_uri`, `google.protobuf` its implementation for those
  who have no compiled one. The first is imported when used, the second is an empty module.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import packed
from frozen import TOP, Entry

_LOOK_UP = """

import packed

_exec = exec


def exec(text, globals, namespace):
    _exec(packed.METHODS.get(text, text), globals, namespace)
"""

_SIGNATURE = "str(inspect.signature(cls)).replace(' -> None', '')"

_QUOTING = "from urllib.parse import quote_from_bytes as urlquote_from_bytes\n"
_QUOTE_LATER = """
def urlquote_from_bytes(path):
    from urllib.parse import quote_from_bytes
    return quote_from_bytes(path)

"""

# Asked of a fresh interpreter: every module that is loaded once those named are, and the texts that
# `dataclasses` compiles for each.
_RECORD = """
import dataclasses, importlib, marshal, sys
before, texts = set(sys.modules) - {"dataclasses"}, {}
def record(text, globals, namespace):
    texts.setdefault(globals["__name__"], []).append(text)
    exec(text, globals, namespace)
dataclasses.exec = record
for name in sys.argv[1:]:
    importlib.import_module(name)
sys.stdout.buffer.write(marshal.dumps((sorted(set(sys.modules) - before), texts)))
"""


def pack(pure: Iterable[Entry], build: Path, modules: Iterable[str]) -> tuple[list[Entry], Entry]:
    """What is left of `pure` for PyInstaller's archive, and the file of what `modules` always need, as an
    entry of the bundle's data.
    """
    files = {
        "dataclasses": _dataclasses(build),
        "pathlib": _pathlib(build),
        "google.protobuf.internal.python_message": _written(build / "python_message.py", ""),
    }
    needed, texts = _observed(modules)
    sources = _base_library(needed) | {name: path for name, path, _ in pure if path.endswith(".py")} | files
    table: dict[str, tuple[bool, int, int]] = {}
    content = bytearray()
    for name in sorted(sources.keys() & needed):
        # The standard library's docstrings nobody reads; ours are the manual.
        ours = name.split(".")[0] in {"cni_plugins", "executor", "mesos"}
        source = Path(sources[name])
        code = compile(source.read_bytes(), name, "exec", dont_inherit=True, optimize=0 if ours else 2)
        methods = {text: compile(text, "<dataclass>", "exec") for text in texts.get(name, ())}
        entry = marshal.dumps((code, methods))
        table[name] = source.name == "__init__.py", len(content), len(entry)
        content += entry
    assert {"dataclasses", "pathlib", "json"} <= table.keys(), "the modules were not observed"
    contents = marshal.dumps(table)
    path = build / packed.NAME
    path.write_bytes(len(contents).to_bytes(4, "little") + contents + content)
    left = [(name, files.get(name, path), kind) for name, path, kind in pure if name not in table]
    return left, (packed.NAME, os.fspath(path), "DATA")


def _base_library(needed: Iterable[str]) -> dict[str, str]:
    """The sources of those modules that PyInstaller puts into a zip file of their own, from which they are
    imported before anything else can be, and slower still.
    """
    from PyInstaller.compat import PY3_BASE_MODULES  # noqa: PLC0415 - found where PyInstaller runs us

    found = {}
    for name in needed:
        spec = find_spec(name) if name.split(".")[0] in PY3_BASE_MODULES else None
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            found[name] = spec.origin
    return found


def _observed(modules: Iterable[str]) -> tuple[set[str], dict[str, list[str]]]:
    search = os.pathsep.join((os.fspath(TOP), os.fspath(TOP / "proto")))
    answer = subprocess.run(
        [sys.executable, "-S", "-c", _RECORD, *modules],
        env={"PYTHONPATH": f"{search}:{_site_packages()}", "PATH": os.environ["PATH"], "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=False,
    )
    if answer.returncode:
        raise SystemExit(f"a module of ours cannot be imported:\n{answer.stderr.decode()[-2000:]}")
    names, texts = marshal.loads(answer.stdout)
    return set(names), texts


def _site_packages() -> str:
    return next(path for path in sys.path if path.endswith("site-packages"))


def _dataclasses(build: Path) -> str:
    import dataclasses  # noqa: PLC0415 - its source is wanted, not its use

    source = _source_of(dataclasses.__file__, "import inspect\n", _SIGNATURE, "exec(txt, globals, ns)")
    source = source.replace("import inspect\n", "").replace(_SIGNATURE, "'(...)'")
    return _written(build / "dataclasses.py", source + _LOOK_UP)


def _pathlib(build: Path) -> str:
    import pathlib  # noqa: PLC0415 - as above

    source = _source_of(pathlib.__file__, _QUOTING)
    return _written(build / "pathlib.py", source.replace(_QUOTING, _QUOTE_LATER))


def _source_of(file: str | None, *parts: str) -> str:
    """A module's source, in which each of `parts` stands once."""
    assert file is not None
    source = Path(file).read_text()
    for part in parts:
        assert source.count(part) == 1, f"{file} of this Python is written otherwise: {part}"
    return source


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return os.fspath(path)
