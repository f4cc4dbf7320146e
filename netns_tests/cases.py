"""The configurations that the differential test puts through the reference plugins and through ours.

Each case is one container (and, where it says so, a second one) on one network, on a fresh node with an
uplink 192.0.2.2/24 and 2001:db8::2/64 (the world behind it: .1 and ::1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Conf = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reach:
    """A probe made after ADD: `kind` ping, tcp or udp; from `source` (node, world, c1, c2) to `target`; for
    tcp and udp a server listens on `listen` (default `port`) in namespace `server`, and the answer is the
    address it saw."""

    kind: str
    source: str
    target: str
    port: int = 0
    server: str = "c1"
    listen: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """`setup` is a shell script run on the node before; `second` attaches container c2 after c1, the same
    way; `rules` also compares the packet filter rule by rule (for configurations that ask for iptables)."""

    name: str
    plugins: Sequence[Conf]
    version: str | None = "1.0.0"
    args: str | None = None
    caps: Mapping[str, Any] = field(default_factory=dict)
    setup: str = ""
    ifname: str = "eth0"
    second: bool = False
    reach: Sequence[Reach] = ()


def local(*subnets: str, **keys: Any) -> Conf:
    """A host-local configuration: one range set for each subnet."""
    return {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in subnets], **keys}


def bridge(ipam: Conf | None, **keys: Any) -> Conf:
    conf: Conf = {"type": "bridge", "bridge": "br0", **keys}
    if ipam is not None:
        conf["ipam"] = ipam
    return conf


def ping(source: str, target: str) -> Reach:
    return Reach("ping", source, target)


V4 = local("10.9.0.0/24")
V6 = local("fd00:9::/64")
DUAL = local("10.9.0.0/24", "fd00:9::/64")
DEFAULT4 = {"dst": "0.0.0.0/0"}
GATEWAY4 = (ping("c1", "10.9.0.1"), ping("node", "10.9.0.2"))
GATEWAY6 = (ping("c1", "fd00:9::1"),)
ABROAD4 = Reach("tcp", "c1", "192.0.2.1", 80, server="world")
ABROAD6 = Reach("tcp", "c1", "2001:db8::1", 80, server="world")


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


def _host_local_cases() -> list[Case]:
    def ranged(**keys: Any) -> Conf:
        return bridge({"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24", **keys}]]})

    def reserved(*files: tuple[str, str]) -> str:
        folder = "/var/lib/cni/networks/net"
        lines = [f"printf '{content}' > {folder}/{name}" for name, content in files]
        return "\n".join([f"mkdir -p {folder}", *lines])

    routes = [{"dst": "10.20.0.0/16"}, {"dst": "10.30.0.0/16", "gw": "10.9.0.7"}, DEFAULT4]
    wanted = bridge({**V4, "type": "host-local"}, capabilities={"ips": True})
    return [
        Case("host-local-short-form", [bridge({"type": "host-local", "subnet": "10.9.0.0/24"})]),
        Case(
            "host-local-short-form-and-ranges",
            [
                bridge(
                    {"type": "host-local", "subnet": "10.9.0.0/24", "ranges": [[{"subnet": "10.10.0.0/24"}]]}
                )
            ],
        ),
        Case("host-local-start-end", [ranged(rangeStart="10.9.0.50", rangeEnd="10.9.0.51")], second=True),
        Case("host-local-start-is-network", [ranged(rangeStart="10.9.0.0")]),
        Case("host-local-start-after-end", [ranged(rangeStart="10.9.0.50", rangeEnd="10.9.0.40")]),
        Case("host-local-start-outside", [ranged(rangeStart="10.8.0.50")]),
        Case("host-local-gateway", [ranged(gateway="10.9.0.254")]),
        Case("host-local-gateway-in-the-way", [ranged(rangeStart="10.9.0.5", gateway="10.9.0.5")]),
        Case("host-local-host-bits", [bridge(local("10.9.0.5/24"))]),
        Case("host-local-30", [bridge(local("10.9.0.0/30"))]),
        Case("host-local-30-exhausted", [bridge(local("10.9.0.0/30"))], second=True),
        Case("host-local-31", [bridge(local("10.9.0.0/31"))]),
        Case("host-local-126", [bridge(local("fd00:9::/126"))]),
        Case("host-local-dual", [bridge(DUAL)], second=True),
        Case(
            "host-local-two-ranges",
            [
                bridge(
                    {
                        "type": "host-local",
                        "ranges": [
                            [
                                {"subnet": "10.9.0.0/24", "rangeStart": "10.9.0.2", "rangeEnd": "10.9.0.2"},
                                {"subnet": "10.9.1.0/24"},
                            ]
                        ],
                    }
                )
            ],
            second=True,
        ),
        Case("host-local-overlap", [bridge(local("10.9.0.0/16", "10.9.1.0/24"))]),
        Case(
            "host-local-mixed-family",
            [
                bridge(
                    {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}, {"subnet": "fd00:9::/64"}]]}
                )
            ],
        ),
        Case("host-local-no-ranges", [bridge({"type": "host-local"})]),
        Case("host-local-two-sets-0.2.0", [bridge(local("10.9.0.0/24", "10.10.0.0/24"))], version="0.2.0"),
        Case(
            "host-local-routes", [bridge(local("10.9.0.0/24", routes=routes), isGateway=True)], reach=GATEWAY4
        ),
        Case(
            "host-local-routes-dual",
            [
                bridge(
                    local(
                        "10.9.0.0/24",
                        "fd00:9::/64",
                        routes=[DEFAULT4, {"dst": "::/0"}, {"dst": "fd00:aa::/64", "gw": "fd00:9::7"}],
                    ),
                    isGateway=True,
                )
            ],
        ),
        Case(
            "host-local-resolv-conf",
            [bridge(local("10.9.0.0/24", resolvConf="/run/r"))],
            setup="printf 'nameserver 10.9.0.1\\ndomain a.b\\nsearch c d\\noptions ndots:2\\n' > /run/r",
        ),
        Case("host-local-resolv-conf-missing", [bridge(local("10.9.0.0/24", resolvConf="/run/none"))]),
        Case("host-local-data-dir", [bridge(local("10.9.0.0/24", dataDir="/var/lib/cni/elsewhere"))]),
        Case("host-local-after-last", [bridge(V4)], setup=reserved(("last_reserved_ip.0", "10.9.0.77"))),
        Case(
            "host-local-wraps",
            [ranged(rangeEnd="10.9.0.20")],
            setup=reserved(("last_reserved_ip.0", "10.9.0.20")),
        ),
        Case(
            "host-local-skips-taken",
            [bridge(V4)],
            setup=reserved(("10.9.0.2", "other\\r\\neth0"), ("10.9.0.3", "other")),
        ),
        Case("host-local-legacy-file", [bridge(V4)], setup=reserved(("10.9.0.9", "old"))),
        Case("host-local-already-has-one", [bridge(V4)], setup=reserved(("10.9.0.9", "c1\\r\\neth0"))),
        Case("host-local-torn-file", [bridge(V4)], setup=reserved(("10.9.0.2", ""))),
        Case("host-local-ip-environment", [bridge(V4)], args="IgnoreUnknown=1;IP=10.9.0.44"),
        Case("host-local-ip-environment-strict", [bridge(V4)], args="IP=10.9.0.44"),
        Case("host-local-ip-args", [bridge(V4, args={"cni": {"ips": ["10.9.0.45"]}})]),
        Case("host-local-ip-capability", [wanted], caps={"ips": ["10.9.0.46"]}),
        Case("host-local-ip-with-length", [wanted], caps={"ips": ["10.9.0.46/16"]}),
        Case(
            "host-local-ip-dual",
            [bridge(DUAL, capabilities={"ips": True})],
            caps={"ips": ["fd00:9::46", "10.9.0.46"]},
        ),
        Case(
            "host-local-ip-one-of-two",
            [bridge(DUAL, capabilities={"ips": True})],
            caps={"ips": ["10.9.0.46"]},
        ),
        Case("host-local-ip-outside", [wanted], caps={"ips": ["10.8.0.46"]}),
        Case("host-local-ip-is-gateway", [wanted], caps={"ips": ["10.9.0.1"]}),
        Case(
            "host-local-ip-taken",
            [wanted],
            caps={"ips": ["10.9.0.46"]},
            setup=reserved(("10.9.0.46", "other\\r\\neth0")),
        ),
        Case("host-local-ip-invalid", [wanted], caps={"ips": ["10.9.0.460"]}),
        Case(
            "host-local-ip-ranges",
            [bridge(V4, capabilities={"ipRanges": True})],
            caps={"ipRanges": [[{"subnet": "10.40.0.0/24"}]]},
        ),
        Case(
            "host-local-ip-ranges-only",
            [bridge({"type": "host-local"}, capabilities={"ipRanges": True})],
            caps={"ipRanges": [[{"subnet": "10.40.0.0/24", "rangeStart": "10.40.0.9"}]]},
        ),
    ]


def _static_cases() -> list[Case]:
    def static(*addresses: Conf, **keys: Any) -> Conf:
        return {"type": "static", "addresses": list(addresses), **keys}

    one = {"address": "10.9.0.5/24", "gateway": "10.9.0.1"}
    return [
        Case("static", [bridge(static(one), isGateway=True)], reach=(ping("c1", "10.9.0.1"),)),
        Case("static-no-gateway", [bridge(static({"address": "10.9.0.5/24"}))]),
        Case(
            "static-no-gateway-on-gateway-bridge",
            [bridge(static({"address": "10.9.0.5/24"}), isGateway=True)],
        ),
        Case(
            "static-dual",
            [bridge(static(one, {"address": "fd00:9::5/64", "gateway": "fd00:9::1"}), isGateway=True)],
        ),
        Case(
            "static-routes-dns",
            [
                bridge(
                    static(
                        one,
                        routes=[DEFAULT4, {"dst": "10.30.0.0/16", "gw": "10.9.0.7"}],
                        dns={"nameservers": ["10.9.0.1"], "domain": "d"},
                    )
                )
            ],
        ),
        Case(
            "static-environment", [bridge(static())], args="IgnoreUnknown=1;IP=10.9.0.6/24;GATEWAY=10.9.0.1"
        ),
        Case("static-args", [bridge(static(one), args={"cni": {"ips": ["10.9.0.7/24"]}})]),
        Case(
            "static-capability",
            [bridge(static(one), capabilities={"ips": True})],
            caps={"ips": ["10.9.0.8/24"]},
        ),
        Case("static-two-on-one-subnet", [bridge(static(one, {"address": "10.9.0.6/24"}))]),
        Case("static-invalid", [bridge(static({"address": "10.9.0.5"}))]),
        Case("static-none", [bridge(static())]),
        Case("static-0.2.0", [bridge(static(one))], version="0.2.0"),
        Case("static-two-0.2.0", [bridge(static(one, {"address": "10.9.0.6/24"}))], version="0.2.0"),
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


def _tuning_cases() -> list[Case]:
    base = bridge(V4, isGateway=True)

    def tuning(**keys: Any) -> list[Conf]:
        return [base, {"type": "tuning", **keys}]

    return [
        Case("tuning-nothing", tuning(), reach=GATEWAY4),
        Case(
            "tuning-sysctl",
            tuning(sysctl={"net.core.somaxconn": "500", "net/ipv4/ip_local_port_range": "2000 3000"}),
        ),
        Case("tuning-sysctl-interface", tuning(sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"})),
        Case(
            "tuning-sysctl-dotted", tuning(sysctl={"net.ipv4.conf.IFNAME.arp_filter": "1"}), ifname="eth0.100"
        ),
        Case("tuning-sysctl-elsewhere", tuning(sysctl={"kernel.shmmax": "1"})),
        Case("tuning-sysctl-escape", tuning(sysctl={"net.ipv4/../../kernel/shmmax": "1"})),
        Case("tuning-sysctl-unknown", tuning(sysctl={"net.ipv4.no_such_thing": "1"})),
        Case("tuning-mac", tuning(mac="02:aa:bb:cc:dd:ee"), reach=GATEWAY4),
        Case("tuning-mac-environment", tuning(), args="IgnoreUnknown=1;MAC=02:aa:bb:cc:dd:ef"),
        Case("tuning-mac-invalid", tuning(mac="02:aa:bb")),
        Case("tuning-mtu", tuning(mtu=1300), reach=GATEWAY4),
        Case("tuning-promisc", tuning(promisc=True)),
        Case("tuning-allmulti", tuning(allmulti=True)),
        Case("tuning-queue-length", tuning(txQLen=500)),
        Case(
            "tuning-args",
            [base, {"type": "tuning", "args": {"cni": {"mtu": 1320, "mac": "02:aa:bb:cc:dd:01"}}}],
        ),
        Case(
            "tuning-allowlist",
            tuning(sysctl={"net.core.somaxconn": "500"}),
            setup="mkdir -p /etc/cni/tuning; echo '^net.core.somaxconn$' > /etc/cni/tuning/allowlist.conf",
        ),
        Case(
            "tuning-allowlist-refuses",
            tuning(sysctl={"net.core.somaxconn": "500"}),
            setup="mkdir -p /etc/cni/tuning; echo '^net.ipv4' > /etc/cni/tuning/allowlist.conf",
        ),
        Case("tuning-0.3.1", tuning(sysctl={"net.core.somaxconn": "500"}), version="0.3.1"),
        Case("tuning-alone", [{"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}]),
    ]


def _portmap_cases() -> list[Case]:
    def mapped(ipam: Conf, **keys: Any) -> list[Conf]:
        base = bridge(ipam, isDefaultGateway=True, hairpinMode=True)
        return [base, {"type": "portmap", "capabilities": {"portMappings": True}, **keys}]

    def maps(*items: tuple[int, int, str], **more: Any) -> Conf:
        return {
            "portMappings": [{"hostPort": h, "containerPort": c, "protocol": p, **more} for h, c, p in items]
        }

    def web(source: str, target: str, host: int = 8080, protocol: str = "tcp") -> Reach:
        return Reach(protocol, source, target, host, listen=80)

    tcp = maps((8080, 80, "tcp"))
    return [
        Case("portmap-none", mapped(V4)),
        Case("portmap-empty", mapped(V4), caps={"portMappings": []}),
        Case(
            "portmap-tcp",
            mapped(V4),
            caps=tcp,
            second=False,
            reach=(
                web("world", "192.0.2.2"),
                web("node", "192.0.2.2"),
                web("c1", "192.0.2.2"),
                web("node", "127.0.0.1"),
            ),
        ),
        Case(
            "portmap-udp",
            mapped(V4),
            caps=maps((8080, 80, "udp")),
            reach=(web("world", "192.0.2.2", protocol="udp"),),
        ),
        Case(
            "portmap-several",
            mapped(V4),
            caps=maps((8080, 80, "tcp"), (8081, 80, "tcp"), (8080, 81, "udp")),
            reach=(web("world", "192.0.2.2"), web("world", "192.0.2.2", 8081)),
        ),
        Case(
            "portmap-twenty",
            mapped(V4),
            caps=maps(*[(8080 + n, 80, "tcp") for n in range(20)]),
            reach=(web("world", "192.0.2.2", 8099),),
        ),
        Case(
            "portmap-host-ip",
            mapped(V4),
            caps=maps((8080, 80, "tcp"), hostIP="192.0.2.2"),
            reach=(web("world", "192.0.2.2"),),
        ),
        Case(
            "portmap-host-ip-other",
            mapped(V4),
            caps=maps((8080, 80, "tcp"), hostIP="192.0.2.3"),
            reach=(web("world", "192.0.2.2"),),
        ),
        Case(
            "portmap-host-ip-any",
            mapped(V4),
            caps=maps((8080, 80, "tcp"), hostIP="0.0.0.0"),
            reach=(web("world", "192.0.2.2"),),
        ),
        Case(
            "portmap-6", mapped(V6), caps=tcp, reach=(web("world", "2001:db8::2"), web("node", "2001:db8::2"))
        ),
        Case(
            "portmap-dual",
            mapped(DUAL),
            caps=tcp,
            reach=(web("world", "192.0.2.2"), web("world", "2001:db8::2")),
        ),
        Case("portmap-no-snat", mapped(V4, snat=False), caps=tcp, reach=(web("world", "192.0.2.2"),)),
        Case(
            "portmap-masquerade-all", mapped(V4, masqAll=True), caps=tcp, reach=(web("world", "192.0.2.2"),)
        ),
        Case(
            "portmap-mark-bit",
            mapped(V4, markMasqBit=5),
            caps=tcp,
            reach=(web("world", "192.0.2.2"), web("c1", "192.0.2.2")),
        ),
        Case("portmap-mark-bit-invalid", mapped(V4, markMasqBit=32), caps=tcp),
        Case("portmap-port-zero", mapped(V4), caps=maps((8080, 0, "tcp"))),
        Case("portmap-port-too-large", mapped(V4), caps=maps((70000, 80, "tcp"))),
        Case("portmap-unknown-protocol", mapped(V4), caps=maps((8080, 80, "carrier-pigeon"))),
        Case("portmap-two-containers", mapped(V4), caps=maps((8080, 80, "sctp")), second=False),
        Case("portmap-same-port-twice", mapped(V4), caps=tcp, second=True),
        Case("portmap-0.3.1", mapped(V4), caps=tcp, version="0.3.1", reach=(web("world", "192.0.2.2"),)),
        Case("portmap-alone", [{"type": "portmap", "capabilities": {"portMappings": True}}], caps=tcp),
        Case(
            "chain-of-three",
            [*mapped(DUAL), {"type": "tuning", "mtu": 1400}],
            caps=tcp,
            reach=(web("world", "192.0.2.2"),),
        ),
    ]


CASES: tuple[Case, ...] = (
    *_bridge_cases(),
    *_host_local_cases(),
    *_static_cases(),
    *_ptp_cases(),
    *_macvlan_cases(),
    *_loopback_cases(),
    *_tuning_cases(),
    *_portmap_cases(),
)
