"""Documents: links lead somewhere, and what differs from the reference plugins is as it says.

That the tests which they name are there is in test_findings.py.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cni_plugins.cli.main import main
from cni_plugins.plugins.registry import MODULES

TOP = Path(__file__).resolve().parents[2]
DIFFERENCES = (TOP / "cni_plugins/DIFFERENCES.md").read_text()
DOCUMENTS = (
    "SECURITY.md",
    "README.md",
    "cni_plugins/README.md",
    "cni_plugins/DIFFERENCES.md",
    "cni_plugins/MASQUERADE.md",
    "cni_plugins/RUNTIMES.md",
    "cni_plugins/cli/README.md",
    "executor/local_agent/README.md",
    "executor/local_agent/TASK.md",
)


def test_what_is_missing_is_missing(tmp_path: Path) -> None:
    for name in ("win-bridge", "win-overlay", "sample"):
        assert f"`{name}`" in DIFFERENCES
        assert name not in MODULES
    (example,) = re.findall(r"```json\n(.*?)```", DIFFERENCES, re.DOTALL)
    path = tmp_path / "data-net.conf"
    path.write_text(example)
    told = CliRunner().invoke(main, ["cni", "validate", os.fspath(path), "--json"])
    assert [each for each in json.loads(told.stdout)["problems"] if each["kind"] != "missing"] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (TOP / document).read_text()):
        if "://" not in target:
            assert (TOP / document).parent.joinpath(target).exists(), target
