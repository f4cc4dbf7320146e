"""Our own state: what is stale, what cannot be read, disks that are full."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cni_plugins.view.collect import plan
from cni_plugins.view.doctor.facts import Facts, Finding, Level

_LEAST_FREE = 0.02


def stale(facts: Facts) -> Iterator[Finding]:
    found = plan(facts.node, facts.roots, facts.host, facts.pools).stale
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


def hidden(facts: Facts) -> Iterator[Finding]:
    for sentence in facts.node.seen.hidden:
        yield Finding(
            "hidden", Level.UNKNOWN, "not all can be seen by this user", sentence, "sudo mesokit doctor"
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


CHECKS = (hidden, stale, full_disks)
