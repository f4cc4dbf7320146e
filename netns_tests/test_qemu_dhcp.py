"""dhcp on links that only Debian's kernel has."""

from __future__ import annotations

import pytest

from netns_tests.dhcp_lan import SERVER, address_of, lan, leases, macvlan, udhcpd
from netns_tests.node import Node, until
from netns_tests.plugins import service

pytestmark = pytest.mark.timeout(400)


def test_ipvlan_asks_for_broadcast(node: Node, ours: str) -> None:
    """All containers have the master's MAC address there: the server tells them apart by the identifier, and
    answers by broadcast, because no address leads to one that has none yet."""
    with lan(node) as server, service(node), udhcpd(server, seconds=60):
        conf = {**macvlan(), "type": "ipvlan"}
        boxes = [node.netns(f"c{number}") for number in (1, 2)]
        for box in boxes:
            result = node.cni("ADD", f"{ours}/ipvlan", conf, box.name, box).ok()
            assert address_of(box) == [ip["address"] for ip in result["ips"]]
            assert box.ping(SERVER)
        assert address_of(boxes[0]) != address_of(boxes[1])
        until(lambda: {item["state"] for item in leases(node)} == {"bound"}, what="both are renewed")
        for box in boxes:
            node.cni("DEL", f"{ours}/ipvlan", conf, box.name, box).ok()
        assert leases(node) == []
