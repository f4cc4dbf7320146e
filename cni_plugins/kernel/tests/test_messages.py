"""The tables of layouts.py against pyroute2's classes, byte for byte; and reading against pyroute2's
decoding.
"""

import importlib
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from cni_plugins.kernel import (
    addresses,
    conntrack,
    link_kinds,
    links,
    neighbours,
    routes,
    rules,
    shaping,
    vlans,
)
from cni_plugins.kernel.link_kinds import IpvlanFlag, IpvlanMode, MacvlanMode, VlanProtocol
from cni_plugins.kernel.neighbours import Neighbour, State
from cni_plugins.kernel.netlink import codec, pyroute
from cni_plugins.kernel.netlink.layouts import ADDRESS, LINK, ROUTE
from cni_plugins.kernel.netlink.route import Message, Netlink
from cni_plugins.kernel.nft import elements
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.rules import Rule
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
MAC = "02:00:00:00:00:01"
#: What pyroute2 does not know; the tests of their features show that the kernel takes them.
_UNKNOWN_TO_PYROUTE2 = {"TCA_TBF_BURST", "TCA_TBF_RATE64", "IFLA_MACVLAN_BC_QUEUE_LEN", "IFLA_IPVLAN_FLAGS"}


def _links() -> Iterator[Message]:
    yield links.create_veth("veth0", "eth0", 7, mtu=1400, mac=MAC, peer_mac=MAC, master=3)
    yield links.create_veth("v", "e", 7, mtu=0, mac=MAC, peer_mac=MAC)
    yield links.create("br0", "bridge", [], address=MAC, flags=1)
    yield links.create(
        "br0",
        "bridge",
        [("IFLA_BR_VLAN_FILTERING", 1), ("IFLA_BR_VLAN_DEFAULT_PVID", 0), ("IFLA_BR_STP_STATE", 0)],
    )
    yield links.create("ifb0", "ifb", txqlen=1000, mtu=1500)
    for mode in ("private", "vepa", "bridge", "passthru"):
        data: list[tuple[str, Any]] = [("IFLA_MACVLAN_MODE", mode), ("IFLA_MACVLAN_BC_QUEUE_LEN", 5)]
        yield links.create("m", "macvlan", data, link=3, net_ns_fd=7, address=MAC, mtu=1400)
    yield links.change("eth0", 7, set_flags=1, clear_flags=0x100, mtu=1400, txqlen=5, address=MAC)
    yield links.change("br0", 0, ifalias="mesokit")
    yield links.change("eth0", 7, ifname="eth1", net_ns_fd=9)
    yield links.change_port("veth0", 7, hairpin=True, isolated=True)
    yield links.deletion("eth0")
    yield links.deletion("eth0", 5)
    yield vlans.trunk("veth0", 7, 5, 9)
    yield vlans.access("veth0", 7, 5)
    yield vlans.leave("veth0", 7, 5)


def _kinds() -> Iterator[Message]:
    for mode in IpvlanMode:
        yield link_kinds.ipvlan("i", 3, mode, IpvlanFlag.PRIVATE, sandbox=7, mtu=1400)
    yield link_kinds.macvlan("m", 3, MacvlanMode.SOURCE, mac=MAC, queue=5)
    yield link_kinds.vlan("v", 3, 100, sandbox=7, mac=MAC)
    yield link_kinds.vlan("v", 3, 100, VlanProtocol.AD)
    yield link_kinds.dummy("d", sandbox=7, mtu=1400, mac=MAC)
    yield link_kinds.vrf("r", 1000)
    yield links.set_master("eth0", 7, 3)
    yield links.rename("eth0", 7, "eth1")
    yield links.move("eth0", 7, 9, "eth1")
    yield links.set_port("veth0", 7, dict.fromkeys(links.PortFlag, True))
    yield links.set_port("veth0", 7, dict.fromkeys(links.PortFlag, False))


RULES = (
    Rule(4, 254),
    Rule(6, 1000, 7, ip_interface("fd00::5/64"), ip_interface("fd01::/48"), "eth0", "eth1", 5, 0xFF),
    Rule(4, 100, 7, ip_interface("10.1.2.3/32")),
)


def _rules_and_neighbours() -> Iterator[Message]:
    for rule in RULES:
        yield rules.add(rule)
        yield rules.delete(rule)
    for text in ("10.1.2.3", "fd00::5"):
        address = ip_address(text)
        yield neighbours.put(Neighbour(7, address, MAC, State.PERMANENT, router=True))
        yield neighbours.delete(7, address)
        yield neighbours.answer_for(7, address)
        yield neighbours.answer_no_more(7, address)
    yield addresses.add(7, ip_interface("fd00::5/64"), optimistic=True, prefix_route=False)


def built() -> list[Message]:
    made = [*_links(), *_kinds(), *_rules_and_neighbours()]
    made += [addresses.add(7, ip_interface(text), dad=dad) for text in CIDRS for dad in (True, False)]
    made += [addresses.delete(7, ip_interface(text)) for text in CIDRS]
    made += [routes.add(route, 7) for route in ROUTES]
    made += [routes.delete(route, 7) for route in ROUTES]
    made.append(routes.add(ROUTES[0], 7, ip_address("10.0.0.5")))
    for rate in (1_000_000, 50_000_000_000):
        made.append(shaping.limit_egress(7, shaping.bucket(rate, 64_000, 25, 1500)))
        made.append(shaping.change_egress(7, shaping.bucket(rate, 64_000, 25, 1500)))
    made += [*shaping.redirect_ingress(7, 9), shaping.remove_egress(7), shaping.remove_ingress(7)]
    made += [Message("list flows", 0, 0, conntrack.selection(port)) for port in (53, None)]
    return made


MODULES = (links, addresses, routes, vlans, shaping, conntrack, rules, neighbours)


def _known(listed: Any) -> Any:
    """The same attributes without those that pyroute2 does not know."""
    if isinstance(listed, list):
        return [(name, _known(value)) for name, value in listed if name not in _UNKNOWN_TO_PYROUTE2]
    if isinstance(listed, dict) and "attrs" in listed:
        return {"attrs": _known(list(listed["attrs"]))}
    return listed


def test_tables_and_pyroute2_make_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_table(kind: Any, fields: Any, listed: Any) -> bytes:
        header: bytes = kind.header.pack(*(fields.get(name, 0) for name in kind.fields))
        return header + codec.pack(kind.table, _known(list(listed)))

    def by_class(kind: Any, fields: Any, listed: Any) -> bytes:
        message = codec._encode_by_class(codec._class_of(kind), fields, _known(list(listed)))
        return message if kind.fields else message[4:]  # nfgenmsg is the socket's

    for module in MODULES:
        monkeypatch.setattr(module, "encode", by_table)
    ours = [message.body for message in built()]
    for module in MODULES:
        monkeypatch.setattr(module, "encode", by_class)
    theirs = [message.body for message in built()]
    for message, our, their in zip(built(), ours, theirs, strict=True):
        assert our.hex(" ", 4) == their.hex(" ", 4), message.doing


def test_elements_of_sets_are_pyroute2_s() -> None:
    (sockets,) = pyroute.load("netlink.nfnetlink.nftsocket")
    key = elements.key(elements.address(ip_address("10.1.0.2")), elements.port(80))
    made = elements._message(12, 0, Element(1, "ports", key, elements.value(b"abcd")))
    message = sockets.nft_set_elem_list_msg()
    value = {"attrs": [("NFTA_SET_ELEM_KEY", {"attrs": [("NFTA_DATA_VALUE", key)]})]}
    value["attrs"].append(("NFTA_SET_ELEM_DATA", {"attrs": [("NFTA_DATA_VALUE", b"abcd")]}))
    message["attrs"] = [
        ("NFTA_SET_ELEM_LIST_TABLE", "mesokit"),
        ("NFTA_SET_ELEM_LIST_SET", "ports"),
        ("NFTA_SET_ELEM_LIST_ELEMENTS", [value]),
    ]
    message.encode()
    assert _plain(made.body) == _plain(bytes(message.data[20:]))


def _plain(data: bytes) -> bytes:
    """Without the mark of nested attributes, which pyroute2 leaves out where the kernel does not insist."""
    words = [data[start : start + 4] for start in range(0, len(data), 4)]
    return b"".join(
        word[:3] + bytes((word[3] & 0x7F,)) if len(word) == 4 and word[1] == 0 else word for word in words
    )


def test_what_the_plugins_make_needs_no_pyroute2(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*modules: str) -> Any:
        raise AssertionError(f"{modules} were loaded")

    monkeypatch.setattr(pyroute, "load", refuse)
    assert len(built()) > 40


def test_reading_agrees_with_pyroute2(namespace: Namespace) -> None:
    with Netlink(namespace, after(30)) as netlink:
        netlink.request(links.create("br0", "bridge", [], address="02:00:00:00:00:01", flags=1, mtu=1400))
        body = codec.encode(LINK, {}, [("IFLA_IFNAME", "br0")])
        (answer,) = netlink.request(Message("look", 18, 0, body))
        message, link = codec.decode(LINK, answer.packet), links.parse(answer.packet)
        assert (link.index, link.flags) == (message["index"], message["flags"])
        assert (link.name, link.mac, link.mtu) == tuple(
            message.get_attr(f"IFLA_{name}") for name in ("IFNAME", "ADDRESS", "MTU")
        )
        assert link.kind == message.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND")
        for text in CIDRS:
            netlink.request(addresses.add(link.index, ip_interface(text)))
        packets = netlink.dump("list", 22, codec.encode(ADDRESS, {"index": link.index}, []))
        found = {codec.decode(ADDRESS, packet).get_attr("IFA_ADDRESS") for packet in packets}
        assert found == {str(item.address.ip) for item in addresses.of_link(netlink, link.index)}
        packets = netlink.dump("list", 26, codec.encode(ROUTE, {"family": 2}, []))
        gateways = [codec.decode(ROUTE, packet)["type"] for packet in packets]
        assert len([kind for kind in gateways if kind == 1]) == len(routes.every(netlink, 4))


def test_a_full_import_after_a_lean_one_is_whole() -> None:
    pyroute.load("netlink.rtnl.ifinfmsg")
    assert importlib.import_module("pyroute2").IPRoute is not None
