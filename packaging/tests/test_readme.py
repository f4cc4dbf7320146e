"""What the README promises: commands that are there, and an agent that its executors can reach."""

from __future__ import annotations

import re
from pathlib import Path

from cni_plugins.cli.main import COMMANDS

TOP = Path(__file__).resolve().parents[2]
README = (TOP / "README.md").read_text()


def test_the_agents_example_lets_executors_reach_the_agent() -> None:
    (flags,) = re.findall(r"^    (--network_cni_plugins_dir=.*)$", README, re.MULTILINE)
    assert "--http_executor_domain_sockets" in flags.split()


def test_every_command_that_is_named_is_there() -> None:
    named = set(re.findall(r"`mesokit ([a-z]+)", README)) | set(
        re.findall(r"^    mesokit ([a-z]+)", README, re.MULTILINE)
    )
    assert named - set(COMMANDS) == set()
    for path in re.findall(r"packaging/[a-z]+", README):
        assert (TOP / path).exists(), path
