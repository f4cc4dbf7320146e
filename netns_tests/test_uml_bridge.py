"""bridge with VLANs, on a kernel that has vlan_filtering."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from netns_tests.case import bridge, local
from netns_tests.uml import Uml

pytestmark = pytest.mark.timeout(400)


def conf(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", **bridge(local("10.9.0.0/24"), **keys)}


@contextmanager
def attached(uml: Uml, **containers: dict[str, Any]) -> Iterator[dict[str, dict[str, Any]]]:
    """Containers by name with their configurations; yields their results, deletes them, and looks that no
    link is left."""
    links = uml.json("ip -j link")
    uml.shell("\n".join(f"ip netns add {name}" for name in containers))
    try:
        results = {name: uml.cni("ADD", "bridge", each, name, name).ok() for name, each in containers.items()}
        yield results
        for name, each in containers.items():
            checked = {**each, "prevResult": results[name]}
            assert uml.cni("CHECK", "bridge", checked, name, name).error is None
    finally:
        for name, each in containers.items():
            assert uml.cni("DEL", "bridge", each, name, name).error is None
        uml.shell("\n".join(f"ip netns del {name}" for name in containers))
    assert [link["ifname"] for link in uml.json("ip -j link")] == [link["ifname"] for link in links]


def vlans(uml: Uml, port: str) -> dict[int, list[str]]:
    """VLAN ids of a port with their flags."""
    found: dict[int, list[str]] = {}
    for entry in uml.json(f"bridge -j vlan show dev {port}"):
        for vlan in entry["vlans"]:
            for number in range(vlan["vlan"], vlan.get("vlanEnd", vlan["vlan"]) + 1):
                found[number] = sorted(vlan.get("flags", []))
    return found


def answers(uml: Uml, source: str, target: str) -> bool:
    ping = f"ip netns exec {source} busybox ping -c 1 -W 2 {target}"
    return uml.shell(f"{ping} || {ping} || exit 1", check=False).status == 0


def address(result: dict[str, Any]) -> str:
    text: str = result["ips"][0]["address"]
    return text.partition("/")[0]


def host_port(result: dict[str, Any]) -> str:
    name: str = result["interfaces"][1]["name"]
    return name


UNTAGGED = ["Egress Untagged", "PVID"]


def test_vlan_of_a_port(uml: Uml) -> None:
    with attached(uml, a=conf(vlan=100), b=conf(vlan=100), c=conf(vlan=200)) as results:
        assert uml.json("ip -j -d link show br0")[0]["linkinfo"]["info_data"]["vlan_filtering"] == 1
        assert vlans(uml, host_port(results["a"])) == {100: UNTAGGED}
        assert vlans(uml, host_port(results["c"])) == {200: UNTAGGED}
        assert answers(uml, "a", address(results["b"]))
        silent = f"ip netns exec a busybox ping -c 1 -W 1 {address(results['c'])}"
        assert uml.shell(silent, check=False).status != 0


def test_the_default_vlan_can_be_kept(uml: Uml) -> None:
    with attached(uml, a=conf(vlan=100, preserveDefaultVlan=True)) as results:
        found = vlans(uml, host_port(results["a"]))
        assert found.keys() == {1, 100}
        assert "PVID" in found[100]


def test_trunk(uml: Uml) -> None:
    trunk = [{"id": 5}, {"minID": 10, "maxID": 12}]
    with attached(uml, a=conf(vlanTrunk=trunk), b=conf(vlan=100, vlanTrunk=trunk)) as results:
        tagged: dict[int, list[str]] = {number: [] for number in (5, 10, 11, 12)}
        assert vlans(uml, host_port(results["a"])) == {1: UNTAGGED, **tagged}
        assert vlans(uml, host_port(results["b"])) == {100: UNTAGGED, **tagged}


def test_gateway_of_a_vlan_goes_with_its_last_user(uml: Uml) -> None:
    gateway = conf(vlan=100, isDefaultGateway=True)
    with attached(uml, a=gateway, b=gateway) as results:
        assert uml.json("ip -j -4 addr show br0.100")[0]["addr_info"][0]["local"] == "10.9.0.1"
        assert "br0.100" in [interface["name"] for interface in results["a"]["interfaces"]]
        assert answers(uml, "a", "10.9.0.1")
        assert answers(uml, "b", address(results["a"]))
    assert "br0.100" not in [link["ifname"] for link in uml.json("ip -j link")]


def test_a_bridge_without_filtering_is_refused_or_turned_on(uml: Uml) -> None:
    uml.shell("ip link add br0 type bridge; ip link set br0 up; ip netns add a")
    try:
        answer = uml.cni("ADD", "bridge", conf(vlan=100), "a", "a")
        filtering = uml.json("ip -j -d link show br0")[0]["linkinfo"]["info_data"]["vlan_filtering"]
        assert answer.error is not None or filtering == 1
    finally:
        assert uml.cni("DEL", "bridge", conf(vlan=100), "a", "a").error is None
        uml.shell("ip netns del a; ip link del br0")
