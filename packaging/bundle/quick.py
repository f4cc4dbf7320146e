"""What makes a bundle start faster than PyInstaller's.

* All modules lie in one file, where `packed` finds them; those that are rarely needed are compressed.
* `dataclasses` writes the methods of every class as text and compiles it when the class is made: half of what
  a plugin's imports cost. The file carries the compiled methods along, and a `dataclasses` that looks there
  first; a text that is not there is compiled as ever. It also leaves out the signature that a class without a
  docstring gets for one, for which `inspect` would have to be loaded.
* `re` compiles a pattern in Python, 0.1 ms each. The file carries what comes of those that modules compile
  when they are imported; others are compiled as ever.
* `click` imports `inspect`, and with it the parsers of Python, for one function that takes the indentation
  out of a text. It gets that function, and the rest when it is asked for. So it is with `uuid` and
  `datetime`, for kinds of arguments that we have none of.
* What was found in `METHODS` is taken out: it is not needed a second time, and is 0.4 MB.
* `logging` imports `traceback` for errors that are told with where they happened, and protobuf the pool of
  those who have no compiled one (0.4 MB): the first is imported when used, the second is left out.
* `urllib.parse` imports `ipaddress` for addresses in brackets: imported when used.
* `pathlib` imports `urllib.parse` for the sake of `as_uri`, `google.protobuf` its implementation for those
  who have no compiled one, and the calendar for conversions of times that we do not use. The first is
  imported when used, the others are empty modules.
"""

from __future__ import annotations

import _imp
import marshal
import os
import re
import subprocess
import sys
import textwrap
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    _exec(packed.METHODS.pop(text, text), globals, namespace)
"""

_SIGNATURE = "str(inspect.signature(cls)).replace(' -> None', '')"

_PATTERN_LOOK_UP = """

import packed

_compile_anew = compile


def compile(p, flags=0):
    found = packed.PATTERNS.get((p, flags)) if isinstance(p, (str, bytes)) else None
    return _sre.compile(p, *found) if found is not None else _compile_anew(p, flags)
"""

_POOL = """\
from google.protobuf import descriptor

_DEFAULT = descriptor._message.default_pool
DescriptorPool = type(_DEFAULT)


def Default():
    return _DEFAULT
"""

_TRACEBACK = "import sys, os, time, io, re, traceback, warnings,"
_TRACEBACK_LATER = """

class _Traceback:
    def __getattr__(self, name):
        import traceback
        return getattr(traceback, name)


traceback = _Traceback()
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
_OURS = """
import sys
before = set(sys.modules)
import _frozen_importlib_external as external, marshal
ours, *given = marshal.loads(sys.stdin.buffer.read())

class Ours:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return external.spec_from_file_location(name, ours[name]) if name in ours else None

sys.meta_path.insert(0, Ours)
"""

_FIRST = """
for name in given[0]:
    __import__(name)
sys.stdout.buffer.write(marshal.dumps(set(sys.modules) - before))
"""

_RECORD = """
groups, starts, first = given
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
# What this script needs and the first group does not is told with the last one of the start.
recorder = set(sys.modules) - before - first
before |= recorder
for number, modules in enumerate(groups):
    if number == starts - 1:
        before -= recorder
    for name in modules:
        importlib.import_module(name)
    listed.append(([name for name in sys.modules if name not in before], dict(texts), list(patterns.items())))
    before |= set(sys.modules)
    texts.clear(), patterns.clear()
sys.stdout.buffer.write(marshal.dumps(listed))
"""

_LOT = 200_000  # bytes of source
_BASE_LIBRARY = "base_library.zip"

# Codecs of one byte a character, and of East Asia: nobody who speaks with us uses them.
_CODECS = re.compile(
    r"encodings\.(big5|cp(?!437)|euc_|gb|hp_|hz|iso2022|iso8859_(?!1$)|johab|koi8|kz|mac_|mbcs|oem|palmos|ptcp"
    r"|shift_|tis_)\w*"
)

# What is there before the file can be read.
_IN_ANY_CASE = {packed.__name__, "importlib._bootstrap", "importlib._bootstrap_external"}

_Found = tuple[list[str], dict[str, list[str]], list[tuple[tuple[str | bytes, int], tuple[Any, ...]]]]


def pack(
    pure: Iterable[Entry],
    datas: Iterable[Entry],
    build: Path,
    start: Sequence[Sequence[str]],
    modules: Iterable[str],
) -> list[Entry]:
    """`datas` with the file of all modules, in the place of PyInstaller's zip file of basic ones. Each group
    of `start` is what the program imports in one go; the `modules`, and what they import, are ready to use.
    """
    files = {
        "dataclasses": _dataclasses(build),
        "pathlib": _pathlib(build),
        "click.core": _without_inspect(build, "click.core"),
        "click.decorators": _without_inspect(build, "click.decorators"),
        "click.termui": _without_inspect(build, "click.termui"),
        "click.types": _click_types(build),
        "re._compiler": _re_compiler(build),
        "urllib.parse": _urllib_parse(build),
        "logging": _logging(build),
        "google.protobuf.descriptor_pool": _written(build / "descriptor_pool.py", _POOL),
        "google.protobuf.internal.python_message": _written(build / "python_message.py", ""),
        "google.protobuf.internal.well_known_types": _well_known_types(build),
    }
    groups = [*start, *([name] for name in modules)]
    observed = _observed(files, groups, len(start))
    needed = {name for names, _, _ in observed for name in names} - _IN_ANY_CASE
    listed = {name: path for name, path, _ in pure}
    basic, others = _base_library(datas)
    everything = basic | {name: path for name, path in listed.items() if path.endswith(".py")} | files
    sources = {
        name: path
        for name, path in everything.items()
        if not _imp.is_frozen(name) and not _CODECS.fullmatch(name)
    }
    table: dict[str, tuple[bool, int, int, bool]] = {}
    content = bytearray()

    def add(codes: Mapping[str, CodeType], more: tuple[Any, ...], *, compressed: bool = False) -> None:
        entry = marshal.dumps((dict(codes), *more))
        entry = zlib.compress(entry, 9) if compressed else entry
        for name in codes:
            package = name not in sources or Path(sources[name]).name == "__init__.py"
            table[name] = package, len(content), len(entry), compressed
        content.extend(entry)

    for number, (names, texts, patterns) in enumerate(observed):
        packed_names = [name for name in names if name in sources and name in needed]
        together = (
            _pieces(packed_names, sources) if number < len(start) else [[name] for name in packed_names]
        )
        found = dict(patterns) if number < len(start) else {}
        for piece in together:
            codes = {name: _code(name, Path(sources[name])) for name in piece}
            methods = {
                text: compile(text, "<dataclass>", "exec") for name in piece for text in texts.get(name, ())
            }
            add(codes, (methods, found))
            found = {}
    assert {"dataclasses", "pathlib", "json", "re", "enum"} <= table.keys(), "the modules were not observed"
    for name in sorted(sources.keys() - table.keys() - _IN_ANY_CASE):
        add({name: _code(name, Path(sources[name]))}, ({}, {}), compressed=True)
    # Packages without an __init__.py.
    add({name: compile("", name, "exec") for name in listed if listed[name] == "-"}, ({}, {}))
    contents = marshal.dumps(table)
    path = build / packed.NAME
    path.write_bytes(len(contents).to_bytes(4, "little") + contents + content)
    return [*others, (packed.NAME, os.fspath(path), "DATA")]


def _pieces(names: Iterable[str], sources: Mapping[str, str]) -> Iterator[list[str]]:
    """`names` in the order in which they are imported, in lots that are read in one go: more at once would be
    memory that is free again, in small parts, when all are imported.
    """
    lot: list[str] = []
    for name in names:
        lot.append(name)
        if sum(Path(sources[each]).stat().st_size for each in lot) >= _LOT:
            yield lot
            lot = []
    if lot:
        yield lot


def _code(name: str, source: Path) -> CodeType:
    # The standard library's docstrings nobody reads; ours are the manual.
    ours = name.partition(".")[0] in {"cni_plugins", "executor", "mesos"}
    code: CodeType = compile(source.read_bytes(), name, "exec", dont_inherit=True, optimize=0 if ours else 2)
    return code


def _base_library(datas: Iterable[Entry]) -> tuple[dict[str, str], list[Entry]]:
    """Sources of those modules that PyInstaller puts into a zip file of their own, and `datas` without it."""
    others, names = [], []
    for entry in datas:
        if entry[0] == _BASE_LIBRARY:
            with zipfile.ZipFile(entry[1]) as whole:
                names = [name.removesuffix(".pyc").removesuffix("/__init__") for name in whole.namelist()]
        else:
            others.append(entry)
    found = {}
    for name in (name.replace("/", ".") for name in names):
        spec = find_spec(name)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            found[name] = spec.origin
    return found, others


def _observed(files: Mapping[str, str], groups: Sequence[Sequence[str]], starts: int) -> list[_Found]:
    first = marshal.loads(_asked(_FIRST, (dict(files), list(groups[0]))))
    answer = _asked(_RECORD, (dict(files), [list(group) for group in groups], starts, first))
    found: list[_Found] = marshal.loads(answer)
    return found


def _asked(script: str, given: tuple[Any, ...]) -> bytes:
    """What a fresh interpreter answers to it."""
    search = os.pathsep.join((os.fspath(TOP), os.fspath(TOP / "proto"), os.fspath(Path(__file__).parent)))
    answer = subprocess.run(
        [sys.executable, "-S", "-c", _OURS + script],
        env={"PYTHONPATH": f"{search}:{_site_packages()}", "PATH": os.environ["PATH"], "PYTHONHASHSEED": "1"},
        input=marshal.dumps(given),
        capture_output=True,
        check=False,
    )
    if answer.returncode:
        raise SystemExit(f"a module of ours cannot be imported:\n{answer.stderr.decode()[-2000:]}")
    return answer.stdout


def _site_packages() -> str:
    return next(path for path in sys.path if path.endswith("site-packages"))


def _dataclasses(build: Path) -> str:
    import dataclasses

    source = _source_of(dataclasses.__file__, "import inspect\n", _SIGNATURE, "exec(txt, globals, ns)")
    source = source.replace("import inspect\n", "").replace(_SIGNATURE, "'(...)'")
    return _written(build / "dataclasses.py", source + _LOOK_UP)


def _pathlib(build: Path) -> str:
    import pathlib

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
    import inspect

    spec = find_spec(name)
    source = _source_of(spec.origin if spec else None, "\nimport inspect\n")
    cleandoc = textwrap.indent(inspect.getsource(inspect.cleandoc), "    ")
    return _written(
        build / f"{name}.py", source.replace("import inspect\n", _LATER.format(cleandoc=cleandoc))
    )


def _click_types(build: Path) -> str:
    spec = find_spec("click.types")
    uuid, datetime = "import uuid\n", "from datetime import datetime\n"
    classes = ("ParamType[uuid.UUID]", "ParamType[datetime]")
    used = {
        "            return datetime.strptime(value, format)": f"            {datetime}",
        "        if isinstance(value, datetime):": f"        {datetime}",
        "        if isinstance(value, uuid.UUID):": f"        {uuid}",
        "            return uuid.UUID(value)": f"            {uuid}",
    }
    source = _source_of(spec.origin if spec else None, uuid, datetime, *classes, *used)
    source = source.replace(uuid, "").replace(datetime, "")
    for one in classes:
        source = source.replace(one, "ParamType[t.Any]")
    for line, before in used.items():
        source = source.replace(line, before + line)
    return _written(build / "click.types.py", source)


def _logging(build: Path) -> str:
    import logging

    source = _source_of(logging.__file__, _TRACEBACK).replace("re, traceback,", "re,")
    (build / "logging").mkdir(exist_ok=True)
    return _written(build / "logging/__init__.py", source + _TRACEBACK_LATER)


def _urllib_parse(build: Path) -> str:
    import urllib.parse

    wanted, used = "import ipaddress\n", "        ip = ipaddress.ip_address(hostname)"
    source = _source_of(urllib.parse.__file__, wanted, used).replace(wanted, "")
    return _written(build / "urllib_parse.py", source.replace(used, f"        {wanted}{used}"))


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
