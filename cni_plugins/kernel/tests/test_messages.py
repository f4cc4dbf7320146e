"""The tables of messages.py against pyroute2's classes, byte for byte; and reading against pyroute2's
decoding.
"""

import importlib
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.kernel import addresses, links, routes, vlans
from cni_plugins.kernel.netlink import codec as messages
from cni_plugins.kernel.netlink import pyroute as lean
from cni_plugins.kernel.netlink.codec import ADDRESS, LINK, ROUTE
from cni_plugins.kernel.netlink.route import Message, Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.result import Route

CIDRS = ("10.1.2.3/24", "10.1.2.3/31", "10.1.2.3/32", "fd00::5/64")
ROUTES = (
    Route(ip_interface("0.0.0.0/0"), ip_address("10.0.0.1")),
    Route(ip_interface("::/0"), ip_address("fd00::1"), priority=7, mtu=1400, advmss=1200),
    Route(ip_interface("10.2.3.4/16"), None, table=1000, scope=253),
    Route(ip_interface("10.2.0.0/16"), None, table=0),
)


def built() -> list[Message]:
    veth = links.create_veth(
        "veth0", "eth0", 7, mtu=1400, mac="02:00:00:00:00:01", peer_mac="02:00:00:00:00:02", master=3
    )
    made = [
        veth,
        links.create_veth("v", "e", 7, mtu=0, mac="02:00:00:00:00:01", peer_mac="02:00:00:00:00:02"),
        links.create("br0", "bridge", [], address="02:00:00:00:00:01", flags=1),
        links.create("br0", "bridge", [("IFLA_BR_VLAN_FILTERING", 1)]),
        links.change(
            "eth0", 7, set_flags=1, clear_flags=0x100, mtu=1400, txqlen=5, address="02:00:00:00:00:01"
        ),
        links.change("br0", 0, ifalias="mesokit"),
        links.change_port("veth0", 7, hairpin=True, isolated=True),
        links.deletion("eth0"),
        vlans.trunk("veth0", 7, 5, 9),
    ]
    made += [addresses.add(7, ip_interface(text), dad=dad) for text in CIDRS for dad in (True, False)]
    made += [routes.add(route, 7) for route in ROUTES]
    return [*made, routes.add(ROUTES[0], 7, ip_address("10.0.0.5"))]


def test_tables_and_pyroute2_make_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [message.body for message in built()]

    def by_class(kind: Any, fields: Any, listed: Any) -> bytes:
        return messages._encode_by_class(messages._class_of(kind), fields, listed)

    for module in (links, addresses, routes, vlans):
        monkeypatch.setattr(module, "encode", by_class)
    theirs = [message.body for message in built()]
    assert ours == theirs


def test_the_fast_path_needs_no_pyroute2(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*modules: str) -> Any:
        raise AssertionError(f"{modules} were loaded")

    monkeypatch.setattr(lean, "load", refuse)
    links.create_veth(
        "veth0", "eth0", 7, mtu=1400, mac="02:00:00:00:00:01", peer_mac="02:00:00:00:00:02", master=3
    )
    links.create("br0", "bridge", [])
    for route in ROUTES:
        routes.add(route, 7)


def test_reading_agrees_with_pyroute2(namespace: Namespace) -> None:
    with Netlink(namespace, after(30)) as netlink:
        netlink.request(links.create("br0", "bridge", [], address="02:00:00:00:00:01", flags=1, mtu=1400))
        body = messages.encode(LINK, {}, [("IFLA_IFNAME", "br0")])
        (answer,) = netlink.request(Message("look", 18, 0, body))
        message, link = messages.decode(LINK, answer.packet), links.parse(answer.packet)
        assert (link.index, link.flags) == (message["index"], message["flags"])
        assert (link.name, link.mac, link.mtu) == tuple(
            message.get_attr(f"IFLA_{name}") for name in ("IFNAME", "ADDRESS", "MTU")
        )
        assert link.kind == message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND")
        for text in CIDRS:
            netlink.request(addresses.add(link.index, ip_interface(text)))
        packets = netlink.dump("list", 22, messages.encode(ADDRESS, {"index": link.index}, []))
        found = {messages.decode(ADDRESS, packet).get_attr("IFA_ADDRESS") for packet in packets}
        assert found == {str(item.address.ip) for item in addresses.of_link(netlink, link.index)}
        packets = netlink.dump("list", 26, messages.encode(ROUTE, {"family": 2}, []))
        gateways = [messages.decode(ROUTE, packet)["type"] for packet in packets]
        assert len([kind for kind in gateways if kind == 1]) == len(routes.every(netlink, 4))


def test_a_full_import_after_a_lean_one_is_whole() -> None:
    lean.load("netlink.rtnl.ifinfmsg")
    assert importlib.import_module("pyroute2").IPRoute is not None
