"""pyroute2's message classes without the rest of pyroute2.

`import pyroute2` loads every protocol the package knows: 160 ms and 34 MB, which a process that lives for one
call cannot afford. The classes of single messages need a few modules only, so the package's own start-up is
left out while they are imported, and the half-made package is taken out of sys.modules again, so that a full
import later finds nothing odd.
"""

import importlib
import sys
import types
from _thread import allocate_lock
from collections.abc import Sequence

_importing = allocate_lock()


def load(*modules: str) -> Sequence[types.ModuleType]:
    """Import modules of pyroute2 by their names below the package, such as `netlink.rtnl.ifinfmsg`. One
    thread at a time does so."""
    with _importing:
        return _load(modules)


def _load(modules: Sequence[str]) -> Sequence[types.ModuleType]:
    stub = None
    if "pyroute2" not in sys.modules:
        # Whoever finds it: in a bundle that is not the finder of directories.
        found = (finder.find_spec("pyroute2", None) for finder in sys.meta_path)
        spec = next((spec for spec in found if spec is not None), None)
        locations = spec.submodule_search_locations if spec else None
        if locations:
            stub = types.ModuleType("pyroute2")
            stub.__path__ = list(locations)
            sys.modules["pyroute2"] = stub
    try:
        return [importlib.import_module(f"pyroute2.{name}") for name in modules]
    finally:
        if stub is not None and sys.modules.get("pyroute2") is stub:
            del sys.modules["pyroute2"]
