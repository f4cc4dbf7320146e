"""Short runs of chaos in both encodings; longer ones by `python -m executor.tests.chaos`."""

from __future__ import annotations

from executor.protocol import Encoding
from executor.tests.chaos.plan import plan
from executor.tests.chaos.run import run
from executor.tests.scenarios.scene import together


def test_a_seed_is_a_plan() -> None:
    assert plan(4, 60) == plan(4, 60)
    assert plan(4, 60)[:50] == plan(4, 90)[:50]
    assert plan(4, 60) != plan(5, 60)


def test_chaos() -> None:
    together(
        lambda: run(20, 15, Encoding.PROTOBUF),
        lambda: run(21, 15, Encoding.JSON),
    )
