"""The reference plugins and ours, side by side, on a kernel that has the links they make (see
test_differential.py).
"""

from __future__ import annotations

import pytest

from netns_tests import observed
from netns_tests.case import Case
from netns_tests.cases_links import RARE
from netns_tests.compare import differences, observe
from netns_tests.differences import DIFFERENCES, RARE_DIFFERENCES
from netns_tests.node import Node
from netns_tests.plugins import service

pytestmark = pytest.mark.timeout(400)


def _alone(case: Case, folder: str) -> dict[str, str]:
    with Node() as node:
        return observe(node, folder, case)


def _unexplained(case: Case, theirs: dict[str, str], mine: dict[str, str]) -> list[str]:
    listed = (*DIFFERENCES, *RARE_DIFFERENCES)
    lines = differences(theirs, mine)
    return [line for line in lines if not any(difference.explains(case.name, line) for difference in listed)]


@pytest.mark.parametrize("case", RARE, ids=lambda case: case.name)
def test_same_as_the_reference(case: Case, ours: str, reference: str) -> None:
    """With the service and without."""
    before = observed.load(case)
    theirs = before or _alone(case, reference)
    with Node() as node, service(node):
        mine = observe(node, ours, case)
    alone = _alone(case, ours)
    unexplained = _unexplained(case, theirs, mine)
    if unexplained and before is not None:
        observed.forget(case)
        theirs = _alone(case, reference)
        unexplained = _unexplained(case, theirs, mine)
    if not unexplained:
        observed.store(case, theirs)
    assert not unexplained, "\n".join(line[:300] for line in unexplained[:60])
    assert alone == mine
