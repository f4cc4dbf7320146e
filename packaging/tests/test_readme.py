"""What the README promises: commands that are there, and an agent that its executors can reach."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cni_plugins.cli.main import COMMANDS, main

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


@pytest.mark.parametrize("name", ["data-net", "dev-net"])
def test_the_example_networks_validate_and_public_space_is_named(name: str) -> None:
    path = TOP / f"packaging/example/net.d/{name}.json"
    told = CliRunner().invoke(main, ["cni", "validate", os.fspath(path), "--json"])
    assert [each for each in json.loads(told.stdout)["problems"] if each["kind"] != "missing"] == []
    config = json.loads(path.read_text())
    assert config["cniVersion"]
    assert config["delegate"].get("isGateway") or config["delegate"].get("isDefaultGateway")
    subnet = config["delegate"]["ipam"]["subnet"]
    if not ipaddress.ip_network(subnet).is_private:
        for text in (README, (TOP / "packaging/bundle/documents.py").read_text()):
            assert f"{subnet}. That is public space" in text or f"{subnet}, which is public space" in text
