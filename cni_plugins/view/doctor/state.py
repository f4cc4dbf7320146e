"""Our own state: what is stale, what cannot be read, disks that are full."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cni_plugins.steps import registry
from cni_plugins.store import records
from cni_plugins.view.attachments import Attachment
from cni_plugins.view.collect import leave_to_us, plan
from cni_plugins.view.doctor.facts import Facts, Finding, Level
from cni_plugins.view.pools import HIDDEN
from cni_plugins.view.runtimes import agents

_LEAST_FREE = 0.02
_SKEW = 60.0  # seconds that a clock may be set back without anybody being misled
_KINDS = frozenset(kind.value for kind in registry.Kind)


def stale(facts: Facts) -> Iterator[Finding]:
    todo = plan(facts.node, facts.roots, facts.sets, facts.pools)
    found = todo.stale
    if todo.awaited and not agents():
        one = todo.awaited[0]
        count = len(todo.awaited)
        yield Finding(
            "stale",
            Level.WARN,
            f"containers that are no more ({count}) are left to the Mesos agent, which would detach them, "
            "and none runs here",
            f"{one.container_id} on network {one.network}: {one.paths[0]}",
            f"systemctl start mesos-slave  # or, if none will come back: {leave_to_us(one.paths[0])}",
        )
    if todo.held:
        one, count = todo.held[0], len(todo.held)
        yield Finding(
            "stale",
            Level.FAIL,
            f"containers that are alive ({count}) cannot be reached by the paths of their network "
            "namespaces: nothing can be checked, changed or detached in them",
            f"{one.container_id} on network {one.network}: {one.about}",
            f"mesokit check {shlex.quote(one.container_id)}  # has the command that gives it its path back",
        )
    counts = Counter(item.what for item in found)
    if counts:
        what = ", ".join(
            f"{count} {name}{'s' if count > 1 else ''}" for name, count in sorted(counts.items())
        )
        first = found[0]
        yield Finding(
            "stale",
            Level.WARN,
            f"containers that are no more left something behind: {what}",
            f"{first.what} of {first.container_id} on network {first.network}: {first.about}",
            "mesokit gc",
        )


def unreadable_records(facts: Facts) -> Iterator[Finding]:
    spoilt = facts.node.seen.unreadable()
    if spoilt:
        count = len(spoilt)
        yield Finding(
            "unreadable-records",
            Level.FAIL,
            f"{count} attachment record{'s' if count > 1 else ''} cannot be read: of their containers "
            "nothing is known here, and what they have is left alone",
            ", ".join(map(str, spoilt[:3])) + (", …" if count > 3 else ""),
            "end their containers (mesokit ls lists none), start them anew, then: mesokit gc --forget",
        )


def newer_records(facts: Facts) -> Iterator[Finding]:
    newer = [
        item
        for item in facts.node.attachments
        if any(each.version > records.VERSION for each in item.contents)
        or any("step" in line and line["step"] not in _KINDS for line in item.steps)
    ]
    if newer:
        count = len(newer)
        yield Finding(
            "newer-records",
            Level.WARN,
            f"{count} attachment{'s were' if count > 1 else ' was'} made by a newer release than this one, "
            "which can neither check nor detach all of it",
            ", ".join(f"{item.container_id} on network {item.network}" for item in newer[:3]),
            "install that release again; mesokit --version tells this one's",
        )


def reservations(facts: Facts) -> Iterator[Finding]:
    """An address that its container no longer holds: the next one may get it."""
    held = {(pool.directory, one.address): one.container_id for pool in facts.pools for one in pool.held}
    lost: dict[str, list[tuple[Attachment, str]]] = {}
    for item in facts.living():
        for line in item.steps:
            arguments = line.get("args")
            if line.get("step") != "reservation" or not isinstance(arguments, dict):
                continue
            place, address = str(arguments.get("directory")), str(arguments.get("address"))
            if held.get((place, address)) not in {item.container_id, HIDDEN}:
                lost.setdefault(item.network, []).append((item, address))
    for network, found in lost.items():
        first, address = found[0]
        yield Finding(
            "reservations",
            Level.FAIL,
            f"{len(found)} address{'es' if len(found) > 1 else ''} of network {network} in use and not "
            "reserved: the next container may get the same",
            f"{address} of container {first.container_id}" + (" and others" if len(found) > 1 else ""),
            f"mesokit reload --network {shlex.quote(network)}",
        )


def hidden(facts: Facts) -> Iterator[Finding]:
    for sentence in facts.node.seen.hidden:
        yield Finding(
            "hidden", Level.UNKNOWN, "not all can be seen by this user", sentence, "sudo mesokit doctor"
        )


def clock(facts: Facts) -> Iterator[Finding]:
    """The wall clock was set back: what was attached is of the future, and `--since` shows too much. Leases
    and timers go by the time since the boot.
    """
    now = time.time()
    ahead = [item for item in facts.living() if item.since > now + _SKEW]
    if ahead:
        last = max(ahead, key=lambda item: item.since)
        seconds = round(last.since - now)
        yield Finding(
            "clock",
            Level.WARN,
            f"the clock of this host was set back: attachments ({len(ahead)}) have times up to {seconds} "
            "seconds from now; until then times and --since mislead",
            f"{last.container_id} on network {last.network}: "
            f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(last.since))}, and now is "
            f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))}",
            "timedatectl  # or chronyc tracking: is the clock right now? if not: chronyc makestep",
        )


def full_disks(facts: Facts) -> Iterator[Finding]:
    told = set()
    for place in (facts.roots.run, facts.roots.host_local, facts.roots.lib):
        here = _existing(place)
        status = os.statvfs(here)
        device = here.stat().st_dev
        bytes_left = status.f_bavail / status.f_blocks if status.f_blocks else 1.0
        files_left = status.f_favail / status.f_files if status.f_files else 1.0
        if min(bytes_left, files_left) < _LEAST_FREE and device not in told:
            told.add(device)
            what = "no room" if bytes_left < _LEAST_FREE else "no inodes"
            yield Finding(
                "full-disks",
                Level.FAIL if min(bytes_left, files_left) == 0 else Level.WARN,
                f"{here} has {what} left: attachments cannot be recorded",
                f"{status.f_bavail * status.f_frsize} bytes and {status.f_favail} inodes are free",
                f"du -x {here} | sort -n | tail",
            )


def _existing(place: Path) -> Path:
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


CHECKS = (hidden, unreadable_records, newer_records, reservations, stale, clock, full_disks)
