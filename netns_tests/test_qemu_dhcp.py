"""dhcp on links that only Debian's kernel has."""

from __future__ import annotations

import pytest

from netns_tests.dhcp_lan import SERVER, address_of, dnsmasq, lan, leases, macvlan, udhcpd
from netns_tests.node import Node
from netns_tests.plugins import service

pytestmark = pytest.mark.timeout(400)


def test_ipvlan_asks_for_broadcast(node: Node, ours: str) -> None:
    """All containers have the master's MAC address there: the server tells them apart by the identifier, and
    answers by broadcast, because no address leads to one that has none yet."""
    conf = {**macvlan(), "type": "ipvlan"}
    boxes = [node.netns(f"c{number}") for number in (1, 2)]
    with lan(node) as server, service(node), dnsmasq(server):
        for box in boxes:
            result = node.cni("ADD", f"{ours}/ipvlan", conf, box.name, box).ok()
            assert address_of(box) == [ip["address"] for ip in result["ips"]]
            assert box.ping(SERVER)
        assert address_of(boxes[0]) != address_of(boxes[1])
        for box in boxes:
            node.cni("DEL", f"{ours}/ipvlan", conf, box.name, box).ok()
        assert leases(node) == []


def test_a_server_that_goes_by_mac_addresses_is_told(node: Node, ours: str) -> None:
    """The second container would get the first one's address; giving it back would take it from that."""
    conf = {**macvlan(), "type": "ipvlan"}
    first, second = node.netns("c1"), node.netns("c2")
    with lan(node) as server, service(node), udhcpd(server, seconds=60):
        (ip,) = node.cni("ADD", f"{ours}/ipvlan", conf, "c1", first).ok()["ips"]
        refused = node.cni("ADD", f"{ours}/ipvlan", conf, "c2", second)
        assert refused.code == 7
        assert f"the address of container c1, {ip['address']}, to c2" in str(refused.error)
        assert [lease["container"] for lease in leases(node)] == ["c1"]
        assert first.ping(SERVER)
