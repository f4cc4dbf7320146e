"""Attachment records: what an attachment is made of, each step written before it is taken.

A record is an append-only file of JSON lines (version 2):

    {"version": 2, "network": …, "containerID": …, "ifname": …, "plugin": …, …}   whose it is
    {"step": KIND, "id": N, "args": {…}}      a change, written before it is made; see steps/
    {"undone": N}                             that change is taken back, or was never made
    {"result": {…}, "revision": N, "ended": S}   ADD is complete, since S on the clock of the boot
    {"update": [KEY, …], "after": N}          steps with higher numbers belong to an update (attach/update.py)
    {"result": {…}, "revision": N, "config": {…}, "steps": […], "going": [N, …]}
                                              the update is complete: these are the steps, the last ones named
                                              are to be taken back

ADD's roll-back, DEL, GC, CHECK and reload all work from the list of steps; nothing is looked for in the
kernel. A process may die at any byte: a torn last line is a change that was never made, so it is ignored. The
file describes kernel state and lives as long as that does (/run), hence no fsync. It is locked while a call
works on its attachment. Version 1 had `{"undo": OPERATION, "args": {…}}` for steps and `{"cancel": true}` for
"not made"; its records are read for ever.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cni_plugins.spec import files
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.roots import Roots
from cni_plugins.spec.values import JsonObject, dump_json
from cni_plugins.store import boot
from cni_plugins.store.locks import acquire, open_file

VERSION = 2
_UNREADABLE = "unreadable"  # the folder, beside that of the records


@dataclass(frozen=True, slots=True)
class Contents:
    """A record as read: `steps` are the lines of those that stand, oldest first; `result` is in the newest
    version's shape; `revision` counts the results. `begun` is the number of the last step before an update
    that did not end (None: none is open), `going` are the numbers of steps that an update has replaced and
    not all taken back yet. `updated` says that some update is complete: what the runtime remembers of the
    ADD (prevResult) may be history. `ended` is when the ADD was complete, in seconds of CLOCK_BOOTTIME.
    """

    head: JsonObject
    steps: tuple[JsonObject, ...]
    result: JsonObject | None
    revision: int = 0
    last_id: int = 0
    begun: int | None = None
    going: frozenset[int] = frozenset()
    updated: bool = False
    ended: float = 0.0

    @property
    def version(self) -> int:
        version = self.head.get("version", 1)
        return version if isinstance(version, int) else 1

    @property
    def identity(self) -> Identity:
        return Identity(self.head["network"], self.head["containerID"], self.head["ifname"])


def folder_name(network: str) -> str:
    """Of a network's records, and of what else there is for each network."""
    return network if len(network) <= 200 else "long-" + hashlib.sha256(network.encode()).hexdigest()


def folder(roots: Roots, network: str) -> Path:
    return Path(f"{roots.run}/attachments/{folder_name(network)}")


def path_of(roots: Roots, identity: Identity, plugin: str) -> Path:
    """Where the record is. Plugins of one chain that are called one by one have a record each."""
    key = "\0".join((identity.container_id, identity.ifname, plugin))
    name = hashlib.sha256(key.encode()).hexdigest()[:40]
    return Path(f"{roots.run}/attachments/{folder_name(identity.network)}/{name}")


def _is_head(entry: JsonObject) -> bool:
    """Whether a line tells whose the record is; a file of anything else is no record."""
    texts = ("network", "containerID", "ifname", "plugin")
    return (
        all(isinstance(entry.get(key), str) for key in texts)
        and isinstance(entry.get("netns", ""), str)
        and isinstance(entry.get("config", {}), dict)
    )


def _parse(data: bytes) -> Contents | None:
    head: JsonObject | None = None
    steps: list[JsonObject] = []
    result: JsonObject | None = None
    revision = last_id = 0
    begun: int | None = None
    going: frozenset[int] = frozenset()
    updated = False
    ended = 0.0
    for entry in _entries_of(data):
        if "network" in entry:
            if head is None and _is_head(entry):
                head = entry
        elif "step" in entry or "undo" in entry:
            steps.append(entry)
            last_id = max(last_id, number_of(entry))
        elif "undone" in entry:
            steps = [item for item in steps if number_of(item) != entry["undone"]]
        elif "cancel" in entry and steps:
            steps.pop()
        elif isinstance(entry.get("result"), dict):
            result = entry["result"]
            revision += 1
            begun = None
            if isinstance(entry.get("ended"), float):
                ended = entry["ended"]
            if head is not None and isinstance(entry.get("steps"), list):
                head = head | {"config": entry["config"]}
                steps = entry["steps"]
                last_id = max((last_id, *map(number_of, steps)))
                going = frozenset(entry["going"])
                updated = True
        elif "update" in entry:
            begun = entry["after"]
    if head is None:
        return None
    return Contents(head, tuple(steps), result, revision, last_id, begun, going, updated, ended)


def _entries_of(data: bytes) -> list[JsonObject]:
    """The objects of the lines; what is none is left out. A record without a torn line is read in one go."""
    lines = [line for line in data.split(b"\n") if line]
    try:
        found = json.loads(b"[%s]" % b",".join(lines))  # ours alone: what parse_json looks for is not there
        if len(found) == len(lines):
            return [entry for entry in found if isinstance(entry, dict)]
    except (ValueError, RecursionError):
        pass
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [entry for entry in found if isinstance(entry, dict)]


def number_of(entry: JsonObject) -> int:
    """The number of a step's line, 0 for one of version 1."""
    number = entry.get("id", 0)
    return number if isinstance(number, int) else 0


class Record:
    """An open, locked record."""

    __slots__ = ("_fd", "_lines", "_torn", "contents", "path")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        data = _read(fd, path)
        self._torn = bool(data) and not data.endswith(b"\n")
        self._lines = b"\n" in data
        self.contents = _parse(data)

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        os.close(self._fd)

    def append(self, line: JsonObject) -> None:
        """Add one line, after ending one that a crash or a full disk left torn. CniError 5."""
        end = "\n" if self._torn else ""
        self._torn = True
        self._write((end + dump_json(line) + "\n").encode())
        self._torn = False

    def _write(self, data: bytes) -> None:
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise CniError(Code.IO, f"cannot write the attachment record {self.path}", str(error)) from error

    def reread(self) -> None:
        """Bring `contents` up to date with what was appended. CniError 5."""
        self.contents = _parse(_read(self._fd, self.path))

    def clear(self) -> None:
        """Forget what the record held: it was taken down. CniError 5."""
        try:
            os.ftruncate(self._fd, 0)
        except OSError as error:
            raise CniError(Code.IO, f"cannot empty the attachment record {self.path}", str(error)) from error
        self.contents = None

    def remove(self) -> None:
        """Unlink the file: the attachment is no more."""
        self.path.unlink(missing_ok=True)

    @property
    def unreadable(self) -> bool:
        """Whether lines were written that no record begins with. (A torn first line is an ADD that died
        before it changed anything.)
        """
        return self.contents is None and self._lines

    def retire(self) -> str:
        """Take a file without a head out of the way. What is unreadable is kept for who wants to read it,
        outside of where records are: its new place, "" when nothing was worth it. CniError 5.
        """
        if not self.unreadable:
            self.remove()
            return ""
        return _set_aside(self.path)


def _read(fd: int, path: Path) -> bytes:
    try:
        size = os.fstat(fd).st_size
        return os.pread(fd, size, 0) if size else b""
    except OSError as error:
        raise CniError(Code.IO, f"cannot read the attachment record {path}", str(error)) from error


def _set_aside(path: Path) -> str:
    """Move what cannot be a record to `<run>/unreadable`, over what an earlier one of its name left: its new
    place. CniError 5.
    """
    place = path.parents[2] / _UNREADABLE
    kept = place / _aside(path)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_dir():
            kept = kept.with_name(f"{kept.name}-{path.stat().st_ino}")
        path.rename(kept)
    except OSError as error:
        raise CniError(Code.IO, f"cannot set the unreadable record {path} aside", str(error)) from error
    return str(kept)


def _open(path: Path, flags: int, deadline: Deadline) -> Record | None:
    while True:
        try:
            fd = open_file(path, flags | os.O_RDWR | os.O_APPEND, 0o600, 0o700)
        except FileNotFoundError:
            return None
        except CniError:
            if not path.is_dir():
                raise
            _set_aside(path)
            continue
        try:
            acquire(fd, deadline, f"the attachment record {path}")
            if os.fstat(fd).st_nlink:  # else a DEL removed it while we waited for the lock
                return Record(path, fd)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def create(roots: Roots, identity: Identity, plugin: str, deadline: Deadline) -> Record:
    """Open the record of an attachment, making the file when there is none. CniError 5 or 11."""
    record = _open(path_of(roots, identity, plugin), os.O_CREAT, deadline)
    assert record is not None
    return record


def find(roots: Roots, identity: Identity, plugin: str, deadline: Deadline) -> Record | None:
    """Open the record of an attachment, None if there is none. CniError 5 or 11."""
    return _open(path_of(roots, identity, plugin), 0, deadline)


def elsewhere(roots: Roots, identity: Identity, plugin: str) -> Iterator[tuple[Path, Contents]]:
    """The records of the same container, interface and plugin on other networks, read without their locks."""
    own = path_of(roots, identity, plugin)
    for place in _entries(roots.run / "attachments"):
        path = place / own.name
        if path == own:
            continue
        try:
            contents = _parse(path.read_bytes())
        except OSError:
            continue
        if contents is not None:
            yield path, contents


def open_path(path: Path, deadline: Deadline) -> Record | None:
    """Open a record that `every` listed, None if it has gone. CniError 5 or 11."""
    return _open(path, 0, deadline)


def require_writable(roots: Roots) -> None:
    """CniError 50 where no record could be written: nothing is attached without one."""
    place = roots.run / "attachments"
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise CniError(
            Code.NOT_AVAILABLE,
            f"cannot write attachment records in {place}: "
            + ("run me as root" if os.geteuid() else "is it mounted read-only?"),
        )


def every(
    roots: Roots, network: str | None = None, headless: list[Path] | None = None
) -> Iterator[tuple[Path, Contents]]:
    """All records, or those of one network, read without their locks; what is gone is passed over. Files that
    do not tell whose they are go to `headless`: an ADD that died before it changed anything, or a record that
    is spoilt.
    """
    base = roots.run / "attachments"
    folders = [folder(roots, network)] if network is not None else _entries(base)
    for place in folders:
        for name in _names(place):
            path = f"{place}/{name}"
            try:
                contents = _parse(files.read(path))
            except (FileNotFoundError, PermissionError):
                continue
            except OSError:
                contents = None
            if contents is not None:
                yield Path(path), contents
            elif headless is not None:
                headless.append(Path(path))


def look(path: Path) -> Contents | None:
    """One record, read without its lock; None for one that is gone or tells nothing."""
    try:
        return _parse(path.read_bytes())
    except OSError:
        return None


def set_aside(roots: Roots) -> list[Path]:
    """What was unreadable, and was taken out of the way by a call on its attachment. PermissionError."""
    return _entries(roots.run / _UNREADABLE)


def among(found: Iterable[Path], identity: Identity, plugins: Iterable[str], roots: Roots) -> Path | None:
    """That of `found` (headless files, in place or set aside) which an attachment's record would be."""
    listed = {path.name: path for path in found}
    for plugin in plugins if listed else ():
        path = path_of(roots, identity, plugin)
        here = listed.get(path.name)
        if here is not None and here.parent.name == path.parent.name:
            return here
        if _aside(path) in listed:
            return listed[_aside(path)]
    return None


def _aside(path: Path) -> str:
    return f"{path.parent.name}-{path.name}"


def blank(roots: Roots, network: str) -> Iterator[Path]:
    """The files of one network without a readable head: their ADD died before it changed anything, or is
    about to write."""
    for path in _entries(folder(roots, network)):
        try:
            contents = _parse(path.read_bytes())
        except OSError:
            continue
        if contents is None:
            yield path


def _entries(place: Path) -> list[Path]:
    return [place / name for name in _names(place)]


def _names(place: Path) -> list[str]:
    try:
        return sorted(os.listdir(place))
    except (FileNotFoundError, NotADirectoryError):
        return []


def step_line(kind: str, number: int, args: JsonObject) -> JsonObject:
    return {"step": kind, "id": number, "args": args}


def undone_line(number: int) -> JsonObject:
    return {"undone": number}


def result_line(result: JsonObject, revision: int) -> JsonObject:
    return {"result": result, "revision": revision}


def added_line(result: JsonObject, revision: int) -> JsonObject:
    """An ADD is complete, by now."""
    return result_line(result, revision) | {"ended": boot.elapsed()}


def update_line(keys: Sequence[str], after: int) -> JsonObject:
    """An update of `keys` begins, or (without any) the open one was taken back."""
    return {"update": list(keys), "after": after} if keys else {"update": [], "after": None}


def updated_line(
    result: JsonObject, revision: int, config: JsonObject, steps: Sequence[JsonObject], going: Iterable[int]
) -> JsonObject:
    """An update is complete. One line, because a torn one must not count: the record is what it was before,
    or all that an ADD of `config` would have written.
    """
    return result_line(result, revision) | {"config": config, "steps": list(steps), "going": sorted(going)}
