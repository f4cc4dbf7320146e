"""Commands that look at the node import what they need: the rest would be half of the time they take."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from cni_plugins.cli.version import version

TOP = Path(__file__).resolve().parents[3]
LOOKS = ("check", "doctor", "events", "exec", "gc", "graph", "inspect", "ip", "ls")
#: A client of DHCP, the calls of plugins, the plugins, what applies policy, and e-mail (importlib.metadata).
NEVER = (
    "cni_plugins.dhcp.client6",
    "cni_plugins.plugins.main",
    "cni_plugins.steps.policy_state",
    "email.message",
)
#: Of `inspect`, which goes step by step, it is all it needs.
FOR_STEPS = "cni_plugins.attach.lifecycle"


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_imports_no_more_than_it_needs(name: str) -> None:
    script = f"import sys, cni_plugins.cli.main, cni_plugins.cli.{name}; print(*sys.modules, sep='\\n')"
    answer = subprocess.run([sys.executable, "-c", script], cwd=TOP, check=True, stdout=subprocess.PIPE)
    loaded = answer.stdout.decode().split()
    unwanted = NEVER if name == "inspect" else (*NEVER, FOR_STEPS)
    assert [module for module in loaded if module in unwanted] == []


def test_the_version_is_the_distributions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert version() == metadata.version("mesokit")
    (tmp_path / "mesokit-9.8.7.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "missing"), str(tmp_path), *sys.path])
    assert version() == "9.8.7"
