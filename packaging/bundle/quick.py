"""What makes a bundle start faster than PyInstaller's.

* Modules that are always needed lie in one file, where `packed` finds them.
* `dataclasses` writes the methods of every class as text and compiles it when the class is made: half of what
  a plugin's imports cost. The file carries the compiled methods along, and a `dataclasses` that looks there
  first; a text that is not there is compiled as ever. It also leaves out the signature that a class without a
  docstring gets for one, for which `inspect` would have to be loaded.
* `re` compiles a pattern in Python, 0.1 ms each. The file carries what comes of those that modules compile
  when they are imported; others are compiled as ever.
* `click` imports `inspect`, and with it the parsers of Python, for one function that takes the indentation
  out of a text. It gets that function, and the rest when it is asked for.
* `pathlib` imports `urllib.parse` for the sake of `as_uri`, `google.protobuf` its implementation for those
  who have no compiled one, and the calendar for conversions of times that we do not use. The first is
  imported when used, the others are empty modules.
"""

from __future__ import annotations

import marshal
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import Any

import packed
from frozen import TOP, Entry

_LOOK_UP = """

import packed

_exec = exec


def exec(text, globals, namespace):
    _exec(packed.METHODS.get(text, text), globals, namespace)
"""

_SIGNATURE = "str(inspect.signature(cls)).replace(' -> None', '')"

_PATTERN_LOOK_UP = """

import packed

_compile_anew = compile


def compile(p, flags=0):
    found = packed.PATTERNS.get((p, flags)) if isinstance(p, (str, bytes)) else None
    return _sre.compile(p, *found) if found is not None else _compile_anew(p, flags)
"""

# Methods of google.protobuf's Any, Duration, Timestamp and the like.
_CONVERSIONS = re.compile(r"\.((To|From)(Timedelta|Datetime|JsonString|\w*[Ss]econds)|(Unp|P)ack)\(")

_QUOTING = "from urllib.parse import quote_from_bytes as urlquote_from_bytes\n"
_QUOTE_LATER = """
def urlquote_from_bytes(path):
    from urllib.parse import quote_from_bytes
    return quote_from_bytes(path)

"""

# Asked of a fresh interpreter, with modules of ours in the place of those they replace: which modules each
# group loads that those before it did not, and what `dataclasses` and `re` compile for it. The interpreter is
# as bare as a bundle's: what that loads by itself is in PyInstaller's archives.
_RECORD = """
import sys
before = set(sys.modules)
import _frozen_importlib_external as external, marshal
ours, groups = marshal.loads(sys.stdin.buffer.read())

class Ours:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return external.spec_from_file_location(name, ours[name]) if name in ours else None

sys.meta_path.insert(0, Ours)
import dataclasses, _sre
import re._compiler as compiler
texts, patterns, listed = {}, {}, []

def write(text, globals, namespace):
    texts.setdefault(globals["__name__"], []).append(text)
    exec(text, globals, namespace)

def compiled(pattern, flags, code, *more):
    patterns[pattern, flags_asked[-1]] = int(flags), [int(each) for each in code], *more
    return original(pattern, flags, code, *more)

def asked(pattern, flags=0):
    flags_asked.append(flags)
    try:
        return compile_anew(pattern, flags)
    finally:
        flags_asked.pop()

class Sre:
    def __getattr__(self, name):
        return getattr(_sre, name)
    compile = staticmethod(compiled)

flags_asked, compile_anew, original = [], compiler._compile_anew, _sre.compile
compiler._compile_anew, compiler._sre = asked, Sre()
dataclasses.exec = write
import importlib
for modules in groups:
    for name in modules:
        importlib.import_module(name)
    listed.append((sorted(set(sys.modules) - before), dict(texts), list(patterns.items())))
    before |= set(sys.modules)
    texts.clear(), patterns.clear()
sys.stdout.buffer.write(marshal.dumps(listed))
"""

# What is there before the file can be read.
_IN_ANY_CASE = {packed.__name__, "importlib._bootstrap", "importlib._bootstrap_external"}

_Found = tuple[list[str], dict[str, list[str]], list[tuple[tuple[str | bytes, int], tuple[Any, ...]]]]


def pack(
    pure: Iterable[Entry],
    datas: Iterable[Entry],
    build: Path,
    start: Sequence[Sequence[str]],
    modules: Iterable[str],
) -> tuple[list[Entry], list[Entry]]:
    """What is left of `pure` for PyInstaller's archive, and `datas` with the file of what `modules` always
    need. Each group of `start` is what the program imports in one go.
    """
    files = {
        "dataclasses": _dataclasses(build),
        "pathlib": _pathlib(build),
        "click.core": _without_inspect(build, "click.core"),
        "click.decorators": _without_inspect(build, "click.decorators"),
        "click.termui": _without_inspect(build, "click.termui"),
        "re._compiler": _re_compiler(build),
        "google.protobuf.internal.python_message": _written(build / "python_message.py", ""),
        "google.protobuf.internal.well_known_types": _well_known_types(build),
    }
    groups = [*start, *([name] for name in modules)]
    observed = _observed(files, groups)
    needed = {name for names, _, _ in observed for name in names} - _IN_ANY_CASE
    sources = _base_library(needed) | {name: path for name, path, _ in pure if path.endswith(".py")} | files
    table: dict[str, tuple[bool, int, int]] = {}
    content = bytearray()
    for number, (names, texts, patterns) in enumerate(observed):
        packed_names = [name for name in names if name in sources and name in needed]
        together = [packed_names] if number < len(start) else [[name] for name in packed_names]
        for piece in together:
            codes = {name: _code(name, Path(sources[name])) for name in piece}
            methods = {
                text: compile(text, "<dataclass>", "exec") for name in piece for text in texts.get(name, ())
            }
            entry = marshal.dumps((codes, methods, dict(patterns) if number < len(start) else {}))
            for name in piece:
                table[name] = Path(sources[name]).name == "__init__.py", len(content), len(entry)
            content += entry
    assert {"dataclasses", "pathlib", "json", "re", "enum"} <= table.keys(), "the modules were not observed"
    contents = marshal.dumps(table)
    path = build / packed.NAME
    path.write_bytes(len(contents).to_bytes(4, "little") + contents + content)
    left = [(name, files.get(name, path), kind) for name, path, kind in pure if name not in table]
    others = [_rest_of_base(entry, build, table.keys()) for entry in datas]
    return left, [*others, (packed.NAME, os.fspath(path), "DATA")]


def _rest_of_base(entry: Entry, build: Path, elsewhere: Collection[str]) -> Entry:
    """PyInstaller's zip file of basic modules without those that are `elsewhere`: every start reads its table
    of contents.
    """
    name, path, kind = entry
    if name != "base_library.zip":
        return entry
    rest = build / "rest_of_base.zip"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(rest, "w") as left:
        for info in sorted(whole.infolist(), key=lambda info: info.filename):
            module = info.filename.removesuffix(".pyc").removesuffix("/__init__").replace("/", ".")
            if module not in elsewhere:
                left.writestr(info, whole.read(info))
    return name, os.fspath(rest), kind


def _code(name: str, source: Path) -> CodeType:
    # The standard library's docstrings nobody reads; ours are the manual.
    ours = name.partition(".")[0] in {"cni_plugins", "executor", "mesos"}
    code: CodeType = compile(source.read_bytes(), name, "exec", dont_inherit=True, optimize=0 if ours else 2)
    return code


def _base_library(needed: Iterable[str]) -> dict[str, str]:
    """The sources of those modules that PyInstaller puts into a zip file of their own, from which they are
    imported before anything else can be, and slower still.
    """
    from PyInstaller.compat import PY3_BASE_MODULES  # noqa: PLC0415 - found where PyInstaller runs us

    found = {}
    for name in needed:
        spec = find_spec(name) if name.partition(".")[0] in PY3_BASE_MODULES else None
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            found[name] = spec.origin
    return found


def _observed(files: Mapping[str, str], groups: Sequence[Sequence[str]]) -> list[_Found]:
    search = os.pathsep.join((os.fspath(TOP), os.fspath(TOP / "proto"), os.fspath(Path(__file__).parent)))
    answer = subprocess.run(
        [sys.executable, "-S", "-c", _RECORD],
        env={"PYTHONPATH": f"{search}:{_site_packages()}", "PATH": os.environ["PATH"], "PYTHONHASHSEED": "1"},
        input=marshal.dumps((dict(files), [list(group) for group in groups])),
        capture_output=True,
        check=False,
    )
    if answer.returncode:
        raise SystemExit(f"a module of ours cannot be imported:\n{answer.stderr.decode()[-2000:]}")
    found: list[_Found] = marshal.loads(answer.stdout)
    return found


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


_LATER = """
import sys

class _Inspect:
    def __getattr__(self, name):
        import inspect
        return getattr(inspect, name)

    @staticmethod
{cleandoc}
inspect = _Inspect()
"""


def _without_inspect(build: Path, name: str) -> str:
    import inspect  # noqa: PLC0415 - its source is wanted, not its use

    spec = find_spec(name)
    source = _source_of(spec.origin if spec else None, "\nimport inspect\n")
    cleandoc = textwrap.indent(inspect.getsource(inspect.cleandoc), "    ")
    return _written(
        build / f"{name}.py", source.replace("import inspect\n", _LATER.format(cleandoc=cleandoc))
    )


def _re_compiler(build: Path) -> str:
    spec = find_spec("re._compiler")
    source = _source_of(spec.origin if spec else None, "import _sre\n", "def compile(p, flags=0):\n")
    return _written(build / "re_compiler.py", source + _PATTERN_LOOK_UP)


def _well_known_types(build: Path) -> str:
    files = [path for room in ("cni_plugins", "executor") for path in (TOP / room).rglob("*.py")]
    users = [os.fspath(path) for path in files if _CONVERSIONS.search(path.read_text())]
    assert not users, f"{users} use what Google's library adds to messages of its own"
    return _written(build / "well_known_types.py", "WKTBASES = {}\n")


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
