"""The rules by which Mesos finds networks in a directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from executor.local_agent.cni import NetworkError, find_plugin, scan


@pytest.fixture
def plugins(tmp_path: Path) -> str:
    folders = [tmp_path / "plugins-a", tmp_path / "plugins-b"]
    for folder in folders:
        folder.mkdir()
    for path in (folders[0] / "bridge", folders[1] / "bridge", folders[1] / "host-local"):
        path.write_text("")
        path.chmod(0o755)
    (folders[0] / "host-local").write_text("not executable")
    return ":".join(map(str, folders))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "net.d"
    folder.mkdir()
    return folder


def write(directory: Path, name: str, document: object) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    (directory / name).write_text(text)


def test_every_regular_file_counts_whatever_its_suffix(directory: Path, plugins: str) -> None:
    for number, name in enumerate(("a", "b.conf", "c.txt", "d.json~")):
        write(directory, name, {"name": f"net-{number}", "type": "bridge"})
    (directory / "folder").mkdir()
    assert sorted(scan(directory, plugins).by_name) == ["net-0", "net-1", "net-2", "net-3"]


def test_first_file_of_a_name_wins(directory: Path, plugins: str) -> None:
    write(directory, "2", {"name": "a", "type": "bridge", "mtu": 2})
    write(directory, "1", {"name": "a", "type": "bridge", "mtu": 1})
    networks = scan(directory, plugins)
    assert networks.find("a").document["mtu"] == 1
    assert "is already that of 1, which wins" in networks.skipped[0]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"name": "a", "plugins": [{"type": "bridge"}]}, 'list of plugins (conflist).*"type": "chain"'),
        ({"type": "bridge"}, "name: missing: expected a string"),
        ({"name": "a"}, "type: missing: expected a string"),
        ({"name": 1, "type": "bridge"}, "name: 1: expected a string"),
        ({"name": "a/b", "type": "bridge"}, "name: 'a/b'"),
        ({"name": "a", "type": "bridge", "ipam": {}}, "ipam.type: missing.*leave ipam out"),
        ({"name": "a", "type": "bridge", "ipam": {"type": "x", "routes": [{}]}}, "routes.0..dst: missing"),
        ({"name": "a", "type": "bridge", "dns": {"nameservers": "1.1.1.1"}}, "dns.nameservers"),
        ({"name": "a", "type": "bridge", "args": {"org.apache.mesos": {}}}, "org.apache.mesos: reserved"),
        ({"name": "a", "type": "macvlan"}, "type 'macvlan': no executable"),
        ({"name": "a", "type": "bridge", "ipam": {"type": "dhcp"}}, "ipam.type 'dhcp': no executable"),
        ([1], "is not a JSON object"),
        ("{", "line 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_skipped_with_its_reason(
    directory: Path, plugins: str, document: object, reason: str
) -> None:
    write(directory, "x.conf", document)
    networks = scan(directory, plugins)
    assert not networks.by_name
    with pytest.raises(NetworkError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        networks.find("a")


def test_null_is_unset_and_unknown_keys_are_nobodys_business(directory: Path, plugins: str) -> None:
    write(directory, "x", {"name": "a", "type": "bridge", "ipam": None, "dns": None, "colour": "red"})
    assert scan(directory, plugins).find("a").document["colour"] == "red"


def test_an_unknown_name_is_met_with_the_nearest(directory: Path, plugins: str) -> None:
    write(directory, "x", {"name": "data-net", "type": "bridge"})
    with pytest.raises(NetworkError, match=r"no network 'data_net' in .*: expected 'data-net'"):
        scan(directory, plugins).find("data_net")


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="No such file"):
        scan(tmp_path / "nothing", "")


def test_plugins_are_found_along_the_path_if_executable(plugins: str) -> None:
    first, second = plugins.split(":")
    assert find_plugin("bridge", plugins) == Path(first, "bridge")
    assert find_plugin("host-local", plugins) == Path(second, "host-local")
    assert find_plugin("../bridge", plugins) is None
    assert find_plugin("", plugins) is None
