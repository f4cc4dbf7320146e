"""MASQUERADE.md says what the kernel shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.conftest import World

TEXT = (Path(__file__).resolve().parents[2] / "MASQUERADE.md").read_text()


@pytest.fixture
def example() -> Any:
    (block,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    return json.loads(block)


def test_the_rules_of_the_document_are_those_of_the_kernel(world: World, example: Any) -> None:
    world.add(example)
    (block,) = re.findall(r"```nft\n(.*?)```", TEXT, re.DOTALL)
    told = re.findall(r"chain (\S+) {\n(.*?)}", block, re.DOTALL)
    assert [name for name, _ in told] == ["postrouting", "leave_10.50.0.0/16"]
    for name, rules in told:
        shown = world.run("nft", "list", "chain", "inet", "mesokit", name)
        there = [line.strip() for line in shown.splitlines()]
        places = [there.index(rule.strip()) for rule in rules.splitlines()]
        assert places == sorted(places)
    element = world.run("nft", "list", "map", "inet", "mesokit", "masquerade4")
    for word in ("app-net", "eth0", "c1"):
        assert word in element
    world.delete(example)
    assert "mesokit" not in world.run("nft", "list", "ruleset")


def test_the_other_backend_makes_a_chain_of_the_reference(world: World, example: Any) -> None:
    world.add(example | {"ipMasqBackend": "iptables"})
    rules = world.run("iptables-save", "-t", "nat").splitlines()
    (chain,) = {match[1] for line in rules if (match := re.match(r"-A (CNI-\w+) ", line))}
    assert any(
        line.startswith(f"-A {chain} -d 10.50.0.0/16 ") and line.endswith("-j ACCEPT") for line in rules
    )
    assert any("! -d 224.0.0.0/4" in line and line.endswith("-j MASQUERADE") for line in rules)
    (jump,) = [line for line in rules if line.startswith("-A POSTROUTING ")]
    assert "-s 10.50.0.2/32" in jump
    assert jump.endswith(f"-j {chain}")
