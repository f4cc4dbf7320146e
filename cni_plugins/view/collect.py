"""What containers that are no more left behind (removal.py removes it).

Stale is: an attachment whose namespace is gone or whose ADD did not come through, a reservation of ours and
an element of our tables that no attachment has. What a runtime still keeps a note of is left to the runtime:
a Mesos agent detaches what its directories hold, podman and containerd (libcni) what they keep a result of
while its namespace is there. What an attachment has whose record cannot be read stays too: it may be alive.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET
from cni_plugins.kernel.nft import owner
from cni_plugins.kernel.nft.elements import Sets
from cni_plugins.plugins.registry import MODULES
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import open_namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.store import records
from cni_plugins.view.attachments import Attachment, State
from cni_plugins.view.load import namespaces
from cni_plugins.view.node import Node
from cni_plugins.view.pools import HIDDEN, Pool, pools
from cni_plugins.view.runtimes import Known, known

_NET = re.compile(r", net: (?P<network>[^,]+), if: (?P<ifname>[^,]*), id: (?P<container>.*)")


@dataclass(frozen=True, slots=True)
class Stale:
    """`what` is attachment, reservation or element; `about` says why or which. `paths` are the records."""

    what: str
    network: str
    container_id: str
    interface: str
    about: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What is stale, what stays of each network, and what is left alone, and told: what others reserved, and
    (with `paths`) what belongs to a record that cannot be read. `awaited` are attachments of containers that
    are no more which a Mesos agent has a note of, and will detach; `paths` are its notes. `held` are those
    whose namespace has no path any more, and a process that lives in it.
    """

    stale: tuple[Stale, ...]
    valid: Mapping[str, Sequence[Identity]]
    foreign: tuple[Stale, ...]
    listed_at: int  # nanoseconds of CLOCK_BOOTTIME
    awaited: tuple[Stale, ...] = ()
    held: tuple[Stale, ...] = ()

    @property
    def networks(self) -> list[str]:
        return sorted({item.network for item in self.stale})


def plan(node: Node, roots: Roots, sets: Sets, seen: Sequence[Pool] | None = None) -> Plan:
    """Look for what is stale; nothing is changed. `node` is older than what this returns: take it first, and
    then the pools, if they were `seen` already.
    """
    moment = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    noted = _noted(roots)
    stale, kept, awaited, alive = [], set(noted), [], []
    held = holders(item for item in node.attachments if node.state(item) is State.STALE)
    for item in node.attachments:
        state = node.state(item)
        note = noted.get(item.identity)
        if state is State.STALE and note is not None:
            about, place = "its network namespace is gone", Path(note.netns).parent
            awaited.append(Stale("attachment", item.network, item.container_id, item.ifname, about, (place,)))
        elif state is State.STALE and item.netns_id in held:
            pid = held[item.netns_id]
            alive.append(Stale("attachment", item.network, item.container_id, item.ifname, lives(item, pid)))
            kept.add(item.identity)
        elif state in {State.STALE, State.UNFINISHED} and note is None:
            why = "its network namespace is gone" if state is State.STALE else "its ADD did not come through"
            stale.append(Stale("attachment", item.network, item.container_id, item.ifname, why, item.paths))
        else:
            kept.add(item.identity)
    foreign = []
    for one, ours in _unowned(node, roots, sets, seen, kept):
        spoilt = _spoilt(one, node, roots)
        if ours and spoilt is None:
            stale.append(one)
        else:
            foreign.append(one if spoilt is None else spoilt)
            kept.add(Identity(one.network, one.container_id, one.interface))
    valid: dict[str, list[Identity]] = {}
    for identity in sorted(kept, key=lambda item: (item.network, item.container_id, item.ifname)):
        valid.setdefault(identity.network, []).append(identity)
    return Plan(tuple(stale), valid, tuple(foreign), moment, tuple(awaited), tuple(alive))


def _unowned(
    node: Node, roots: Roots, sets: Sets, seen: Sequence[Pool] | None, kept: set[Identity]
) -> Iterator[tuple[Stale, bool]]:
    """Reservations, then elements, that neither a record nor `kept`, as it is by then, has; whether they are
    ours.
    """
    recorded = {item.identity for item in node.attachments}
    for pool in pools(node, roots) if seen is None else seen:
        yield from _unheld(pool, recorded | kept)
    for one in _elements(sets, recorded | kept):
        yield one, True


def holders(items: Iterable[Attachment]) -> dict[tuple[int, ...], int]:
    """A process that lives in each network namespace of these attachments that some process lives in, by the
    namespace's fingerprint. One that the kernel gives no cookie is nobody's: its number may be another's now.
    """
    wanted = {item.netns_id[:2]: item.netns_id for item in items if len(item.netns_id) > 2}
    found: dict[tuple[int, ...], int] = {}
    for place in Path("/proc").glob("[0-9]*/ns/net") if wanted else ():
        with suppress(OSError, CniError):
            status = place.stat()
            identity = wanted.get((status.st_dev, status.st_ino))
            if identity is not None and identity not in found and _fingerprint(place) == identity:
                found[identity] = int(place.parts[2])
    return found


def _fingerprint(place: Path) -> tuple[int, ...]:
    namespace = open_namespace(str(place))
    if namespace is None:
        return ()
    try:
        return tuple(fingerprint(namespace))
    finally:
        os.close(namespace.fd)


def lives(item: Attachment, pid: int) -> str:
    return f"process {pid} lives in its network namespace, and {item.netns} does not lead there any more"


def lead_there(item: Attachment, pid: int) -> str:
    """What gives a namespace its path back."""
    path = shlex.quote(item.netns)
    return f"touch {path}; mount --bind /proc/{pid}/ns/net {path}"


def awaited(roots: Roots) -> dict[Identity, Path]:
    """The attachments that a Mesos agent has a note of, and the directory of each one's container: the agent
    will detach it.
    """
    return {item.identity: Path(item.netns).parent for item in known(roots) if item.runtime == "mesos"}


def leave_to_us(note: Path) -> str:
    """What makes an attachment that no agent will come back for ours to remove."""
    return f"rm -r {shlex.quote(str(note))}; mesokit gc"


def _noted(roots: Roots) -> dict[Identity, Known]:
    """What runtimes will detach themselves."""
    listed = known(roots)
    there = namespaces({item.netns for item in listed if item.netns})
    return {
        item.identity: item for item in listed if item.runtime == "mesos" or there.get(item.netns) is not None
    }


def _spoilt(item: Stale, node: Node, roots: Roots) -> Stale | None:
    """The same with its record, when that is there and cannot be read."""
    identity = Identity(item.network, item.container_id, item.interface)
    path = records.among(node.seen.headless, identity, MODULES, roots)
    if path is None:
        return None
    return replace(item, about=f"{item.about}; its record cannot be read: {path}", paths=(path,))


def _unheld(pool: Pool, owners: set[Identity]) -> Iterator[tuple[Stale, bool]]:
    """Reservations without an owner, and whether they are ours to give back."""
    containers = {(item.network, item.container_id) for item in owners}
    for held in pool.held:
        if held.container_id == HIDDEN:
            continue
        if held.interface:
            there = Identity(pool.network, held.container_id, held.interface) in owners
        else:
            there = (pool.network, held.container_id) in containers
        if not there:
            about = f"address {held.address}"
            yield Stale("reservation", pool.network, held.container_id, held.interface, about), held.ours


def _elements(sets: Sets, owners: set[Identity]) -> Iterator[Stale]:
    tags = {owner.tag(item) for item in owners}
    found: dict[tuple[str, str, str], list[str]] = {}
    for family in (NFPROTO_INET, NFPROTO_BRIDGE):
        for name, listed in sets.comments(family).items():
            for comment in listed:
                if comment.partition(",")[0] in tags:
                    continue
                match = _NET.search(comment)
                if match:
                    key = (match["network"], match["container"], match["ifname"])
                    found.setdefault(key, []).append(name)
    for (network, container, ifname), names in sorted(found.items()):
        yield Stale("element", network, container, ifname, f"in {', '.join(sorted(set(names)))}")
