"""The reference plugins and ours, side by side: the same configuration on two fresh nodes, everything
compared.

All chosen cases run beforehand, a few at a time: many of them mostly wait (for duplicate address detection,
for a probe that must not be answered).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from netns_tests.case import Case
from netns_tests.cases import CASES
from netns_tests.compare import differences, observe
from netns_tests.differences import DIFFERENCES
from netns_tests.node import Node
from netns_tests.plugins import service

WORKERS = 4

Seen = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Pair:
    reference: Future[Seen]
    ours: Future[Seen]

    def differences(self) -> list[str]:
        return differences(self.reference.result(), self.ours.result())


def _with_reference(case: Case, folder: str) -> Seen:
    with Node() as node:
        return observe(node, folder, case)


def _with_ours(case: Case, folder: str) -> Seen:
    with Node() as node, service(node):
        return observe(node, folder, case)


@pytest.fixture(scope="session")
def pairs(request: pytest.FixtureRequest, ours: str, reference: str) -> Iterator[dict[str, Pair]]:
    chosen = {
        case.name for case in CASES if any(f"[{case.name}]" in item.name for item in request.session.items)
    }
    if not chosen:  # only the list of differences is tested: it speaks of all
        chosen = {case.name for case in CASES}
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {
            case.name: Pair(
                pool.submit(_with_reference, case, reference), pool.submit(_with_ours, case, ours)
            )
            for case in CASES
            if case.name in chosen
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.timeout(600)
def test_same_as_the_reference(case: Case, pairs: Mapping[str, Pair]) -> None:
    unexplained = [
        line
        for line in pairs[case.name].differences()
        if not any(difference.explains(case.name, line) for difference in DIFFERENCES)
    ]
    assert not unexplained, "\n".join(line[:300] for line in unexplained[:60])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(DIFFERENCES)))
def test_every_listed_difference_exists(number: int, pairs: Mapping[str, Pair]) -> None:
    difference = DIFFERENCES[number]
    assert difference.reason
    assert any(
        difference.explains(name, line) for name, pair in pairs.items() for line in pair.differences()
    ), difference
