"""Cases of tuning, portmap and firewall, chained."""

from __future__ import annotations

from typing import Any

from netns_tests.case import (
    ABROAD4,
    ABROAD6,
    DUAL,
    GATEWAY4,
    V4,
    V6,
    Case,
    Conf,
    Reach,
    bridge,
    ping,
)


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


def _firewall_cases() -> list[Case]:
    def guarded(ipam: Conf, **keys: Any) -> list[Conf]:
        base = bridge(ipam, isDefaultGateway=True, ipMasq=True)
        return [base, {"type": "firewall", "backend": "iptables", **keys}]

    docker = "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP"
    return [
        Case("firewall", guarded(V4), reach=(*GATEWAY4, ABROAD4)),
        Case("firewall-dropped-without", guarded(V4)[:1], setup=docker, reach=(ABROAD4,)),
        Case("firewall-docker", guarded(V4), setup=docker, reach=(ABROAD4, ping("world", "10.9.0.2"))),
        Case(
            "firewall-docker-default",
            [*guarded(V4)[:1], {"type": "firewall"}],
            setup=docker,
            reach=(ABROAD4,),
        ),
        Case("firewall-docker-dual", guarded(DUAL), setup=docker, reach=(ABROAD4, ABROAD6)),
        Case(
            "firewall-admin-chain",
            guarded(V4, iptablesAdminChainName="MINE"),
            setup=f"{docker}; iptables -N MINE; iptables -A MINE -d 192.0.2.1 -j DROP",
            reach=(ABROAD4,),
        ),
        Case(
            "firewall-same-bridge",
            guarded(V4, ingressPolicy="same-bridge"),
            second=True,
            reach=(ping("c1", "10.9.0.3"), ABROAD4),
        ),
        Case("firewall-policy-invalid", guarded(V4, ingressPolicy="closed")),
        Case("firewall-0.4.0", guarded(V4), version="0.4.0", setup=docker, reach=(ABROAD4,)),
        Case("firewall-alone", [{"type": "firewall", "backend": "iptables"}]),
        Case("firewall-two-containers", guarded(V4), second=True, reach=(ping("c1", "10.9.0.3"),)),
    ]


META = (*_tuning_cases(), *_portmap_cases(), *_firewall_cases())
