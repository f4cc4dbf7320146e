"""Debian's kernel in QEMU has what the kernel under these tests may lack, and each test a node of its own."""

from __future__ import annotations

import os

import pytest

from netns_tests.node import Node

LINKS = {
    "vlan": "link add v link eth0 type vlan id 5",
    "ipvlan": "link add v link eth0 type ipvlan mode l2",
    "macvlan": "link add v link eth0 type macvlan",
    "vrf": "link add v type vrf table 10",
    "dummy": "link add v type dummy",
    "bond": "link add v type bond mode active-backup",
    "vxlan": "link add v type vxlan id 7 dstport 4789 dev eth0",
    "geneve": "link add v type geneve id 7 remote 192.0.2.1",
    "wireguard": "link add v type wireguard",
    "ifb": "link add v type ifb",
}


def test_it_is_the_kernel_in_qemu() -> None:
    assert "MESOKIT_IN_QEMU" in os.environ
    assert os.uname().release.startswith("6.1.0-")


@pytest.mark.parametrize("kind", LINKS)
def test_links(node: Node, kind: str) -> None:
    node.uplink()
    node.shell(f"ip {LINKS[kind]}")
    (link,) = node.json("ip", "-j", "-d", "link", "show", "v")
    assert link["linkinfo"]["info_kind"] == kind


def test_bridge_vlan_filtering(node: Node) -> None:
    node.shell("ip link add br0 type bridge vlan_filtering 1")
    assert (
        node.json("ip", "-j", "-d", "link", "show", "br0")[0]["linkinfo"]["info_data"]["vlan_filtering"] == 1
    )


def test_connection_tracking_and_reject_in_the_bridge_family(node: Node) -> None:
    chain = "add table bridge t; add chain bridge t c { type filter hook input priority 0; }"
    rules = "add rule bridge t c ct state established accept; add rule bridge t c ip protocol tcp reject"
    node.run(["nft", f"{chain}; {rules}"])
    assert "ct state established" in node.run(["nft", "list", "table", "bridge", "t"]).text


def test_flowtable(node: Node) -> None:
    node.uplink()
    node.run(
        ["nft", "add table inet t; add flowtable inet t f { hook ingress priority 0; devices = { eth0 }; }"]
    )
    assert "flowtable f" in node.run(["nft", "list", "ruleset"]).text


@pytest.mark.parametrize("program", ["iptables-legacy", "iptables-nft", "ip6tables-legacy", "ip6tables-nft"])
def test_nat_tables(node: Node, program: str) -> None:
    node.run([program, "-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE"])
    assert "MASQUERADE" in node.run([program, "-t", "nat", "-S", "POSTROUTING"]).text


def test_nothing_of_another_test_is_there(node: Node) -> None:
    assert [link["ifname"] for link in node.json("ip", "-j", "link")] == ["lo"]
    assert node.run(["nft", "list", "ruleset"]).text == ""
