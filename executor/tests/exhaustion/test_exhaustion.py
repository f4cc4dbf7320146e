"""An executor without threads, descriptors, memory or disk; for longer by `python -m
executor.tests.exhaustion`."""

from __future__ import annotations

import pytest

from executor.tests.exhaustion.life import live
from executor.tests.exhaustion.resources import (
    AddressSpace,
    Descriptors,
    Disk,
    Inodes,
    Resource,
    Threads,
    Warden,
)

SECONDS = 0.7


@pytest.mark.parametrize(
    ("wanting", "rotated"),
    [
        (Threads, False),
        (Threads, True),
        (Descriptors, False),
        (Descriptors, True),
        (AddressSpace, False),
        (AddressSpace, True),
        (Disk, True),
        (Inodes, True),
        (Warden, False),
    ],
)
def test_what_is_taken_away_for_a_while_costs_no_task_its_end(wanting: type[Resource], rotated: bool) -> None:
    live(wanting(), SECONDS, rotated=rotated)
