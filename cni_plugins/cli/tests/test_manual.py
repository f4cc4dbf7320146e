"""The manual: every plugin has a page that says what it makes, and MANUAL.md holds what the code says."""

import json
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cni_plugins.cli import manual
from cni_plugins.cli.main import main
from cni_plugins.plugins.main import ptp
from cni_plugins.plugins.registry import MODULES
from cni_plugins.spec.config import COMMON_KEYS

MANUAL = Path(__file__).resolve().parents[2] / "MANUAL.md"


def test_the_manual_is_fresh() -> None:
    text = MANUAL.read_text()
    assert manual.renewed(text) == text, "stale: run `mesokit cni help --into cni_plugins/MANUAL.md`"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_plugin_explains_itself(name: str) -> None:
    page = manual.page(name)
    assert page.name == name
    assert len(page.text.splitlines()) > 2, "the module's docstring says what the plugin makes"
    assert f'"type": "{name}"' in page.text, "the module's docstring has an example"
    for row in page.rows:
        assert row.about, f"{row.path} says nothing of itself"


def test_help_in_three_forms() -> None:
    run = CliRunner()
    listed = run.invoke(main, ["cni", "help"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in MODULES)
    page = json.loads(run.invoke(main, ["cni", "help", "static", "--json"]).output)
    assert {
        "key": "ipam.addresses",
        "value": "list of object",
        "default": "",
        "about": page["keys"][0]["about"],
    } in page["keys"]
    assert "ipam.addresses[].gateway (IP address)" in run.invoke(main, ["cni", "help", "static"]).output


def test_an_unknown_plugin_is_named_with_the_nearest() -> None:
    answer = CliRunner().invoke(main, ["cni", "help", "brige"])
    assert answer.exit_code == 2
    assert "'brige'" in answer.output


def examples(text: str) -> list[str]:
    """The JSON documents in a page: indented by four, as Markdown has it."""
    blocks = re.findall(r"(?:^ {4}.*\n?)+", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks if block.lstrip().startswith("{")]


def nested(config: Any) -> Iterator[dict[str, Any]]:
    """A configuration, and those within it."""
    yield config
    for inner in (*config.get("plugins", ()), *filter(None, [config.get("delegate")])):
        yield from nested(inner)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_examples_are_whole_networks_that_validate(name: str, tmp_path: Path) -> None:
    """What can be missing on a machine, a master or flanneld's file, is no fault of the example."""
    found = examples(manual.page(name).text)
    assert found
    for text in found:
        config = json.loads(text)
        assert config["cniVersion"] in manual.page(name).versions
        path = tmp_path / f"{config['name']}.{'conf' if 'type' in config else 'conflist'}"
        path.write_text(text)
        told = CliRunner().invoke(main, ["cni", "validate", os.fspath(path), "--json"])
        problems = json.loads(told.stdout)
        wrong = [each for each in problems["problems"] if each["kind"] != "missing"]
        assert wrong == []


def test_a_page_of_one_line_and_an_example_has_its_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptp, "__doc__", 'ptp: a pair.\n\n    {"type": "ptp"}\n')
    assert examples(manual.page("ptp").text) == ['{"type": "ptp"}']


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_gateway_in_an_example_is_somebodys(name: str) -> None:
    """On a bridge a gateway, and a default route to it, count only where the bridge has its address."""
    for text in examples(manual.page(name).text):
        for config in nested(json.loads(text)):
            if config.get("type") == "bridge" and "ipam" in config:
                assert config.get("isGateway") or config.get("isDefaultGateway"), text


def test_the_keys_of_every_network_are_all_in_the_manual() -> None:
    assert {key for key, *_ in manual.COMMON} == COMMON_KEYS
    told = manual.plain(manual.page("bridge")), manual.plain(manual.page("tuning"))
    for text, wanted in zip(told, ("ipam", "delegate"), strict=True):
        line = " ".join(text.partition("Beside its own,")[2].split())
        for key in (wanted, "cniVersion", "dns", "capabilities"):
            assert key in line
    for key in COMMON_KEYS:
        assert f"| `{key}` |" in manual.markdown()
