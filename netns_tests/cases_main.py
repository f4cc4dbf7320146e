"""Cases of bridge, ptp, macvlan and loopback."""

from __future__ import annotations

from typing import Any

from netns_tests.case import (
    ABROAD4,
    ABROAD6,
    DEFAULT4,
    DUAL,
    GATEWAY4,
    GATEWAY6,
    V4,
    V6,
    Case,
    Conf,
    Reach,
    bridge,
    local,
    ping,
)


def _bridge_cases() -> list[Case]:
    gateway = bridge(V4, isGateway=True)
    existing = "ip link add br0 type bridge; ip link set br0 up"
    return [
        Case("bridge", [bridge(V4)]),
        Case("bridge-default-name", [{"type": "bridge", "ipam": V4}]),
        Case("bridge-gateway", [gateway], reach=GATEWAY4),
        Case("bridge-default-gateway", [bridge(V4, isDefaultGateway=True)], reach=GATEWAY4),
        Case("bridge-default-gateway-6", [bridge(V6, isDefaultGateway=True)], reach=GATEWAY6),
        Case("bridge-dual", [bridge(DUAL, isGateway=True)], reach=(*GATEWAY4, *GATEWAY6)),
        Case(
            "bridge-default-gateway-dual", [bridge(DUAL, isDefaultGateway=True)], reach=(*GATEWAY4, *GATEWAY6)
        ),
        Case(
            "bridge-default-gateway-and-route",
            [
                bridge(
                    local("10.9.0.0/24", routes=[{"dst": "0.0.0.0/0", "gw": "10.9.0.9"}]),
                    isDefaultGateway=True,
                )
            ],
        ),
        Case(
            "bridge-two-containers",
            [gateway],
            second=True,
            reach=(ping("c2", "10.9.0.2"), ping("c1", "10.9.0.3")),
        ),
        Case("bridge-mtu", [bridge(V4, isGateway=True, mtu=1400)], reach=GATEWAY4),
        Case("bridge-mtu-jumbo", [bridge(V4, mtu=9000)]),
        Case("bridge-hairpin", [bridge(V4, isGateway=True, hairpinMode=True)], reach=GATEWAY4),
        Case("bridge-promisc", [bridge(V4, isGateway=True, promiscMode=True)], reach=GATEWAY4),
        Case("bridge-hairpin-and-promisc", [bridge(V4, hairpinMode=True, promiscMode=True)]),
        Case(
            "bridge-masquerade", [bridge(V4, isDefaultGateway=True, ipMasq=True)], reach=(*GATEWAY4, ABROAD4)
        ),
        Case(
            "bridge-masquerade-6",
            [bridge(V6, isDefaultGateway=True, ipMasq=True)],
            reach=(*GATEWAY6, ABROAD6),
        ),
        Case(
            "bridge-masquerade-dual",
            [bridge(DUAL, isDefaultGateway=True, ipMasq=True)],
            second=True,
            reach=(ABROAD4, ABROAD6, ping("c2", "10.9.0.2"), Reach("tcp", "c2", "10.9.0.2", 80)),
        ),
        Case("bridge-no-masquerade", [bridge(V4, isDefaultGateway=True)], reach=(ABROAD4,)),
        Case("bridge-existing", [gateway], setup=existing, reach=GATEWAY4),
        Case("bridge-existing-mtu", [gateway], setup=existing + "; ip link set br0 mtu 1450"),
        Case(
            "bridge-existing-address",
            [gateway],
            setup=existing + "; ip addr add 10.9.0.1/24 dev br0",
            reach=GATEWAY4,
        ),
        Case("bridge-address-conflict", [gateway], setup=existing + "; ip addr add 10.10.0.1/24 dev br0"),
        Case(
            "bridge-force-address",
            [bridge(V4, isGateway=True, forceAddress=True)],
            setup=existing + "; ip addr add 10.10.0.1/24 dev br0",
            reach=GATEWAY4,
        ),
        Case("bridge-name-of-a-veth", [gateway], setup="ip link add br0 type veth peer name other"),
        Case("bridge-layer-2", [bridge(None)]),
        Case("bridge-layer-2-empty-ipam", [bridge({})]),
        Case("bridge-layer-2-gateway", [bridge(None, isGateway=True)]),
        Case(
            "bridge-mac-capability",
            [bridge(V4, capabilities={"mac": True})],
            caps={"mac": "02:11:22:33:44:55"},
        ),
        Case("bridge-mac-args", [bridge(V4, args={"cni": {"mac": "02:11:22:33:44:56"}})]),
        Case("bridge-mac-environment", [bridge(V4)], args="IgnoreUnknown=1;MAC=02:11:22:33:44:57"),
        Case(
            "bridge-mac-three-ways",
            [bridge(V4, capabilities={"mac": True}, args={"cni": {"mac": "02:11:22:33:44:56"}})],
            args="MAC=02:11:22:33:44:57;IgnoreUnknown=1",
            caps={"mac": "02:11:22:33:44:58"},
        ),
        Case("bridge-mac-invalid", [bridge(V4, args={"cni": {"mac": "02:11:22:33:44"}})]),
        Case(
            "bridge-dns",
            [
                bridge(
                    V4,
                    dns={
                        "nameservers": ["10.9.0.1"],
                        "domain": "a.b",
                        "search": ["c"],
                        "options": ["ndots:2"],
                    },
                )
            ],
        ),
        Case("bridge-long-name", [bridge(V4)], ifname="abcdefghijklmno"),
        Case("bridge-interface-taken", [bridge(V4)], ifname="lo"),
        Case("bridge-unknown-key", [bridge(V4, favouriteColour="blue")]),
        Case(
            "bridge-folded-keys",
            [{"type": "bridge", "BRIDGE": "br0", "isgateway": True, "Ipam": V4}],
            reach=GATEWAY4,
        ),
        Case("bridge-null-values", [bridge(V4, mtu=None, isGateway=None, hairpinMode=None)]),
        Case("bridge-wrong-type", [bridge(V4, mtu="1400")]),
        Case("bridge-vlan-out-of-range", [bridge(V4, vlan=5000)]),
        Case("bridge-spoof-check", [bridge(V4, isGateway=True, macspoofchk=True)], reach=GATEWAY4),
        Case("bridge-no-such-ipam", [bridge({"type": "no-such-plugin"})]),
        Case("bridge-unknown-environment", [bridge(V4)], args="COLOUR=blue"),
        Case("bridge-bad-environment", [bridge(V4)], args="MAC"),
        *[
            Case(
                f"bridge-version-{version or 'absent'}",
                [bridge(local("10.9.0.0/24", routes=[DEFAULT4]), isGateway=True)],
                version=version,
            )
            for version in (None, "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0")
        ],
        Case("bridge-version-0.2.0-dual", [bridge(DUAL, isGateway=True)], version="0.2.0"),
        Case("bridge-version-0.2.0-layer-2", [bridge(None)], version="0.2.0"),
        Case("bridge-version-unknown", [bridge(V4)], version="9.9.9"),
        Case("bridge-version-1.1.0", [bridge(V4)], version="1.1.0"),
    ]


def _ptp_cases() -> list[Case]:
    def ptp(ipam: Conf | None, **keys: Any) -> Conf:
        return {"type": "ptp", **keys, **({} if ipam is None else {"ipam": ipam})}

    default = local("10.9.0.0/24", routes=[DEFAULT4])
    return [
        Case("ptp", [ptp(V4)], reach=GATEWAY4),
        Case("ptp-default-route", [ptp(default)], reach=GATEWAY4),
        Case("ptp-masquerade", [ptp(default, ipMasq=True)], reach=(*GATEWAY4, ABROAD4)),
        Case("ptp-mtu", [ptp(V4, mtu=1400)]),
        Case("ptp-6", [ptp(V6)], reach=GATEWAY6),
        Case(
            "ptp-dual",
            [ptp(local("10.9.0.0/24", "fd00:9::/64", routes=[DEFAULT4, {"dst": "::/0"}]))],
            reach=(*GATEWAY4, *GATEWAY6),
        ),
        Case(
            "ptp-two-containers",
            [ptp(default)],
            second=True,
            reach=(ping("c2", "10.9.0.2"), ping("c1", "10.9.0.3")),
        ),
        Case("ptp-dns", [ptp(V4, dns={"nameservers": ["10.9.0.1"]})]),
        Case("ptp-0.2.0", [ptp(default)], version="0.2.0"),
        Case("ptp-no-ipam", [ptp(None)]),
    ]


def _macvlan_cases() -> list[Case]:
    def macvlan(ipam: Conf | None, **keys: Any) -> Conf:
        return {"type": "macvlan", **keys, **({} if ipam is None else {"ipam": ipam})}

    lan = {
        "type": "host-local",
        "ranges": [[{"subnet": "192.0.2.0/24", "rangeStart": "192.0.2.50", "gateway": "192.0.2.1"}]],
    }
    world = (ping("c1", "192.0.2.1"), ping("world", "192.0.2.50"))
    return [
        *[
            Case(f"macvlan-{mode}", [macvlan(lan, master="eth0", mode=mode)], reach=world)
            for mode in ("bridge", "private", "vepa")
        ],
        Case("macvlan-passthru", [macvlan(lan, master="eth0", mode="passthru")]),
        Case("macvlan-unknown-mode", [macvlan(lan, master="eth0", mode="sideways")]),
        Case("macvlan-default-master", [macvlan(lan)], reach=world),
        Case(
            "macvlan-no-default-master", [macvlan(lan)], setup="ip route del default; ip -6 route del default"
        ),
        Case("macvlan-no-such-master", [macvlan(lan, master="eth7")]),
        Case("macvlan-mtu", [macvlan(lan, master="eth0", mtu=1400)]),
        Case("macvlan-mtu-too-large", [macvlan(lan, master="eth0", mtu=1501)]),
        Case("macvlan-mtu-negative", [macvlan(lan, master="eth0", mtu=-1)]),
        Case(
            "macvlan-mac-capability",
            [macvlan(lan, master="eth0", capabilities={"mac": True})],
            caps={"mac": "02:11:22:33:44:55"},
            reach=world,
        ),
        Case(
            "macvlan-mac-environment",
            [macvlan(lan, master="eth0")],
            args="MAC=02:11:22:33:44:57;IgnoreUnknown=1",
        ),
        Case("macvlan-layer-2", [macvlan(None, master="eth0")]),
        Case("macvlan-default-route", [macvlan({**lan, "routes": [DEFAULT4]}, master="eth0")], reach=world),
        Case(
            "macvlan-two-containers",
            [macvlan(lan, master="eth0")],
            second=True,
            reach=(ping("c2", "192.0.2.50"),),
        ),
        Case("macvlan-6", [macvlan(local("fd00:9::/64"), master="eth0")]),
        Case("macvlan-0.2.0", [macvlan(lan, master="eth0")], version="0.2.0"),
        Case("macvlan-interface-taken", [macvlan(lan, master="eth0")], ifname="lo"),
    ]


def _loopback_cases() -> list[Case]:
    loopback = {"type": "loopback"}
    return [
        *[
            Case(f"loopback-{version or 'absent'}", [loopback], version=version, ifname="lo")
            for version in (None, "0.2.0", "0.3.1", "0.4.0", "1.0.0")
        ],
        Case("loopback-other-name", [loopback], ifname="eth0"),
        Case("loopback-after-bridge", [bridge(V4), loopback]),
    ]


MAIN = (*_bridge_cases(), *_ptp_cases(), *_macvlan_cases(), *_loopback_cases())
