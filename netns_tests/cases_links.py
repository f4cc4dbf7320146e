"""Cases of the plugins whose interface is a link on another link, a device of the host, or in a routing table
of its own. RARE ones need a kernel with all kinds of links (test_qemu_differential.py).
"""

from __future__ import annotations

from typing import Any

from netns_tests.case import DEFAULT4, DUAL, GATEWAY4, V4, V6, Case, Conf, bridge, local, ping

LAN: Conf = {
    "type": "host-local",
    "ranges": [[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50", "gateway": "192.0.2.1"}]],
}
WORLD = (ping("c1", "192.0.2.1"), ping("world", "192.0.2.50"))
SPARE = (
    "ip link add spare0 address 02:aa:bb:cc:dd:10 type veth peer name spare1 address 02:aa:bb:cc:dd:11;"
    "ip addr add 10.9.0.1/24 dev spare1; ip link set spare1 up; ip link set spare0 mtu 1400"
)


def _host_device(ipam: Conf | None, **keys: Any) -> Conf:
    conf: Conf = {"type": "host-device", "device": "spare0", **keys}
    return conf if ipam is None else {**conf, "ipam": ipam}


def _host_device_cases() -> list[Case]:
    return [
        Case("host-device", [_host_device(V4)], setup=SPARE, reach=(ping("c1", "10.9.0.1"),)),
        Case("host-device-dual", [_host_device(DUAL)], setup=SPARE),
        Case("host-device-layer-2", [_host_device(None)], setup=SPARE),
        Case("host-device-up-with-address", [_host_device(V4)], setup=SPARE + ";ip link set spare0 up"),
        Case("host-device-0.2.0", [_host_device(V4)], version="0.2.0", setup=SPARE),
        Case("host-device-hwaddr", [_host_device(V4, device="", hwaddr="02:aa:bb:cc:dd:10")], setup=SPARE),
        Case("host-device-no-such-device", [_host_device(V4, device="spare7")]),
        Case("host-device-none-named", [_host_device(V4, device="")]),
        Case("host-device-kernelpath-outside", [_host_device(V4, device="", kernelpath="/etc")]),
        Case("host-device-other-name", [_host_device(V4)], setup=SPARE, ifname="net7"),
    ]


def _sbr_cases() -> list[Case]:
    routed = local("10.9.0.0/24", routes=[DEFAULT4])
    gateway = bridge(routed, isGateway=True)
    return [
        Case("sbr", [gateway, {"type": "sbr"}], reach=GATEWAY4),
        Case("sbr-no-routes", [bridge(V4, isGateway=True), {"type": "sbr"}], reach=GATEWAY4),
        Case("sbr-6", [bridge(V6, isGateway=True), {"type": "sbr"}]),
        Case("sbr-dual", [bridge(DUAL, isGateway=True), {"type": "sbr"}], reach=GATEWAY4),
        Case("sbr-layer-2", [bridge(None), {"type": "sbr"}]),
        Case("sbr-alone", [{"type": "sbr"}]),
        Case("sbr-0.3.1", [gateway, {"type": "sbr"}], version="0.3.1", reach=GATEWAY4),
    ]


def _vlan(ipam: Conf | None = V4, **keys: Any) -> Conf:
    conf: Conf = {"type": "vlan", "master": "eth0", "vlanId": 100, **keys}
    return conf if ipam is None else {**conf, "ipam": ipam}


def _ipvlan(ipam: Conf | None = LAN, **keys: Any) -> Conf:
    conf: Conf = {"type": "ipvlan", "master": "eth0", **keys}
    return conf if ipam is None else {**conf, "ipam": ipam}


TAGGED = (
    "ip -n world link add link world name tagged type vlan id 100;"
    "ip -n world addr add 10.9.0.1/24 dev tagged; ip -n world link set tagged up"
)
RARE: tuple[Case, ...] = (
    Case("vlan", [_vlan()], setup=TAGGED, reach=(ping("c1", "10.9.0.1"),)),
    Case("vlan-dual-mtu", [_vlan(DUAL, mtu=1400)]),
    Case("vlan-mtu-too-large", [_vlan(mtu=1501)]),
    Case("vlan-bad-id", [_vlan(vlanId=4095)]),
    Case("vlan-no-such-master", [_vlan(master="eth7")]),
    Case("vlan-no-master", [_vlan(master="")]),
    Case("ipvlan", [_ipvlan()], reach=WORLD),
    Case("ipvlan-l3", [_ipvlan(mode="l3")], reach=(ping("c1", "192.0.2.1"),)),
    Case("ipvlan-l3s-default-route", [_ipvlan({**LAN, "routes": [DEFAULT4]}, mode="l3s")]),
    Case("ipvlan-default-master", [_ipvlan(master="", mtu=1400)]),
    Case("ipvlan-unknown-mode", [_ipvlan(mode="l4")]),
    Case("vrf", [bridge(DUAL, isGateway=True), {"type": "vrf", "vrfname": "blue"}]),
    Case("vrf-table", [bridge(V4), {"type": "vrf", "vrfname": "blue", "table": 1001}]),
    Case("vrf-no-name", [bridge(V4), {"type": "vrf"}]),
)
LINKS: tuple[Case, ...] = (*_host_device_cases(), *_sbr_cases())
