"""What somebody may have typed, or a crash, a reboot or another program leaves behind: each a line of shell
(test_fault_lab.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """`harm` is shell, `check` the name of doctor's check, `says` a part of what it says. `fix` is what an
    operator does where the remedy is advice; `setup` comes before the containers.
    """

    name: str
    harm: str
    check: str
    says: str
    fix: str = ""
    setup: str = ""


def link_of(container: str) -> str:
    return f"$(mesokit ls {container} --json | jq -r '.items[0].host_interface')"


def inside(container: str, command: str) -> str:
    return f"nsenter --net=/run/netns/{container} {command}"


NET_D = "/etc/cni/net.d"
PTP = "/var/lib/cni/networks/ptp-net"
TWIN = '{"name": "twin", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.9.0.0/16"}}'
FIREWALL = "nft add table inet fw; nft 'add chain inet fw one { type filter hook %s priority 10; }'; "
DEAD_SOCKET = "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/run/mesokit/node.sock'); s.listen()"


def _file(name: str, text: str) -> str:
    return f"mkdir -p {NET_D}; echo '{text}' > {NET_D}/{name}"


FAULTS = [
    # name, harm, check, says
    Fault("the bridge is down", "ip link set web0 down", "host-side", "bridge web0 is down"),
    Fault(
        "a host end is down", f"ip link set {link_of('c1')} down", "host-side", "end of eth0 of container c1"
    ),
    Fault("a port has left", f"ip link set {link_of('c1')} nomaster", "host-side", "is no port of web0"),
    Fault("down inside", inside("c1", "ip link set eth0 down"), "inside", "eth0 is down"),
    Fault("no address", inside("c1", "ip addr del 10.9.0.2/24 dev eth0"), "inside", "10.9.0.2/24 is missing"),
    Fault("no route", inside("c1", "ip route del default"), "inside", "the route to 0.0.0.0/0 is missing"),
    Fault("no IPv6 route", inside("c1", "ip -6 route del default"), "inside", "the route to ::/0 is missing"),
    Fault("no route on the host", "ip route del 10.8.0.2", "host-routes", "no route to 10.8.0.2"),
    Fault(
        "no gateway", "ip addr del 10.9.0.1/24 dev web0", "gateways", "lost the gateway's address 10.9.0.1"
    ),
    Fault("flushed ruleset", "nft flush ruleset", "flushed-rules", "somebody flushed rules"),
    Fault(
        "flushed maps",
        "nft flush map inet mesokit port4; nft flush map inet mesokit port6",
        "flushed-rules",
        "ports is gone",
    ),
    Fault(
        "wrong MTU inside",
        inside("c1", "ip link set eth0 mtu 1400"),
        "packet-sizes",
        "differ in MTU",
        fix=inside("c1", "ip link set eth0 mtu 1500"),
    ),
    Fault("wrong MTU outside", f"ip link set {link_of('c2')} mtu 1400", "packet-sizes", "differ in MTU"),
    Fault("small bridge", "ip link set web0 mtu 1300", "packet-sizes", "smaller MTU than its containers"),
    Fault(
        "too small for IPv6",
        inside("c1", "ip link set eth0 mtu 1200"),
        "packet-sizes",
        "too small for IPv6",
        fix=inside("c1", "ip link set eth0 mtu 1500"),
    ),
    Fault(
        "small uplink",
        "ip link set eth0 mtu 1400",
        "packet-sizes",
        "larger packets than eth0 carries",
        fix="ip link set eth0 mtu 1500",
    ),
    Fault(
        "the host has the address",
        "ip addr add 10.9.0.2/32 dev lo",
        "duplicate-addresses",
        "two have the address 10.9.0.2",
        fix="ip addr del 10.9.0.2/32 dev lo",
    ),
    Fault(
        "somebody else answers",
        "ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:99 dev web0",
        "duplicate-addresses",
        "somebody else",
        fix="ip neigh del 10.9.0.2 dev web0",
    ),
    Fault(
        "one subnet for two",
        _file("twin.conf", TWIN),
        "overlapping-subnets",
        "twin and web-net",
        fix=f"rm {NET_D}/twin.conf",
    ),
    Fault(
        "a route into our subnet",
        "ip link add docker0 type bridge; ip addr add 10.9.0.129/25 dev docker0; ip link set docker0 up",
        "route-overlaps",
        "go to docker0",
    ),
    Fault(
        "a host route that shadows the pool",
        "ip route add 10.9.0.0/25 via 192.0.2.1 dev eth0",
        "route-overlaps",
        "go to eth0, which has a route there",
    ),
    Fault(
        "forwarding is switched off for one link",
        "sysctl -qw net.ipv4.conf.web0.forwarding=0",
        "forwarding",
        "web0",
    ),
    Fault(
        "FORWARD DROP of Docker",
        "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; "
        "iptables -I FORWARD -j DOCKER-USER",
        "foreign-forward-drop",
        "a firewall of others drops",
    ),
    Fault(
        "a firewall that rejects",
        FIREWALL % "forward" + "nft add rule inet fw one ct state established accept; "
        "nft add rule inet fw one reject",
        "foreign-forward-drop",
        "10.8.0.0/28, web0",
    ),
    Fault("IPv6 is dropped", "ip6tables -P FORWARD DROP", "foreign-forward-drop", "web0"),
    Fault("no forwarding", "sysctl -qw net.ipv4.ip_forward=0", "forwarding", "does not forward IPv4"),
    Fault("no IPv6", "sysctl -qw net.ipv6.conf.all.forwarding=0", "forwarding", "does not forward IPv6"),
    Fault(
        "no router is believed",
        "sysctl -qw net.ipv6.conf.eth0.accept_ra=1; ip -6 route del default; "
        "ip -6 route add default via fe80::1 dev eth0 proto ra expires 1800",
        "router-advertisements",
        "will lose its IPv6 default route by eth0",
    ),
    Fault(
        "strict reverse path",
        inside("c3", "sysctl -qw net.ipv4.conf.eth1.rp_filter=1"),
        "reverse-path",
        "drops what comes in by eth1",
    ),
    Fault(
        "strict reverse path of the host",
        "sysctl -qw net.ipv4.conf.web0.rp_filter=1",
        "reverse-path",
        "the host drops what container c3 answers from its address on network ptp-net",
    ),
    Fault(
        "told to answer no ARP inside",
        inside("c1", "sysctl -qw net.ipv4.conf.eth0.arp_ignore=8"),
        "silent-links",
        "c1 on network web-net is told to answer no ARP question",
    ),
    Fault(
        "a MAC address twice",
        inside("c3", "ip link set eth0 address $(mesokit ls c1 --json | jq -r '.items[0].mac')"),
        "duplicate-macs",
        "two at web0 have the MAC address",
    ),
    Fault("no ARP inside", inside("c1", "ip link set eth0 arp off"), "silent-links", "c1 on network web-net"),
    Fault("no ARP at the bridge", "ip link set web0 arp off", "silent-links", "web0 answers no ARP"),
    Fault(
        "the gateway must not answer",
        "sysctl -qw net.ipv4.conf.web0.arp_ignore=8",
        "silent-links",
        "web0 is told to answer no ARP question",
    ),
    Fault(
        "gateways answer within their subnet alone",
        "sysctl -qw net.ipv4.conf.all.arp_ignore=2",
        "silent-links",
        "those of network ptp-net do not find their gateway",
    ),
    Fault(
        "IPv6 is off at the bridge",
        "sysctl -qw net.ipv6.conf.web0.disable_ipv6=1",
        "ipv6-disabled",
        "web0 has IPv6 switched off",
    ),
    Fault(
        "IPv6 is off inside",
        inside("c1", "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1"),
        "ipv6-disabled",
        "container c1 has IPv6 switched off",
    ),
    Fault(
        "the clock was set back",
        'sed -i -E \'s/"time":[0-9.]+/"time":4000000000.5/\' /run/mesokit/attachments/ptp-net/*',
        "clock",
        "the clock of this host was set back: attachments (1) have times",
        fix='sed -i -E \'s/"time":[0-9.]+/"time":1000000000.5/\' /run/mesokit/attachments/ptp-net/*',
    ),
    Fault(
        "the host's own resolver",
        'sed -i \'s/"10.9.0.1"\\]/"127.0.0.53"]/g\' /run/mesokit/attachments/web-net/*',
        "name-servers",
        "told to ask 127.0.0.53 for names, which is themselves",
        fix='sed -i \'s/"127.0.0.53"\\]/"10.9.0.1"]/g\' /run/mesokit/attachments/web-net/*',
    ),
    Fault("died without DEL", "ip netns del c2", "stale", "1 attachment"),
    Fault(
        "a pool full of the dead",
        f"ip netns del c2; for n in $(seq 3 14); do cp -a {PTP}/10.8.0.2 {PTP}/10.8.0.$n; done",
        "full-pools",
        "network ptp-net is full",
    ),
    Fault(
        "an address of nobody",
        f"cp -a {PTP}/10.8.0.2 {PTP}/10.8.0.9; printf 'gone\\r\\neth0' > {PTP}/10.8.0.9",
        "stale",
        "1 reservation",
    ),
    Fault(
        "an address that is not reserved",
        f"rm {PTP}/10.8.0.2",
        "reservations",
        "1 address of network ptp-net in use and not reserved",
    ),
    Fault(
        "a spoilt record",
        "for f in /run/mesokit/attachments/ptp-net/*; do printf 'spoilt\\nspoilt\\n' > $f; done",
        "unreadable-records",
        "1 attachment record cannot be read",
        fix="ip netns del c2; mesokit gc --forget",
    ),
    Fault(
        "a record of a newer release",
        'sed -i \'s/"step": *"veth"/"step":"hologram"/\' /run/mesokit/attachments/ptp-net/*',
        "newer-records",
        "1 attachment was made by a newer release",
        fix='sed -i \'s/"hologram"/"veth"/\' /run/mesokit/attachments/ptp-net/*',
    ),
    Fault("rules without a record", "rm -r /run/mesokit/attachments/ptp-net", "stale", "element"),
    Fault(
        "the service was killed",
        f'python3 -c "{DEAD_SOCKET}"',
        "node-service",
        "has died",
        fix="rm /run/mesokit/node.sock",
    ),
    Fault(
        "a file that is no JSON",
        _file("bad.conf", "{"),
        "configuration-files",
        "is no JSON object",
        fix=f"rm {NET_D}/bad.conf",
    ),
    Fault(
        "a network twice",
        "; ".join(_file(f"{n}.conf", '{"name": "n", "type": "loopback"}') for n in "12"),
        "configuration-files",
        "is defined twice",
    ),
    Fault(
        "a full disk",
        "head -c 100M /dev/zero > /run/mesokit/full 2>/dev/null || true",
        "full-disks",
        "no room left",
        fix="rm /run/mesokit/full",
        setup="mkdir -p /run/mesokit; mount -t tmpfs -o size=8m none /run/mesokit",
    ),
    Fault(
        "no name server",
        "kill $(cat /run/dns.pid); sleep 0.2",
        "name-servers",
        "no name server answers",
        fix="sh /run/dns.sh </dev/null >/dev/null 2>&1",
    ),
    Fault(
        "the agent is out of reach",
        FIREWALL % "input" + "nft add rule inet fw one iifname web0 tcp dport 5051 drop",
        "agent-unreachable",
        "do not reach the Mesos agent",
        fix="nft delete table inet fw",
    ),
]
