"""The manual: every plugin has a page that says what it makes, and MANUAL.md holds what the code says."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cni_plugins.cli import manual
from cni_plugins.cli.main import main
from cni_plugins.plugins.registry import MODULES

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
