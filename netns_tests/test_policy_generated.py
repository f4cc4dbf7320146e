"""Random policies, real packets: what arrives is what an evaluator says that knows nothing of the compiler.

Containers of both families on a bridge (network one), on routed pairs (two) and on a LAN by macvlan (three);
every pair is probed both ways (policy_world.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from netns_tests.plugins import make_folder
from netns_tests.policy_world import packets_arrive_where_the_evaluator_says


@pytest.mark.parametrize(
    "defaults",
    [
        {"one": "open", "two": "groups", "three": "groups"},
        {"one": "groups", "two": "isolated", "three": "open"},
    ],
    ids=str,
)
def test_packets_arrive_where_the_evaluator_says(
    defaults: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The count of probes is printed; `--policies 40` is the long form."""
    examples = int(request.config.getoption("--policies"))
    each = -(-500 // examples)  # 48: so that `explain` is asked 500 times
    count = packets_arrive_where_the_evaluator_says(
        make_folder(tmp_path), defaults, examples=examples, explained=each
    )
    print(f"{count} probes")  # noqa: T201 - the figure of the run
    assert count >= 400 * examples
