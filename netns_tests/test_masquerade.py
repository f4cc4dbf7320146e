"""Masquerading and the MAC spoof check on real packets, and taking over what the reference plugins made."""

from __future__ import annotations

from typing import Any

import pytest

from cni_plugins.kernel.nft import masquerade, owner
from cni_plugins.kernel.nft import reference as references
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import parse_cidr
from netns_tests.by_hand import OURS, Container, bridge, call, container, elements, host_of, unfilter_bridges
from netns_tests.node import Netns, Node
from netns_tests.snapshot import residue, snapshot
from netns_tests.traffic import ask, server

BACKENDS = ("nftables", "iptables")
RANGES = [[{"subnet": "10.61.0.0/24"}], [{"subnet": "fd61::/64"}]]


def masked(**keys: Any) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "masked",
        "type": "bridge",
        "bridge": "mask0",
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": {"type": "host-local", "ranges": RANGES},
    } | keys


def box(node: Node, number: int) -> Container:
    return Container(node.netns(f"c{number}"), number)


def world_with_a_way_back(node: Node) -> Netns:
    """So that packets which are not masqueraded are answered too, and show where they come from. The node
    forwards already, and its uplink has the link-local address that forwarding IPv6 takes."""
    world = node.uplink()
    node.shell(
        "ip addr add fe80::2/64 dev eth0 nodad\n"
        "echo 1 >/proc/sys/net/ipv4/ip_forward\n"
        "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding\n"
    )
    world.run(["ip", "route", "add", "10.61.0.0/24", "via", "192.0.2.2"])
    world.run(["ip", "-6", "route", "add", "fd61::/64", "via", "2001:db8::2"])
    return world


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_world_sees_the_host(node: Node, backend: str) -> None:
    world = world_with_a_way_back(node)
    first = box(node, 2)
    before = snapshot(node)
    document = masked(ipMasqBackend=backend)
    result = call(node, OURS, "ADD", first, document).ok()
    with server(world, "tcp", 80):
        assert ask(first.box, "tcp", "192.0.2.1", 80) == "192.0.2.2"
        assert ask(first.box, "tcp", "2001:db8::1", 80) == "2001:db8::2"
    assert call(node, OURS, "CHECK", first, document | {"prevResult": result}).code == 0
    assert call(node, OURS, "DEL", first, document).code == 0
    assert elements(node) == []
    assert "leave_10" not in node.shell("nft list ruleset")
    assert residue(node, before, allowed=[r"node: nft (table|chain) ip6? nat"]) == []


def test_without_ip_masq_the_world_sees_the_container(node: Node) -> None:
    world = world_with_a_way_back(node)
    first = box(node, 2)
    assert call(node, OURS, "ADD", first, masked(ipMasq=False)).code == 0
    with server(world, "tcp", 80):
        assert ask(first.box, "tcp", "192.0.2.1", 80) == "10.61.0.2"
        assert ask(first.box, "tcp", "2001:db8::1", 80) == "fd61::2"


def test_the_own_subnet_and_multicast_see_the_container(node: Node) -> None:
    """Routed, so that the packets pass by the rules: the neighbour of the same subnet is behind another
    interface."""
    unfilter_bridges(node)
    bridge(node)
    first = container(node, 2)
    other = node.netns("other")
    node.shell(
        "ip link add o0 type veth peer name eth0 netns other\n"
        "ip link set o0 up\n"
        "ip route add 10.88.0.200/32 dev o0\n"
        "ip -n other link set eth0 up\n"
        "ip -n other addr add 10.88.0.200/32 dev eth0\n"
        "ip -n other route add 10.88.0.0/24 dev eth0\n"
        "for i in br0 o0; do echo 1 >/proc/sys/net/ipv4/conf/$i/proxy_arp; done\n"
        "ip -n c2 route add 10.88.0.200/32 via 10.88.0.1\n"
    )
    identity = Identity("net", "cid2", "eth0")
    with host_of(node) as host, server(other, "tcp", 80):
        masquerade.add(host, identity, [parse_cidr("10.88.0.2/24")])
        assert ask(first.box, "tcp", "10.88.0.200", 80) == "10.88.0.2"
        masquerade.add(host, identity, [parse_cidr("10.88.0.2/25")])
        assert ask(first.box, "tcp", "10.88.0.200", 80) not in {None, "10.88.0.2"}


@pytest.mark.parametrize("reference_backend", ["iptables"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_del_removes_what_the_reference_masqueraded(
    node: Node, reference: str, backend: str, reference_backend: str
) -> None:
    first = box(node, 2)
    document = masked(macspoofchk=True)
    made = call(node, reference, "ADD", first, document)
    if made.code:  # Debian's 1.1.1 needs the program `nft` for macspoofchk
        document = masked()
        made = call(node, reference, "ADD", first, document)
    result = made.ok()
    assert "cid2" in node.shell("iptables-save -t nat")
    check = document | {"prevResult": result, "ipMasqBackend": backend}
    assert call(node, OURS, "CHECK", first, check).code == 0
    assert call(node, OURS, "DEL", first, document | {"ipMasqBackend": backend}).code == 0
    left = node.shell("iptables-save -t nat; ip6tables-save -t nat; nft list ruleset | grep cni-br || true")
    assert "cid2" not in left
    assert "\n:CNI-" not in left


def test_del_removes_the_references_nftables_rules(node: Node) -> None:
    """As release 1.9 writes them, for this container and for another one, which keeps its own."""
    mine, other = Identity("masked", "cid2", "eth0"), Identity("masked", "cid2.child", "eth0")
    lines = ["table inet cni_plugins_masquerade {", "chain masq_checks {"]
    for number, identity in enumerate((mine, other)):
        lines.append(
            f"ip saddr 10.61.0.{number + 2} ip daddr != 10.61.0.0/24 masquerade "
            f'comment "{owner.comment(identity)}"'
        )
    lines += ["}", "}"]
    for family in ("ip", "ip6"):
        lines += [f"table {family} cni_hostport {{", "chain hostports {"]
        lines += [
            f'tcp dport {80 + n} redirect comment "{cid}"' for n, cid in enumerate(("cid2", "cid2.child"))
        ]
        lines += ["}", "}"]
    lines += ["table bridge nat {", "chain PREROUTING {"]
    for identity in (mine, other):
        chain = f"cni-br-iface-{identity.container_id}-eth0"
        comment = f"macspoofchk-{identity.container_id}-eth0"
        lines += [f'iifname "v" jump {chain} comment "{comment}"']
    lines += ["}"]
    for identity in (mine, other):
        chain = f"cni-br-iface-{identity.container_id}-eth0"
        lines += [f"chain {chain} {{", f"jump {chain}-mac", "}", f"chain {chain}-mac {{", "drop", "}"]
    lines += ["}"]
    node.run(["nft", "-f", "-"], input="\n".join(lines) + "\n")
    with host_of(node) as host:
        assert references.has_masquerade(host, mine)
        assert references.has_ports(host, "cid2")
        assert references.has_spoof_check(host, mine)
        for _ in range(2):
            references.remove_masquerade(host, mine)
            references.remove_ports(host, "cid2")
            references.remove_spoof_check(host, mine)
        assert not references.has_spoof_check(host, mine)
        assert references.has_masquerade(host, other)
        assert references.has_ports(host, "cid2.child")
        assert references.has_spoof_check(host, other)
    ruleset = node.shell("nft list ruleset")
    assert ruleset.count("cid2.child") >= 6
    assert 'id: cid2"' not in ruleset
    assert "-cid2-" not in ruleset


def test_a_container_cannot_borrow_a_mac_address(node: Node) -> None:
    first, second = box(node, 2), box(node, 3)
    before = snapshot(node)
    document = masked(macspoofchk=True, ipMasq=False)
    for target in (first, second):
        assert call(node, OURS, "ADD", target, document).code == 0
    assert first.box.ping("10.61.0.3")
    first.box.run(["ip", "link", "set", "eth0", "address", "02:00:00:00:00:99"])
    assert not first.box.ping("10.61.0.3", seconds=0.5)
    for target in (first, second):
        assert call(node, OURS, "DEL", target, document).code == 0
    assert elements(node) == []
    assert residue(node, before) == []
