"""Links and VLANs as the kernel's door makes them, on a kernel that has all kinds."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cni_plugins.conftest import new_namespace
from cni_plugins.kernel import bridges, interface, link_kinds, links, routes, vlans
from cni_plugins.kernel.link_kinds import IpvlanFlag, IpvlanMode, MacvlanMode, VlanProtocol
from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink.route import Message, Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.result import Route
from cni_plugins.spec.values import parse_cidr

MAC = "02:00:00:00:00:07"


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    """In a namespace with a dummy link d0 that is up."""
    namespace = new_namespace()
    with Netlink(namespace, after(120)) as opened:
        opened.request(link_kinds.dummy("d0", mtu=1400, mac=MAC))
        opened.request(links.change("d0", index(opened, "d0"), set_flags=links.IFF_UP))
        yield opened
    os.close(namespace.fd)


def index(netlink: Netlink, name: str) -> int:
    return interface.index_of(netlink.namespace, name)


def shown(namespace: Namespace, *argv: str) -> Any:
    with entered(namespace):
        return json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)


def made(netlink: Netlink, message: Message, name: str) -> dict[str, Any]:
    """What ip(8) says of a link that the message makes."""
    netlink.request(message)
    (link,) = shown(netlink.namespace, "ip", "-d", "-j", "link", "show", name)
    info: dict[str, Any] = link["linkinfo"]
    return info


@pytest.mark.parametrize("mode", IpvlanMode)
@pytest.mark.parametrize("flag", IpvlanFlag)
def test_ipvlan(netlink: Netlink, mode: IpvlanMode, flag: IpvlanFlag) -> None:
    info = made(netlink, link_kinds.ipvlan("i0", index(netlink, "d0"), mode, flag), "i0")
    data = info["info_data"]
    assert (info["info_kind"], data["mode"]) == ("ipvlan", mode.name.lower())
    link = links.find(netlink, "i0")
    assert link is not None
    assert int.from_bytes(link.data[2], "little") == flag


def test_macvlan_and_vlan_directly_in_a_container(netlink: Netlink) -> None:
    box, master = new_namespace(), index(netlink, "d0")
    netlink.request(
        link_kinds.macvlan("m0", master, MacvlanMode.VEPA, sandbox=box.fd, mac=MAC, mtu=1300, queue=5),
        link_kinds.vlan("v0", master, 100, VlanProtocol.AD, sandbox=box.fd, mtu=1200),
    )
    listed = {item["ifname"]: item for item in shown(box, "ip", "-d", "-j", "link")}
    assert listed["m0"]["mtu"] == 1300
    data = listed["m0"]["linkinfo"]["info_data"]
    assert (data["mode"], data["bcqueuelen"]) == ("vepa", 5)
    data = listed["v0"]["linkinfo"]["info_data"]
    assert (listed["v0"]["mtu"], data["id"], data["protocol"]) == (1200, 100, "802.1ad")
    os.close(box.fd)


def test_vrf(netlink: Netlink) -> None:
    info = made(netlink, link_kinds.vrf("red", 1000), "red")
    assert (info["info_kind"], info["info_data"]["table"]) == ("vrf", 1000)
    red, port = index(netlink, "red"), index(netlink, "d0")
    netlink.request(links.change("red", red, set_flags=links.IFF_UP), links.set_master("d0", port, red))
    netlink.request(routes.add(Route(parse_cidr("10.7.0.0/16"), None, table=1000), port))
    found = [item.route.dst for item in routes.every(netlink, 4, table=1000)]
    assert parse_cidr("10.7.0.0/16") in found


def test_vlans_of_a_port(netlink: Netlink) -> None:
    bridges.create(netlink, "br0", MAC, mtu=0, promisc=False, vlan_filtering=True)
    bridge, port = index(netlink, "br0"), index(netlink, "d0")
    netlink.request(
        links.set_master("d0", port, bridge),
        vlans.leave("d0", port, 1),
        vlans.access("d0", port, 5),
        vlans.trunk("d0", port, 100, 199),
        vlans.trunk("d0", port, 300, 300),
    )
    wanted = frozenset((5, *range(100, 200), 300))
    assert vlans.of_port(netlink, port, bridge) == wanted
    assert vlans.of_ports(netlink, bridge) == {port: wanted}
    netlink.request(vlans.leave("d0", port, 300), vlans.leave("d0", port, 300))
    assert vlans.of_port(netlink, port, bridge) == wanted - {300}
