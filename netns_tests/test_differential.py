"""The reference plugins and ours, side by side: the same configuration on two fresh nodes, everything
compared. And ours against themselves: with the node service behind them, and each call a process of its own.

All chosen cases run beforehand, a few at a time: many of them mostly wait (for duplicate address detection,
for a probe that must not be answered).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from netns_tests import observed
from netns_tests.case import Case
from netns_tests.cases import CASES
from netns_tests.compare import differences, observe
from netns_tests.differences import DIFFERENCES
from netns_tests.node import Node
from netns_tests.plugins import service

WORKERS = 4

Seen = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Views:
    """One case as the reference does it, and ours in both ways."""

    reference: Future[Seen]
    ours: Future[Seen]
    alone: Future[Seen]

    def differences(self) -> list[str]:
        return differences(self.reference.result(), self.ours.result())


def _alone(case: Case, folder: str) -> Seen:
    with Node() as node:
        return observe(node, folder, case)


def _reference(case: Case, folder: str) -> Seen:
    """As it was seen before, or as it is now."""
    return observed.load(case) or _alone(case, folder)


def _with_service(case: Case, folder: str) -> Seen:
    with Node() as node, service(node):
        return observe(node, folder, case)


@pytest.fixture(scope="session")
def views(request: pytest.FixtureRequest, ours: str, reference: str) -> Iterator[dict[str, Views]]:
    chosen = {
        case.name for case in CASES if any(f"[{case.name}]" in item.name for item in request.session.items)
    }
    if not chosen:  # only the list of differences is tested: it speaks of all
        chosen = {case.name for case in CASES}
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {
            case.name: Views(
                pool.submit(_reference, case, reference),
                pool.submit(_with_service, case, ours),
                pool.submit(_alone, case, ours),
            )
            for case in CASES
            if case.name in chosen
        }
        pool.shutdown(cancel_futures=True)


def _unexplained(case: Case, lines: list[str]) -> list[str]:
    return [
        line for line in lines if not any(difference.explains(case.name, line) for difference in DIFFERENCES)
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.timeout(600)
def test_same_as_the_reference(case: Case, views: Mapping[str, Views], reference: str) -> None:
    view = views[case.name]
    unexplained = _unexplained(case, view.differences())
    if not unexplained:
        observed.store(case, view.reference.result())
    elif observed.load(case) is not None:
        observed.forget(case)
        unexplained = _unexplained(case, differences(_alone(case, reference), view.ours.result()))
    assert not unexplained, "\n".join(line[:300] for line in unexplained[:60])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.timeout(600)
def test_the_same_without_the_service(case: Case, views: Mapping[str, Views]) -> None:
    """Results, errors, records, and what is left."""
    assert views[case.name].alone.result() == views[case.name].ours.result()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(DIFFERENCES)))
def test_every_listed_difference_exists(number: int, views: Mapping[str, Views]) -> None:
    difference = DIFFERENCES[number]
    assert difference.reason
    assert any(
        difference.explains(name, line) for name, view in views.items() for line in view.differences()
    ), difference
