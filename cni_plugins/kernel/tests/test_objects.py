"""Links, rules, neighbours and token buckets, as ip(8), bridge(8) and tc(8) show them."""

import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

import pytest

from cni_plugins.conftest import World
from cni_plugins.kernel import (
    addresses,
    bridges,
    interface,
    link_kinds,
    links,
    neighbours,
    routes,
    rules,
    shaping,
    sysctl,
    tap,
)
from cni_plugins.kernel.neighbours import Neighbour, State
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.kernel.rules import Rule
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.result import Route

MAC = "02:00:00:00:00:07"


@pytest.fixture
def netlink(world: World) -> Iterator[Netlink]:
    """In the host's namespace, which has a veth pair a0, b0."""
    world.run("ip", "link", "set", "lo", "up")
    world.run("ip", "link", "add", "a0", "type", "veth", "peer", "name", "b0")
    world.run("ip", "link", "set", "a0", "up")
    world.run("ip", "link", "set", "b0", "up")
    with Netlink(world.host, after(60)) as opened:
        yield opened


def index(netlink: Netlink, name: str) -> int:
    return interface.index_of(netlink.namespace, name)


def test_a_link_is_made_in_a_container_moved_and_renamed(world: World, netlink: Netlink) -> None:
    box, other = world.box("c1"), world.box("c2")
    made = link_kinds.macvlan("tmp0", index(netlink, "a0"), sandbox=box.fd, mac=MAC, mtu=1400)
    netlink.request(made)
    with Netlink(box, after(60)) as inside:
        found = index(inside, "tmp0")
        inside.request(links.rename("tmp0", found, "eth0"), links.change("eth0", found, ifalias="ours"))
        inside.request(links.move("eth0", found, other.fd, "net1"))
        assert index(inside, "eth0") == 0
    (shown,) = world.json("ip", "-d", "-j", "link", "show", "net1", box="c2")
    assert (shown["address"], shown["mtu"], shown["linkinfo"]["info_kind"]) == (MAC, 1400, "macvlan")
    assert shown["linkinfo"]["info_data"]["mode"] == "bridge"


def test_flags_of_a_bridge_port(world: World, netlink: Netlink) -> None:
    bridges.create(netlink, "br0", MAC, mtu=0, promisc=False, vlan_filtering=False)
    port = index(netlink, "a0")
    netlink.request(links.set_master("a0", port, index(netlink, "br0")))
    flags = dict.fromkeys(links.PortFlag, True) | {
        links.PortFlag.LEARNING: False,
        links.PortFlag.UNICAST_FLOOD: False,
    }
    netlink.request(links.set_port("a0", port, flags))
    (shown,) = world.json("ip", "-d", "-j", "link", "show", "a0")
    data = shown["linkinfo"]["info_slave_data"]
    names = ("hairpin", "isolated", "learning", "flood", "mcast_flood", "bcast_flood", "neigh_suppress")
    assert [data[name] for name in (*names, "locked", "guard")] == [True, True, False, False, *[True] * 5]
    netlink.request(links.set_port("a0", port, {links.PortFlag.ISOLATED: False}))
    link = links.find(netlink, "a0")
    assert link is not None
    assert (link.hairpin, link.isolated) == (True, False)
    netlink.request(links.set_master("a0", port, 0))
    assert "master" not in world.json("ip", "-j", "link", "show", "a0")[0]


@pytest.mark.parametrize("version", [4, 6])
def test_rules_lead_to_tables(world: World, netlink: Netlink, version: int) -> None:
    source = ip_interface("10.9.0.5/32" if version == 4 else "fd00::5/128")
    subnet = ip_interface("10.8.0.0/16" if version == 4 else "fd08::/32")
    before = rules.every(netlink, version)
    listed = [
        Rule(version, 1000, 500, source),
        Rule(version, 100, 501, destination=subnet, incoming="a0", outgoing="b0", mark=5, mask=0xFF),
    ]
    for _ in range(2):
        netlink.request(*[rules.add(rule) for rule in listed])
    assert [rule for rule in rules.every(netlink, version) if rule not in before] == listed
    family = f"-{version}"
    shown = {item["priority"]: item for item in world.json("ip", family, "-j", "rule", "show")}
    assert (shown[500]["src"], shown[500]["table"]) == (str(source.ip), "1000")
    assert (shown[501]["dst"], shown[501]["fwmark"]) == (str(subnet.ip), "0x5")
    if version == 6:
        world.run("ip", "-6", "addr", "add", "fd00::5/64", "dev", "a0", "nodad")
    everywhere = Route(ip_interface("0.0.0.0/0" if version == 4 else "::/0"), None, table=1000)
    netlink.request(routes.add(everywhere, index(netlink, "a0")))
    assert [item.route.dst for item in routes.every(netlink, version, table=1000)] == [everywhere.dst]
    assert routes.default_link(netlink, version) == 0
    netlink.request(routes.delete(everywhere, index(netlink, "a0")))
    assert routes.every(netlink, version, table=1000) == []
    for _ in range(2):
        netlink.request(*[rules.delete(rule) for rule in listed])
    assert rules.every(netlink, version) == before


@pytest.mark.parametrize("text", ["10.9.0.9", "fd00::9"])
def test_neighbours(world: World, netlink: Netlink, text: str) -> None:
    address, link = ip_address(text), index(netlink, "a0")
    assert neighbours.find(netlink, link, address) is None
    entry = Neighbour(link, address, MAC, State.PERMANENT, router=address.version == 6)
    netlink.request(neighbours.put(entry))
    assert neighbours.find(netlink, link, address) == entry
    listed = neighbours.of_link(netlink, link, address.version)
    assert [item for item in listed if item.state is State.PERMANENT] == [entry]
    (shown,) = world.json("ip", "-j", "neigh", "show", text, "dev", "a0")
    assert (shown["lladdr"], shown["state"]) == (MAC, ["PERMANENT"])
    for _ in range(2):
        netlink.request(neighbours.delete(link, address))
    assert neighbours.find(netlink, link, address) is None
    netlink.request(neighbours.answer_for(link, address))
    proxied = neighbours.of_link(netlink, link, address.version, proxied=True)
    assert [item.address for item in proxied] == [address]
    assert text in world.run("ip", "neigh", "show", "proxy")
    for _ in range(2):
        netlink.request(neighbours.answer_no_more(link, address))
    assert neighbours.of_link(netlink, link, address.version, proxied=True) == []


def test_an_optimistic_address_is_used_at_once(world: World, netlink: Netlink) -> None:
    sysctl.put(world.host, {"ipv6/conf/a0/optimistic_dad": "1"})
    address = ip_interface("fd00::5/64")
    netlink.request(addresses.add(index(netlink, "a0"), address, optimistic=True))
    (found,) = [item for item in addresses.of_link(netlink, index(netlink, "a0")) if item.address == address]
    # A kernel without CONFIG_IPV6_OPTIMISTIC_DAD looks for a duplicate first.
    assert found.flags & (addresses.OPTIMISTIC | addresses.TENTATIVE)


def test_a_token_bucket_changes_in_place(world: World, netlink: Netlink) -> None:
    link = index(netlink, "a0")
    netlink.request(shaping.limit_egress(link, shaping.bucket(8_000_000, 800_000, 25, 1500)))
    (before,) = json.loads(world.run("tc", "-j", "qdisc", "show", "dev", "a0", "root"))
    netlink.request(shaping.change_egress(link, shaping.bucket(16_000_000, 800_000, 25, 1500)))
    (now,) = json.loads(world.run("tc", "-j", "qdisc", "show", "dev", "a0", "root"))
    assert (before["options"]["rate"], now["options"]["rate"]) == (1_000_000, 2_000_000)
    assert before["handle"] == now["handle"]
    netlink.request(shaping.remove_egress(link))
    with pytest.raises(CniError, match="change a token bucket"):
        netlink.request(shaping.change_egress(link, shaping.bucket(16_000_000, 800_000, 25, 1500)))


def test_a_tap_device_stays_for_its_owner(world: World, netlink: Netlink) -> None:
    tap.create(world.host, "tap0", owner=61234, group=61235, multi_queue=True)
    (shown,) = world.json("ip", "-d", "-j", "link", "show", "tap0")
    data = shown["linkinfo"]["info_data"]
    assert (data["type"], str(data["user"]), str(data["group"])) == ("tap", "61234", "61235")
    assert (data["persist"], data["multi_queue"], data["vnet_hdr"], data["pi"]) == (True, True, True, False)
    with pytest.raises(CniError, match="there is a link tap0 already"):
        tap.create(world.host, "tap0")
    with pytest.raises(CniError, match=r"there is a link a0 already|cannot create the TAP device a0"):
        tap.create(world.host, "a0")
    links.remove(netlink, "tap0")
    assert index(netlink, "tap0") == 0
