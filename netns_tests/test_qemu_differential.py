"""The reference plugins and ours, side by side, on a kernel that has the links they make (see
test_differential.py).
"""

from __future__ import annotations

import pytest

from netns_tests.case import Case
from netns_tests.cases_links import RARE
from netns_tests.compare import differences, observe
from netns_tests.differences import DIFFERENCES, RARE_DIFFERENCES
from netns_tests.node import Node
from netns_tests.plugins import service

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("case", RARE, ids=lambda case: case.name)
def test_same_as_the_reference(case: Case, ours: str, reference: str) -> None:
    """With the service and without."""
    with Node() as node:
        theirs = observe(node, reference, case)
    with Node() as node, service(node):
        mine = observe(node, ours, case)
    with Node() as node:
        alone = observe(node, ours, case)
    listed = (*DIFFERENCES, *RARE_DIFFERENCES)
    unexplained = [
        line
        for line in differences(theirs, mine)
        if not any(difference.explains(case.name, line) for difference in listed)
    ]
    assert not unexplained, "\n".join(line[:300] for line in unexplained[:60])
    assert alone == mine
