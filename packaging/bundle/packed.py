"""The modules that a bundled program always needs, imported from one file that was made for it (quick.py).

PyInstaller unpacks each module from an archive: 0.3 ms, a third of a plugin's whole start. Here it is read
where it lies, and what `dataclasses` and `re` would write and compile for it lies beside it, compiled. What a
program imports in one go, as it does when it starts, is read in one go. Modules that are rarely needed stay
in PyInstaller's archive.

The file: the length of the table of contents (4 bytes, little endian), the table (marshal: module to "is a
package", offset, length), and pieces, one for modules that are imported together: {module: code}, and what
becomes METHODS and PATTERNS.
"""

import posix
import sys
from _frozen_importlib import ModuleSpec
from marshal import loads

TYPE_CHECKING = False  # as type checkers see it, without the 2 ms of `typing`
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

NAME = "modules.bin"

#: Compiled methods of the dataclasses of every module read so far, by their text; quick.py's `dataclasses`
#: looks here.
METHODS: "dict[str, CodeType]" = {}

#: Arguments of `_sre.compile`, by pattern and flags, of every module read so far; quick.py's `re` looks here.
PATTERNS: "dict[tuple[str | bytes, int], tuple[Any, ...]]" = {}


def install() -> None:
    """Let every import look here first. Run from a checkout, there is no such file, and nothing changes."""
    folder = getattr(sys, "_MEIPASS", None)
    if folder is not None:
        sys.meta_path.insert(0, _Finder(f"{folder}/{NAME}"))


class _Finder:
    """A finder and loader (importlib.abc.MetaPathFinder, Loader) by duck typing: importlib.abc costs 2 ms."""

    __slots__ = ("_codes", "_path", "_start", "_table")

    def __init__(self, path: str) -> None:
        self._path = path
        length = int.from_bytes(self._read(0, 4), "little")
        self._table: dict[str, tuple[bool, int, int]] = loads(self._read(4, length))
        self._start = 4 + length
        self._codes: dict[str, CodeType] = {}

    def _read(self, offset: int, length: int) -> bytes:
        # Opened anew each time: a process that closes every descriptor may go on importing.
        descriptor = posix.open(self._path, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            return posix.pread(descriptor, length, offset)
        finally:
            posix.close(descriptor)

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        found = self._table.get(name)
        if found is None:
            return None
        spec = ModuleSpec(name, self, origin="packed", is_package=found[0])  # type: ignore[arg-type]
        if found[0]:
            folder = f"{self._path.rpartition('/')[0]}/{name.replace('.', '/')}"
            spec.submodule_search_locations = [folder]
        return spec

    def create_module(self, spec: ModuleSpec) -> "ModuleType | None":
        return None

    def exec_module(self, module: "ModuleType") -> None:
        name = module.__name__
        if name not in self._codes:
            _, offset, length = self._table[name]
            codes, methods, patterns = loads(self._read(self._start + offset, length))
            self._codes.update(codes)
            METHODS.update(methods)
            PATTERNS.update(patterns)
        exec(self._codes.pop(name), module.__dict__)  # noqa: S102 - that is what an import does
