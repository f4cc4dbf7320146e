"""The program of a directory bundle: Debian's interpreter, with what the bundle imports and nothing else.

PyInstaller's own program unpacks itself, loads an interpreter made for a shared library, whose addresses are
put in at every start, and reads the first modules from a zip file. Here the interpreter is a program at a
fixed address, as /usr/bin/python3 is, and has those modules in it (packaging/launcher/interpreter.c).
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import sysconfig
from collections.abc import Collection, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from frozen import TOP, Entry, lay_out

SOURCE = TOP / "packaging/launcher/interpreter.c"

_FLAGS = ("-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", "-no-pie", "-s")
_LINK = ("-Wl,-O1", "-Wl,--build-id=none", "-Wl,--hash-style=gnu", "-Wl,--gc-sections", "-Wl,-z,relro")

# Modules in C that the interpreter imports by itself, or whatever program it runs.
_ALWAYS = {
    "_abc", "_codecs", "_collections", "_functools", "_io", "_locale", "_operator", "_signal", "_sre",
    "_stat", "_thread", "_weakref", "atexit", "errno", "faulthandler", "itertools", "posix", "time",
}  # fmt: skip

# Of the library itself: they stand in the table in any case.
_CORE = {"marshal", "_imp", "_ast", "_tokenize", "builtins", "sys", "gc", "_warnings", "_string"}

# Modules in Python that the interpreter imports before it can look anywhere.
_FIRST = ("encodings", "encodings.aliases", "encodings.utf_8", "encodings.latin_1")


def bundle(program: Path, work: Path, entry: Path, collected: Any, datas: list[Entry]) -> None:
    """A directory bundle of what PyInstaller's Analysis found."""
    folder = program.parent
    lay_out(folder, collected.binaries, datas)
    found = {name: collected.graph.find_node(name) for name in sys.builtin_module_names}
    builtin = [name for name, node in found.items() if type(node).__name__ == "BuiltinModule"]
    extensions = [path for path in (folder / "_internal").rglob("*.so") if path.is_file()]
    link(program, work, entry, builtin, extensions)


def link(output: Path, work: Path, entry: Path, builtin: Iterable[str], extensions: Collection[Path]) -> None:
    """Writes a program that runs `entry` as `__main__`. `builtin`: modules in C that are in the interpreter's
    library; `extensions`: those that are files, which find in the program what they need of the interpreter.
    """
    work.mkdir(parents=True, exist_ok=True)
    sources = {name: _source(name) for name in _FIRST}
    sources |= {"packed": TOP / "packaging/bundle/packed.py", "__main__": entry}
    (work / "tables.h").write_text(_tables(sorted({*builtin, *_ALWAYS} - _CORE), sources))
    exported = work / "exported"
    exported.write_text("{\n" + "".join(f"{name};\n" for name in _wanted(extensions)) + "};\n")
    library = Path(str(sysconfig.get_config_var("LIBPL"))) / "libpython3.11.a"
    argv = ["gcc", *_FLAGS, f"-I{work}", f"-I{sysconfig.get_path('include')}", "-o", os.fspath(output)]
    argv += [os.fspath(SOURCE), *_LINK, f"-Wl,--dynamic-list={exported}", os.fspath(library)]
    subprocess.run([*argv, "-l:libz.a", "-lm"], check=True)


def _source(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    # `encodings` is imported already, of whatever kind; its source lies where the standard library does.
    return Path(str(sysconfig.get_path("stdlib"))) / Path(spec.origin).relative_to(Path(os.__file__).parent)


def _tables(builtin: Iterable[str], sources: Mapping[str, Path]) -> str:
    text = "#define BUILTIN " + " ".join(f"X({name})" for name in builtin) + "\n"
    rows = []
    for number, (name, path) in enumerate(sources.items()):
        code = compile(path.read_bytes(), name, "exec", dont_inherit=True, optimize=2)
        numbers = ",".join(map(str, marshal.dumps(code)))
        text += f"static const unsigned char module{number}[] = {{{numbers}}};\n"
        rows.append(f'X("{name}", module{number}, {int(path.name == "__init__.py")})')
    return text + "#define MODULES " + " ".join(rows) + "\n"


def _wanted(extensions: Iterable[Path]) -> list[str]:
    """What the modules that are files take from the interpreter."""
    argv = ["nm", "-D", "--undefined-only", "--format=posix", *map(os.fspath, extensions)]
    listed = subprocess.run(argv, capture_output=True, check=True).stdout.decode()
    found = {line.split()[0] for line in listed.splitlines() if line.startswith(("Py", "_Py"))}
    return sorted(found)
