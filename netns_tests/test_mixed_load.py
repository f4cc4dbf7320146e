"""Half a minute of what `python -m netns_tests.mixed_load` does for as long as one likes."""

from __future__ import annotations

import pytest

from netns_tests.mixed_load import mixed, networks


@pytest.mark.timeout(400)
def test_every_plugin_at_once_killed_at_random(ours: str) -> None:
    done = mixed(ours, seconds=25, workers=4, seed=3)
    assert done["service lives"] > 1
    never = [name for name in networks() if not any(what.startswith(f"{name} ADD") for what in done)]
    assert not never
