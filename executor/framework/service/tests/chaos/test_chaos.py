"""A slice of chaos; `python -m executor.framework.service.tests.chaos --seed N` plays a seed for longer."""

import asyncio
from pathlib import Path

import pytest

from executor.framework.service.tests.chaos.run import play


@pytest.mark.parametrize("seed", [1, 2])
def test_it_comes_to_be_as_it_is_wanted_after_any_chaos(tmp_path: Path, seed: int) -> None:
    asyncio.run(play(seed, 12.0, tmp_path, lambda _text: None))
