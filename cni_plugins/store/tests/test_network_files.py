"""A list's plugins that are in files beside it, as libcni 1.3 has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.cli import libcni
from cni_plugins.spec.errors import CniError
from cni_plugins.store import network_files

BRIDGE = {"type": "bridge"}
TUNING = {"type": "tuning"}


def made(folder: Path, document: dict[str, Any], **members: object) -> Path:
    path = folder / "net.conflist"
    path.write_text(json.dumps({"cniVersion": "1.0.0", "name": "net"} | document))
    (folder / "net").mkdir(exist_ok=True)
    for name, member in members.items():
        (folder / "net" / f"{name}.conf").write_text(json.dumps(member))
    return path


def kinds(path: Path) -> list[object]:
    return [plugin.get("type") for plugin in libcni.load(path).plugins]


def test_they_stand_behind_the_lists_own_by_name(tmp_path: Path) -> None:
    path = made(tmp_path, {"plugins": [BRIDGE]}, b={"type": "portmap"}, a=TUNING)
    (tmp_path / "net" / "c.json").write_text("no plugin's name")
    (tmp_path / "net" / "d.conf").mkdir()
    assert kinds(path) == ["bridge", "tuning", "portmap"]


def test_a_list_may_have_none_of_its_own(tmp_path: Path) -> None:
    assert kinds(made(tmp_path, {}, a=BRIDGE)) == ["bridge"]


@pytest.mark.parametrize("switch", [True, "true", "True"])
def test_a_list_may_want_none(tmp_path: Path, switch: object) -> None:
    path = made(tmp_path, {"plugins": [BRIDGE], "loadOnlyInlinedPlugins": switch}, a=TUNING)
    assert kinds(path) == ["bridge"]


@pytest.mark.parametrize("member", [[], "tuning", None])
def test_one_that_is_no_plugin_is_named(tmp_path: Path, member: object) -> None:
    with pytest.raises(CniError, match=r"a\.conf"):
        libcni.load(made(tmp_path, {"plugins": [BRIDGE]}, a=member))


@pytest.mark.parametrize("name", ["..", ".", "../net", "/etc", "", "a\0b", None, 7])
def test_a_name_leads_nowhere_else(tmp_path: Path, name: object) -> None:
    (tmp_path / "lists").mkdir()
    path = made(tmp_path / "lists", {"plugins": [BRIDGE], "name": name})
    (tmp_path / "a.conf").write_text(json.dumps(TUNING))
    assert network_files.beside(path, json.loads(path.read_text())) == []


@pytest.mark.parametrize(("value", "said"), [(True, True), ("TRUE", True), (False, False), (1, False)])
def test_a_switch_may_be_a_word(value: object, said: bool) -> None:
    assert network_files.says({"disablegc": value}, "disableGC") is said
