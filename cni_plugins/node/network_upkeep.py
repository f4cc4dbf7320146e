"""The service's part of networks whose files change: containers that run are compared with what the files say
now, and brought there if the operator wants that.

What is applied costs no packet and ends no flow; the rest, and what cannot be changed in place, is told. A
file is taken whole or not at all: one that is no JSON (somebody writes it at this moment) is passed over, and
its end of writing is another event. Files and directories that others than root may write are refused, since
this works as root without being asked.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from cni_plugins.attach.changes import Changes
from cni_plugins.attach.drift import drift
from cni_plugins.attach.update import Outcome, Where, Wish, update
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.values import JsonObject, fold, parse_json
from cni_plugins.store import network_files
from cni_plugins.store.records import Contents

log = logging.getLogger("mesokit.node")

#: Until whoever writes several files, or one in several goes, is most likely done.
MOMENT_SECONDS = 1.0


class Watching(StrEnum):
    """What the operator wants done when a network's file and its containers differ."""

    OFF = "off"
    SHOW = "show"
    APPLY = "apply"


def upkeep(where: Where, watching: Watching) -> None:
    """Compare every network's file with its containers; log what differs, what was done. Nothing raises."""
    if watching is Watching.OFF:
        return
    for document in _documents(where.roots.relocate(network_files.DIRECTORY)):
        wish = Wish(apply=watching is Watching.APPLY)
        for outcome in update(where, _wanted(where, document), wish, network=str(fold(document, "name"))):
            _tell(outcome)


def _wanted(where: Where, document: JsonObject) -> Callable[[Contents], Changes | Sequence[str]]:
    def wanted(contents: Contents) -> Changes | Sequence[str]:
        try:
            found = drift(contents, document, where.plugins)
        except CniError as error:
            return [str(error)]
        return found.problems or found.changes

    return wanted


def _documents(place: Path) -> Iterator[JsonObject]:
    try:
        paths = network_files.listed(place)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    seen = set()
    try:
        if not _is_roots(os.fstat(directory)):
            log.error("networks: %s may be written by others than root: nothing in it is applied", place)
            return
        for path in paths:
            document = _document(directory, path)
            network = fold(document, "name") if document is not None else None
            if document is not None and isinstance(network, str) and network not in seen:
                seen.add(network)
                yield document
    finally:
        os.close(directory)


def _document(directory: int, path: Path) -> JsonObject | None:
    try:
        document = _parsed(directory, path)
        if not isinstance(document, dict):
            return None
        return network_files.whole(path, document, lambda item: _member(directory, item))
    except PermissionError as error:
        log.error("networks: %s is passed over: %s", path, error.strerror)
    except OSError as error:
        log.warning("networks: %s is passed over: %s", path, error.strerror or error)
    except ValueError as error:
        log.warning("networks: %s is passed over, it is no whole JSON: %s", path, error)
    return None


def _parsed(directory: int, path: Path) -> object:
    """OSError, and PermissionError of one that others may write; ValueError."""
    raw, status = network_files.read(path.name, directory=directory, follow=False)
    if not _is_roots(status):
        raise _foreign(path)
    return parse_json(raw)


def _member(directory: int, path: Path) -> object:
    """Of a plugin in a file beside its list, in the folder that has the network's name."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(path.parent.name, flags, dir_fd=directory)
    try:
        if not _is_roots(os.fstat(folder)):
            raise _foreign(path.parent)
        return _parsed(folder, path)
    finally:
        os.close(folder)


def _foreign(path: Path) -> PermissionError:
    return PermissionError(errno.EPERM, f"{path} may be written by others than root")


def _is_roots(status: os.stat_result) -> bool:
    return status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _tell(outcome: Outcome) -> None:
    who = f"{outcome.identity.container_id} {outcome.identity.ifname} on {outcome.identity.network}"
    steps = "; ".join(operation.what for operation in outcome.operations)
    if outcome.problems:
        log.warning("networks: %s differs from its file, and stays: %s", who, "; ".join(outcome.problems))
    elif outcome.changed:
        log.warning("networks: %s is as its file says now: %s", who, steps or "nothing to be done")
    elif outcome.operations:
        log.warning("networks: %s differs from its file: %s", who, steps)
    for text in outcome.leftovers:
        log.warning("networks: %s: left for later: %s", who, text)
