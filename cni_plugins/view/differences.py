"""Attachments that are not as their network's file is now: what differs, and the command that applies it.

A file that nobody wrote since an attachment was made is not compared with it: the inode's change time tells,
which no editor and no `touch` can set back. So a look costs a directory's listing while nobody edits.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import JsonObject, fold, parse_json
from cni_plugins.store import network_files
from cni_plugins.store.records import VERSION, Contents
from cni_plugins.view.attachments import Attachment, State
from cni_plugins.view.node import Difference, Node

_GONE = frozenset((State.STALE, State.UNFINISHED, State.ELSEWHERE))
#: What a runtime adds to a file's configuration.
_RUNTIMES = frozenset(("runtimeconfig", "args", "prevresult"))
_SLACK = 1.0  # seconds: the time of a record, and that of a file, which has the kernel's coarse clock

_Key = tuple[tuple[object, ...], tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class _File:
    """`written` is when somebody last changed it, seconds since the epoch."""

    path: Path
    written: float
    document: JsonObject


@dataclass(slots=True)
class Differences:
    """Looks that follow one another: only what is other than in the last one is worked out again."""

    roots: Roots
    _key: _Key | None = None
    _found: Mapping[Identity, Difference] = field(default_factory=dict)

    def look(self, node: Node) -> Node:
        """Fill in `node.differences`; what cannot be read or told is left out."""
        files, marks = _files(self.roots)
        items = [item for item in node.attachments if node.state(item) not in _GONE]
        key = (
            marks,
            tuple(
                (item.identity, item.since, tuple(one.revision for one in item.contents)) for item in items
            ),
        )
        if key != self._key:
            self._key, self._found = key, dict(_every(items, files))
        node.differences.update(self._found)
        return node


def look(node: Node, roots: Roots) -> Node:
    """One look; see Differences."""
    return Differences(roots).look(node)


def _files(roots: Roots) -> tuple[dict[str, _File], tuple[object, ...]]:
    """The files by network, of two of one network the first by name, as runtimes take it; and by what one
    sees that they are others.
    """
    found: dict[str, _File] = {}
    marks: list[object] = []
    place = roots.relocate(network_files.DIRECTORY)
    try:
        listed = network_files.listed(place)
    except OSError:
        return found, ()
    for path in listed:
        written: list[float] = []

        def parsed(item: Path, written: list[float] = written) -> object:
            raw, status = network_files.read(item)
            marks.append((item, status.st_ino, status.st_size, status.st_ctime_ns))
            written.append(status.st_ctime)
            return parse_json(raw)

        try:
            document = parsed(path)
            if not isinstance(document, dict):
                continue
            whole = network_files.whole(path, document, parsed)
        except (OSError, ValueError, RecursionError):
            continue
        network = fold(document, "name")
        if isinstance(network, str) and network not in found:
            with suppress(OSError):  # one that was taken away is seen by its directory
                folder = (place / network).stat()
                marks.append((network, folder.st_ctime_ns))
                written.append(folder.st_ctime)
            found[network] = _File(path, max(written), whole)
    return found, tuple(marks)


def _every(items: list[Attachment], files: Mapping[str, _File]) -> Iterator[tuple[Identity, Difference]]:
    known: dict[tuple[Path, str], tuple[tuple[str, ...], tuple[str, ...]]] = {}
    for item in items:
        file = files.get(item.network)
        if file is None:
            continue
        changes: list[str] = []
        problems: list[str] = []
        for contents in item.contents:
            if file.written + _SLACK < item.since and contents.revision == 1:
                continue
            key = (file.path, _own(contents))
            if key not in known:
                known[key] = _compared(contents, file.document)
            changes += known[key][0]
            problems += known[key][1]
        if (changes or problems) and item.version < VERSION:
            problems.append(
                "an older release attached it, and its record does not tell enough: attach it anew"
            )
        if changes or problems:
            yield item.identity, _difference(item, file, changes, problems)


def _own(contents: Contents) -> str:
    """What of a record is compared: containers of one network have it in common."""
    config = contents.head.get("config")
    own = config if isinstance(config, dict) else {}
    own = {key: value for key, value in own.items() if key.casefold() not in _RUNTIMES}
    return json.dumps([contents.head.get("plugin"), contents.head.get("added"), own], sort_keys=True)


def _compared(contents: Contents, document: JsonObject) -> tuple[tuple[str, ...], tuple[str, ...]]:
    # Every plugin's configuration, for whom something was edited.
    from cni_plugins.attach.drift import drift
    from cni_plugins.plugins.registry import Plugins

    with suppress(CniError, RecursionError):  # a file that no plugin takes is told by doctor
        found = drift(contents, document, Plugins())
        return tuple(found.told), tuple(found.problems)
    return (), ()


def _difference(item: Attachment, file: _File, changes: list[str], problems: list[str]) -> Difference:
    words = ("mesokit", "update", item.container_id, "--network", item.network, "--from", str(file.path))
    command = "" if problems else f"{shlex.join(words)} --apply"
    moment = max(file.written, item.since)
    return Difference(str(file.path), tuple(changes), tuple(problems), command, moment)
