"""The modules that a bundled program always needs, imported from one file that was made for it (quick.py).

PyInstaller unpacks each module from an archive: 0.3 ms, a third of a plugin's whole start. Here it is read
where it lies, and what `dataclasses` and `re` would write and compile for it lies beside it, compiled. What a
program imports in one go, as it does when it starts, is read in one go.

The file: the length of the table of contents (4 bytes, little endian), the table (marshal: module to "is a
package", offset, length, "is compressed"), and pieces, one for modules that are imported together: {module:
code}, and what becomes METHODS and PATTERNS. Pieces of modules that few ever need are compressed (zlib).
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

    __slots__ = ("_codes", "_folder", "_path", "_start", "_table")

    def __init__(self, path: str) -> None:
        self._path = path
        self._folder = path.rpartition("/")[0]
        length = int.from_bytes(self._read(0, 4), "little")
        self._table: dict[str, tuple[bool, int, int, bool]] = loads(self._read(4, length))
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
            spec.submodule_search_locations = [f"{self._folder}/{name.replace('.', '/')}"]
        return spec

    def _file(self, name: str) -> str:
        """Where its source would be: what belongs to a module lies there."""
        end = "/__init__.py" if self._table[name][0] else ".py"
        return f"{self._folder}/{name.replace('.', '/')}{end}"

    def get_resource_reader(self, name: str) -> object:
        """For importlib.resources: data files of a package, the authorities of `certifi` say."""
        from importlib.resources.readers import FileReader
        from types import SimpleNamespace

        loader: Any = SimpleNamespace(path=self._file(name))  # that is all it is asked for
        return FileReader(loader)

    def create_module(self, spec: ModuleSpec) -> "ModuleType | None":
        return None

    def exec_module(self, module: "ModuleType") -> None:
        name = module.__name__
        module.__file__ = self._file(name)
        if name not in self._codes:
            _, offset, length, compressed = self._table[name]
            piece = self._read(self._start + offset, length)
            if compressed:
                from zlib import decompress

                piece = decompress(piece)
            codes, methods, patterns = loads(piece)
            self._codes.update(codes)
            METHODS.update(methods)
            PATTERNS.update(patterns)
        exec(self._codes.pop(name), module.__dict__)  # noqa: S102 - that is what an import does
