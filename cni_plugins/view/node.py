"""The node: attachments with their state, and the host's links and tasks beside them. No I/O, but for what
is wrong with a file that is no record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cni_plugins.kernel.links import Link
from cni_plugins.spec.identity import Identity
from cni_plugins.view.attachments import Attachment, State


@dataclass(frozen=True, slots=True)
class Task:
    """What a runtime says of a container: its tasks' names, and who says so (`mesos`, `mesokit run`, …).
    `short` is another name that it goes by: a pod's, without its namespace.
    """

    container_id: str
    names: tuple[str, ...]
    executor: str = ""
    framework: str = ""
    runtime: str = "mesos"
    short: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look told. `namespaces` holds device and inode of each path of a record, None where nothing is
    there; a path that may not be looked at is missing. `hidden` are sentences: what this user may not see.
    `headless` are files among the records that do not tell whose they are, and those set aside.
    """

    attachments: tuple[Attachment, ...]
    links: tuple[Link, ...]
    namespaces: Mapping[str, tuple[int, int] | None]
    host_id: tuple[int, int]
    boot: str
    tasks: Mapping[str, Task]
    hidden: tuple[str, ...] = ()
    headless: tuple[Path, ...] = ()

    def unreadable(self) -> list[Path]:
        """Of `headless` those that something was written to: not what an ADD that died early leaves."""
        return [path for path in self.headless if _is_spoilt(path)]


@dataclass(frozen=True, slots=True)
class Difference:
    """What of its network's `file` an attachment has not: `changes` can be made in place, `problems` say why
    others cannot. `command` brings it there; "" when nothing but a new attachment does. `time` is when it
    came to be, in seconds since the epoch.
    """

    file: str
    changes: tuple[str, ...]
    problems: tuple[str, ...]
    command: str
    time: float

    def __str__(self) -> str:
        return "; ".join((*self.changes, *self.problems))


@dataclass(frozen=True, slots=True)
class Node:
    """What was seen, indexed; `states` remembers what was worked out, `differences` what differences.py
    filled in for those who show it.
    """

    seen: Seen
    by_name: Mapping[str, Link] = field(default_factory=dict)
    by_index: Mapping[int, Link] = field(default_factory=dict)
    states: dict[Attachment, State] = field(default_factory=dict, compare=False, repr=False)
    differences: dict[Identity, Difference] = field(default_factory=dict, compare=False, repr=False)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        return self.seen.attachments

    def task(self, attachment: Attachment) -> Task | None:
        return self.seen.tasks.get(attachment.container_id)

    def difference(self, attachment: Attachment) -> Difference | None:
        return self.differences.get(attachment.identity)

    def here(self, attachment: Attachment) -> bool:
        """Whether it was made in this host namespace (records of version 1 do not say)."""
        return not attachment.host_id or attachment.host_id[:2] == self.seen.host_id

    def host_link(self, attachment: Attachment) -> Link | None:
        """The host's end of a pair, or the parent of a link that is in the container alone."""
        link = self.by_name.get(attachment.host_interface or attachment.parent)
        if link is None or (attachment.host_mac and link.mac != attachment.host_mac):
            return None
        return link

    def state(self, attachment: Attachment) -> State:
        found = self.states.get(attachment)
        if found is None:
            found = self.states[attachment] = self._state(attachment)
        return found

    def _state(self, attachment: Attachment) -> State:  # noqa: PLR0911 - a table of answers
        if not self.here(attachment):
            return State.ELSEWHERE
        if attachment.boot and self.seen.boot and attachment.boot != self.seen.boot:
            return State.STALE
        there = self.seen.namespaces.get(attachment.netns, ())
        if attachment.netns and there != () and not _same(attachment, there):
            return State.STALE
        if not attachment.complete:
            return State.UNFINISHED
        if attachment.host_interface or attachment.parent:
            link = self.host_link(attachment)
            if link is None:
                return State.BROKEN
            master = self.by_index.get(link.master)
            if attachment.host_interface and attachment.parent and _is_bridged(attachment):
                if master is None or master.name != attachment.parent:
                    return State.BROKEN
                if not master.up:
                    return State.DOWN
            if not link.up:
                return State.DOWN
        return State.UNKNOWN if there == () and attachment.netns else State.UP


def _same(attachment: Attachment, there: tuple[int, int] | tuple[()] | None) -> bool:
    return there is not None and (not attachment.netns_id or attachment.netns_id[:2] == there)


def _is_bridged(attachment: Attachment) -> bool:
    return any(line.get("step") in {"bridge-port", "bridge"} for line in attachment.steps)


def _is_spoilt(path: Path) -> bool:
    try:
        return b"\n" in path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:  # a directory, or a disk that does not answer
        return True


def node_of(seen: Seen) -> Node:
    return Node(seen, {link.name: link for link in seen.links}, {link.index: link for link in seen.links})
