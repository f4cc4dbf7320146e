"""bridge with VLANs, on a kernel that has vlan_filtering."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from netns_tests.case import bridge, local
from netns_tests.node import Netns, Node

pytestmark = pytest.mark.timeout(400)


def conf(**keys: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "name": "net", **bridge(local("10.9.0.0/24"), **keys)}


def links(node: Node) -> list[str]:
    return [link["ifname"] for link in node.json("ip", "-j", "link")]


@contextmanager
def attached(
    node: Node, plugins: str, **containers: dict[str, Any]
) -> Iterator[tuple[dict[str, Netns], dict[str, dict[str, Any]]]]:
    """Containers by name with their configurations; yields their namespaces and results, deletes them, and
    looks that no link is left."""
    before = links(node)
    boxes = {name: node.netns(name) for name in containers}

    def call(verb: str, name: str, document: dict[str, Any]) -> Any:
        return node.cni(verb, f"{plugins}/bridge", document, name, boxes[name])

    try:
        results = {name: call("ADD", name, each).ok() for name, each in containers.items()}
        yield boxes, results
        for name, each in containers.items():
            assert call("CHECK", name, {**each, "prevResult": results[name]}).error is None
    finally:
        for name, each in containers.items():
            assert call("DEL", name, each).error is None
    assert links(node) == before


def vlans(node: Node, port: str) -> dict[int, list[str]]:
    """VLAN ids of a port with their flags."""
    found: dict[int, list[str]] = {}
    for entry in node.json("bridge", "-j", "vlan", "show", "dev", port):
        for vlan in entry["vlans"]:
            for number in range(vlan["vlan"], vlan.get("vlanEnd", vlan["vlan"]) + 1):
                found[number] = sorted(vlan.get("flags", []))
    return found


def filtering(node: Node) -> int:
    number: int = node.json("ip", "-j", "-d", "link", "show", "br0")[0]["linkinfo"]["info_data"][
        "vlan_filtering"
    ]
    return number


def address(result: dict[str, Any]) -> str:
    text: str = result["ips"][0]["address"]
    return text.partition("/")[0]


def host_port(result: dict[str, Any]) -> str:
    name: str = result["interfaces"][1]["name"]
    return name


UNTAGGED = ["Egress Untagged", "PVID"]


def test_vlan_of_a_port(node: Node, plugins: str) -> None:
    with attached(node, plugins, a=conf(vlan=100), b=conf(vlan=100), c=conf(vlan=200)) as (boxes, results):
        assert filtering(node) == 1
        assert vlans(node, host_port(results["a"])) == {100: UNTAGGED}
        assert vlans(node, host_port(results["c"])) == {200: UNTAGGED}
        assert boxes["a"].ping(address(results["b"]))
        assert not boxes["a"].ping(address(results["c"]), seconds=0)


def test_the_default_vlan_can_be_kept(node: Node, plugins: str) -> None:
    with attached(node, plugins, a=conf(vlan=100, preserveDefaultVlan=True)) as (_, results):
        found = vlans(node, host_port(results["a"]))
        assert found.keys() == {1, 100}
        assert "PVID" in found[100]


def test_trunk(node: Node, plugins: str) -> None:
    trunk = [{"id": 5}, {"minID": 10, "maxID": 12}]
    with attached(node, plugins, a=conf(vlanTrunk=trunk), b=conf(vlan=100, vlanTrunk=trunk)) as (_, results):
        tagged: dict[int, list[str]] = {number: [] for number in (5, 10, 11, 12)}
        assert vlans(node, host_port(results["a"])) == {1: UNTAGGED, **tagged}
        assert vlans(node, host_port(results["b"])) == {100: UNTAGGED, **tagged}


def test_gateway_of_a_vlan_goes_with_its_last_user(node: Node, plugins: str) -> None:
    gateway = conf(vlan=100, isDefaultGateway=True)
    with attached(node, plugins, a=gateway, b=gateway) as (boxes, results):
        (link,) = node.json("ip", "-j", "-4", "addr", "show", "br0.100")
        assert link["addr_info"][0]["local"] == "10.9.0.1"
        assert "br0.100" in [interface["name"] for interface in results["a"]["interfaces"]]
        assert boxes["a"].ping("10.9.0.1")
        assert boxes["b"].ping(address(results["a"]))
    assert "br0.100" not in links(node)


def test_the_gateway_of_a_vlan_has_its_own_address_at_once(node: Node, ours: str) -> None:
    """What it forwards waited two seconds for it (see test_ipv6_gateway)."""
    gateway = conf(vlan=100, isDefaultGateway=True)
    with attached(node, ours, a=gateway):
        told = node.shell("ip -6 address show dev br0.100 scope link")
        assert "nodad" in told and told.count("inet6") == 1
        assert node.shell("sysctl -n net.ipv6.conf.br0/100.accept_ra").strip() == "0"


def test_a_bridge_without_filtering_is_refused_or_turned_on(node: Node, plugins: str) -> None:
    node.shell("ip link add br0 type bridge; ip link set br0 up")
    box = node.netns("a")
    try:
        answer = node.cni("ADD", f"{plugins}/bridge", conf(vlan=100), "a", box)
        assert answer.error is not None or filtering(node) == 1
    finally:
        assert node.cni("DEL", f"{plugins}/bridge", conf(vlan=100), "a", box).error is None
