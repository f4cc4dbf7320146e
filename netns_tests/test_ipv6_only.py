"""Every plugin on a node without IPv4: ADD, CHECK and DEL with IPv6 alone, packets go, and nothing is left.

The node has an uplink with IPv6 and no IPv4 address but loopback's. No container may get another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from netns_tests.case import V6, Conf, bridge, local
from netns_tests.node import Netns, Node
from netns_tests.runtime import attach, network
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.traffic import ask, server

DEFAULT = {"dst": "::/0"}
ROUTED = local("fd00:9::/64", routes=[DEFAULT])
LAN: Conf = {
    "type": "host-local",
    "ranges": [
        [{"subnet": "2001:db8::/64", "rangeStart": "2001:db8::50", "rangeEnd": "2001:db8::60"}],
    ],
}
GATEWAY = bridge(ROUTED, isDefaultGateway=True, ipMasq=True)
SPARE = (
    "ip link add spare0 type veth peer name spare1\n"
    "ip link set spare1 addrgenmode none up\n"
    "ip addr add fd00:9::1/64 dev spare1 nodad\n"
)
SUBNET_ENV = (
    "FLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:0:7::1/64\n"
    "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
)
RATES = {
    "ingressRate": 80_000_000,
    "ingressBurst": 8_000_000,
    "egressRate": 40_000_000,
    "egressBurst": 8_000_000,
}
MAPPINGS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}


@dataclass(frozen=True, slots=True)
class Alone:
    """A network, the address that its first container gets, and what it reaches from within."""

    plugins: Sequence[Conf]
    address: str = "fd00:9::2"
    reaches: Sequence[str] = ("fd00:9::1", "2001:db8::1")
    setup: str = ""
    caps: Mapping[str, Any] = field(default_factory=dict)


NETWORKS: Mapping[str, Alone] = {
    "bridge": Alone([GATEWAY]),
    "bridge, iptables": Alone([GATEWAY | {"ipMasqBackend": "iptables"}]),
    "ptp": Alone([{"type": "ptp", "ipMasq": True, "ipam": ROUTED}]),
    "macvlan": Alone([{"type": "macvlan", "master": "eth0", "ipam": LAN}], "2001:db8::50", ["2001:db8::1"]),
    "macvlan, master found": Alone([{"type": "macvlan", "ipam": LAN}], "2001:db8::50", ["2001:db8::1"]),
    "host-device": Alone(
        [{"type": "host-device", "device": "spare0", "ipam": V6}], reaches=["fd00:9::1"], setup=SPARE
    ),
    "tap": Alone([{"type": "tap", "ipam": V6}], reaches=[]),
    "static": Alone(
        [
            bridge(
                {
                    "type": "static",
                    "addresses": [{"address": "fd00:9::2/64", "gateway": "fd00:9::1"}],
                    "routes": [DEFAULT],
                },
                isGateway=True,
                ipMasq=True,
            )
        ]
    ),
    "portmap": Alone([GATEWAY, {"type": "portmap", "capabilities": {"portMappings": True}}], caps=MAPPINGS),
    "portmap, iptables": Alone(
        [GATEWAY, {"type": "portmap", "backend": "iptables", "capabilities": {"portMappings": True}}],
        caps=MAPPINGS,
    ),
    "bandwidth": Alone([GATEWAY, {"type": "bandwidth", **RATES}]),
    "tuning": Alone(
        [GATEWAY, {"type": "tuning", "mtu": 1300, "sysctl": {"net.ipv6.conf.IFNAME.hop_limit": "33"}}]
    ),
    "firewall": Alone([GATEWAY, {"type": "firewall", "backend": "nftables"}]),
    "firewall, iptables": Alone([GATEWAY, {"type": "firewall", "backend": "iptables"}]),
    "mesos-cni-port-mapper": Alone(
        [
            {
                "type": "mesos-cni-port-mapper",
                "chain": "MESOS-PORTS",
                "excludeDevices": ["none0"],
                "capabilities": {"portMappings": True},
                "delegate": GATEWAY,
            }
        ],
        caps=MAPPINGS,
    ),
    "sbr": Alone([GATEWAY, {"type": "sbr"}]),
    "flannel": Alone(
        [{"type": "flannel", "delegate": {"isDefaultGateway": True}}],
        "fd00:244:0:7::2",
        ["fd00:244:0:7::1"],
        setup=f"mkdir -p /run/flannel; printf '{SUBNET_ENV}' > /run/flannel/subnet.env\n",
    ),
    "chain": Alone(
        [
            {
                "type": "chain",
                "plugins": [GATEWAY, {"type": "tuning", "mtu": 1300}, {"type": "bandwidth", **RATES}],
            }
        ]
    ),
}


def uplink(node: Node) -> Netns:
    """An uplink of IPv6 alone, with the link-local address that a forwarding node needs; the world behind."""
    world = node.uplink()
    node.shell(
        "ip -4 addr flush dev eth0\n"
        "ip addr add fe80::2/64 dev eth0 nodad\n"
        "ip -n world -4 addr flush dev world\n"
        "ip -n world addr add fe80::1/64 dev world nodad\n"
    )
    return world


def ipv4(where: Netns | Node) -> list[str]:
    """The IPv4 addresses, loopback's left out."""
    return [line for line in where.run(["ip", "-o", "-4", "addr"]).text.splitlines() if " 127." not in line]


@pytest.mark.parametrize("name", NETWORKS)
def test_ipv6_alone(node: Node, plugins: str, name: str) -> None:
    alone = NETWORKS[name]
    world = uplink(node)
    node.shell(alone.setup or "true")
    assert ipv4(node) == []
    before = snapshot(node)
    box = node.netns("c1")
    made = attach(node, plugins, network(alone.plugins), "c1", box, capabilities=alone.caps)
    assert made.result is not None
    assert [item["address"].partition("/")[0] for item in made.result["ips"]] == [alone.address]
    assert made.check().error is None
    assert ipv4(node) == ipv4(box) == []
    addresses = box.json("ip", "-j", "-6", "addr", "show", "eth0")[0]["addr_info"]
    assert [item for item in addresses if item.get("tentative") or item.get("dadfailed")] == []
    for target in alone.reaches:
        assert box.ping(target), target
    if alone.caps:
        with server(box, "tcp", 80):
            assert ask(world, "tcp", "2001:db8::2", 8080) == "2001:db8::1"
            assert ask(node, "tcp", "fd00:9::1", 8080) is not None
            assert ask(node, "tcp", "::1", 8080, seconds=1) is None
    assert made.check().error is None
    assert made.delete(previous=False).error is None
    box.delete()
    assert_clean(node, before)
