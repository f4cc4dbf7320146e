"""Everything that may ever be imported, imported: before the first task of another user runs.

Until then the executor loads what it needs when it needs it, and most executors never need OpenSSL or what
tells of their state. A task of another user ends that: what is imported later would be read from a bundle or
a checkout that may lie in the sandbox, with root's rights. The sandbox is made so that such a task cannot
replace anything of ours there (output/directory.py); and with this nothing would come of it if it could. From
then on an import of what is missing fails, and says so.
"""

import grp
import importlib
import logging
import os
import pwd
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType

log = logging.getLogger(__name__)

MODULES = (
    # What our own functions import when they are called (a test compares).
    "executor.monitoring.prometheus",
    "executor.monitoring.snapshot",
    "executor.monitoring.usage",
    "executor.transport.tls",
    "ssl",
    # What Python imports by itself: names of hosts, certificates' names, tracebacks, codecs.
    "_strptime",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "linecache",
    "tokenize",
    "traceback",
)


class Guard:
    """A finder (importlib.abc.MetaPathFinder) that finds nothing, and lets nobody after it look."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        log.warning("not importing %s: tasks of other users run, and it was not loaded before", name)
        raise ModuleNotFoundError(f"{name} was not loaded before the first task of another user", name=name)


def load_everything() -> None:
    """See the module. May be repeated."""
    if Guard in sys.meta_path:
        return
    for name in MODULES:
        importlib.import_module(name)
    # The C library opens what nsswitch.conf(5) names when it is first asked.
    with suppress(KeyError, OSError):
        os.getgrouplist(pwd.getpwuid(0).pw_name, 0)
    with suppress(KeyError):
        grp.getgrgid(0)
    with suppress(OSError):
        socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    sys.meta_path.insert(0, Guard)
