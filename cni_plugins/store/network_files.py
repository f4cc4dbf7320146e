"""Where the files of networks lie and which of a directory's files are ones, for all who look there.

Names as in libcni (conf.go, ConfFiles); Mesos reads them from --network_cni_config_dir.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from cni_plugins.spec.values import JsonObject, fold

DIRECTORY = "/etc/cni/net.d"
SUFFIXES = (".conflist", ".conf", ".json")
LARGEST = 1 << 20
"""Bytes of a file that are read; what is longer is no network's."""


def listed(directory: Path) -> list[Path]:
    """What is named as a network's file, by name, of whatever kind it is. OSError."""
    return sorted(item for item in directory.iterdir() if item.suffix in SUFFIXES)


def says(document: JsonObject, key: str) -> bool:
    """A list's switch, which libcni takes as a word too (conf.go, readBool)."""
    value = fold(document, key)
    return value is True or (isinstance(value, str) and value.casefold() == "true")


def beside(path: Path, document: JsonObject) -> list[Path]:
    """The files of a list's further plugins, each the configuration of one: NETWORK/*.conf beside the list,
    by name (libcni 1.3, conf.go, NetworkPluginConfsFromFiles). OSError."""
    name = fold(document, "name")
    if path.suffix != ".conflist" or says(document, "loadOnlyInlinedPlugins"):
        return []
    if not isinstance(name, str) or name == ".." or name != Path(name).name:  # libcni leaves the directory
        return []
    try:
        found = sorted((path.parent / name).iterdir())
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL
        return []
    return [item for item in found if item.suffix == ".conf" and not item.is_dir()]


def whole(path: Path, document: JsonObject, parsed: Callable[[Path], object]) -> JsonObject:
    """The document of `path` with the plugins that are `beside` it behind its own, as a runtime calls them.
    OSError; ValueError for one that is no object; and what `parsed` raises."""
    members = [(item, parsed(item)) for item in beside(path, document)]
    if not members:
        return document
    for item, member in members:
        if not isinstance(member, dict):
            raise ValueError(f"{item} is not a JSON object")
    own = fold(document, "plugins")
    rest = {key: value for key, value in document.items() if key.casefold() != "plugins"}
    listed = own if isinstance(own, list) else []
    return rest | {"plugins": [*listed, *(member for _, member in members)]}


def read(
    path: Path | str, *, directory: int | None = None, follow: bool = True
) -> tuple[bytes, os.stat_result]:
    """A file's bytes, at most LARGEST, and whose it is. Nobody can make it wait: what is no regular file is
    an OSError, and so is a symbolic link unless told to `follow`."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is no regular file")
        return os.read(fd, LARGEST), status
    finally:
        os.close(fd)
