"""What an operator meets at night and nobody has listed: each is told by doctor with what was seen, and its
remedy works. One node for all of them, one after another, healthy in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from netns_tests.faults import inside
from netns_tests.node import PATH, Node
from netns_tests.plugins import MESOKIT
from netns_tests.test_view import POINT, WEB, attach, published

ENV = {"PATH": f"{Path(MESOKIT).parent}:{PATH}"}


@dataclass(frozen=True, slots=True)
class Case:
    """As faults.Fault; `undo` puts right what the remedy leaves, or what it is words for."""

    name: str
    harm: str
    check: str
    says: str
    undo: str = ""
    by_remedy: bool = True


RAW = "nft add table %s fw; nft 'add chain %s fw one { type %s hook %s priority %d; }'; "
NO_TABLE = "nft delete table %s fw"

CASES = [
    Case(
        "an isolated port", "bridge link set dev $C1 isolated on", "bridge-ports", "apart from container c1"
    ),
    Case("a locked port", "bridge link set dev $C1 locked on", "bridge-ports", "not heard of before from"),
    Case(
        "a deaf port", "bridge link set dev $C1 bcast_flood off", "bridge-ports", "sends no broadcast"
    ),
    Case(
        "a spanning tree",
        "ip link set web0 type bridge stp_state 1 forward_delay 3000; ip link set $C1 down; "
        "ip link set $C1 up",
        "bridge-ports",
        "bridge web0 lets nothing pass from and to container c1",
    ),
    Case(  # those that drop: test_qemu_filters.py
        "a filter that leads a bridge's packets to another link",
        "ip link add aside type veth peer name beyond; ip link set aside up; tc qdisc add dev web0 ingress; "
        "tc filter add dev web0 ingress protocol all pref 3 u32 match u32 0 0 "
        "action mirred egress redirect dev aside",
        "traffic-filters",
        "leads all that comes in by web0 to aside, the device of network web-net",
        undo="ip link del aside",
    ),
    Case(
        "an uplink without an address",
        "ip address del 192.0.2.2/24 dev eth0; ip route add default via 192.0.2.1 dev eth0 onlink",
        "uplink-addresses",
        "eth0, by which the default route leaves, has no IPv4 address",
        undo="ip address add 192.0.2.2/24 dev eth0",
        by_remedy=False,
    ),
    Case(
        "a rule that blackholes a subnet",
        "ip rule add from 10.9.0.0/24 blackhole pref 100",
        "refusing-rules",
        "ends what containers of network web-net send or get",
    ),
    Case(
        "a rule for what comes from the bridge",
        "ip -6 rule add iif web0 prohibit pref 90",
        "refusing-rules",
        "ends what containers of network web-net",
    ),
    Case(
        "a table without a way out",
        "ip route add unreachable default table 100; ip rule add iif web0 lookup 100 pref 100",
        "refusing-rules",
        "ends what containers of network web-net",
        undo="ip route flush table 100",
    ),
    Case(
        "a blackhole for a container",
        "ip route add blackhole 10.9.0.2/32",
        "refusing-routes",
        "ends what goes to container c1 on network web-net",
    ),
    Case(
        "an IPv6 blackhole",
        "ip -6 route add unreachable fd00:9::/80 dev lo",
        "refusing-routes",
        "ends what goes to container c1 and 1 more",
    ),
    Case(
        "another gateway inside",
        inside("c1", "ip route replace default via 10.9.0.99"),
        "inside",
        "the route to 0.0.0.0/0 does not go by 10.9.0.1",
    ),
    Case(
        "an entry by hand",
        "ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:99 nud permanent dev web0",
        "duplicate-addresses",
        "the host was told by hand that 10.9.0.2 is somebody else",
    ),
    Case(
        "a raw rule that drops the bridge",
        RAW % ("inet", "inet", "filter", "prerouting", -300)
        + "nft add rule inet fw one iifname web0 counter drop",
        "foreign-rules",
        "a rule of others drops all of web0",
        undo=NO_TABLE % "inet",
        by_remedy=False,
    ),
    Case(
        "a rule that drops the subnet",
        "iptables -I FORWARD -s 10.8.0.0/28 -j DROP",
        "foreign-rules",
        "a rule of others drops all of 10.8.0.0/28",
        undo="iptables -D FORWARD -s 10.8.0.0/28 -j DROP",
        by_remedy=False,
    ),
    Case(
        "packets that are not tracked",
        RAW % ("ip", "ip", "filter", "prerouting", -300)
        + "nft add rule ip fw one ip saddr 10.0.0.0/8 notrack",
        "foreign-rules",
        "takes 10.0.0.0/8 out of connection tracking",
        undo=NO_TABLE % "ip",
        by_remedy=False,
    ),
    Case(
        "a zone of connections",
        RAW % ("ip", "ip", "filter", "prerouting", -300)
        + "nft add rule ip fw one iifname web0 ct zone set 7",
        "foreign-rules",
        "takes web0 out of connection tracking",
        undo=NO_TABLE % "ip",
        by_remedy=False,
    ),
    Case(
        "a port that is led elsewhere",
        RAW % ("ip", "ip", "nat", "prerouting", -150)
        + "nft add rule ip fw one tcp dport 8080 dnat to 203.0.113.9",
        "foreign-rules",
        "leads port 8080/tcp elsewhere, and not to container c1",
        undo=NO_TABLE % "ip",
        by_remedy=False,
    ),
    Case(
        "told to answer nobody",
        inside("c1", "sysctl -qw net.ipv4.conf.eth0.arp_ignore=8"),
        "silent-links",
        "c1 on network web-net is told to answer no ARP question",
    ),
]  # fmt: skip

#: What others have on healthy nodes, and is no fault.
HARMLESS = [
    RAW % ("inet", "inet", "filter", "prerouting", -300)
    + "nft add rule inet fw one iifname web0 tcp dport 25 drop; nft add rule inet fw one iifname eth9 drop; "
    "nft add rule inet fw one ip saddr 10.9.0.77 drop",
    "ip route add blackhole 10.0.0.0/8; ip route add unreachable default metric 4278198272",
    "ip rule add fwmark 7 blackhole pref 100; ip rule add from 172.16.0.0/12 blackhole pref 101; "
    "ip rule add iif eth0 prohibit pref 102; ip rule add from 10.9.0.0/24 lookup main pref 103",
    "bridge link set dev $C1 learning off",
    "ip link add shaper type ifb; ip link set shaper up; tc qdisc add dev $C1 clsact; "
    "tc filter add dev $C1 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev shaper; "
    "tc filter add dev $C1 egress protocol all u32 match u32 0 0 action mirred egress mirror dev lo; "
    "tc filter add dev $C1 egress protocol ip u32 match ip dst 203.0.113.0/24 "
    "action mirred egress redirect dev lo",
    "ip address del 192.0.2.2/24 dev eth0; ip address add 192.0.2.2/32 dev lo; "
    "ip route add default dev eth0",
    "ip neigh replace 192.0.2.77 lladdr 02:00:00:00:00:77 nud permanent dev eth0",
    "sysctl -qw net.ipv4.conf.all.arp_filter=1 net.ipv4.conf.all.arp_announce=2; "
    "sysctl -qw net.ipv4.conf.all.arp_ignore=1",
    RAW % ("ip", "ip", "nat", "output", -150)
    + "nft add rule ip fw one ip daddr 203.0.113.7 tcp dport 8080 dnat to 203.0.113.9",
]  # fmt: skip


def doctor(node: Node) -> list[dict[str, Any]]:
    told = node.run([MESOKIT, "doctor", "--json"], check=False, env=ENV)
    assert told.status in {0, 1, 2} and told.stdout, told
    found: list[dict[str, Any]] = told.json()["items"]
    return found


@pytest.fixture
def night(node: Node, ours: str) -> dict[str, str]:
    """The environment of a shell in a node with c1 and c2 on a bridge and p1 on ptp."""
    node.uplink()
    attach(node, ours, published(WEB, 8080), "c1")
    attach(node, ours, WEB, "c2")
    attach(node, ours, POINT, "p1")
    listed = node.run([MESOKIT, "ls", "--json"]).json()["items"]
    return ENV | {item["container_id"].upper(): item["host_interface"] for item in listed}


def test_doctor_names_what_nobody_has_listed(node: Node, night: dict[str, str]) -> None:
    assert doctor(node) == []
    for case in CASES:
        node.run(["sh", "-ec", case.harm], env=night)
        found = [item for item in doctor(node) if item["check"] == case.check and case.says in item["about"]]
        assert found, (case.name, doctor(node))
        for item in found:
            assert item["evidence"] and item["remedy"]
            if case.by_remedy:
                node.run(["sh", "-c", item["remedy"]], check=False, env=night)
        if case.undo:
            node.run(["sh", "-ec", case.undo], env=night)
        assert doctor(node) == [], case.name


def test_what_is_nobodys_fault_is_no_alarm(node: Node, night: dict[str, str]) -> None:
    for harmless in HARMLESS:
        node.run(["sh", "-ec", harmless], env=night)
        assert doctor(node) == [], harmless
        node.run(["sh", "-c", "nft delete table ip fw; nft delete table inet fw"], check=False, env=night)


def test_a_container_that_lives_without_a_path(node: Node, night: dict[str, str]) -> None:
    """Somebody unmounted its namespace: gc must not take the network of a running task."""
    sleeper = node.popen(["nsenter", "--net=/run/netns/c2", "sleep", "600"])
    node.shell("umount /run/netns/c2; ip netns del p1")
    (held, stale) = sorted(doctor(node), key=lambda item: str(item["level"]))
    assert "containers that are alive (1)" in held["about"] and "1 attachment" in stale["about"]
    told = node.run([MESOKIT, "gc"], check=False, env=ENV)
    assert told.status == 0 and "p1" in told.text and b"left alone: attachment of c2 eth0" in told.stderr
    shown = node.run([MESOKIT, "check"], check=False, env=ENV).text
    remedy = next(line for line in shown.splitlines() if "remedy: " in line).partition("remedy: ")[2]
    assert "mount --bind /proc/" in remedy
    node.run(["sh", "-ec", remedy], env=ENV)
    assert doctor(node) == [] and node.run([MESOKIT, "check"], env=ENV).status == 0
    sleeper.kill()
    node.shell("umount /run/netns/c2; rm /run/netns/c2")
    assert b"left alone" not in node.run([MESOKIT, "gc"], check=False, env=ENV).stderr
    assert [item["container_id"] for item in node.run([MESOKIT, "ls", "--json"]).json()["items"]] == ["c1"]


WAYS = [
    # harm, what puts it right, where packets to the uplink's router end, and what is said
    (
        "ip rule add from 10.9.0.0/24 blackhole pref 100",
        "ip rule del pref 100",
        "the host's routes",
        "from 10.9.0.2",
    ),
    (
        "ip route add blackhole 10.9.0.2/32",
        "ip route del blackhole 10.9.0.2/32",
        "the host's routes",
        "to 10.9.0.2",
    ),
    (
        "ip rule add iif web0 prohibit pref 90",
        "ip rule del pref 90",
        "the host's routes",
        "prohibited",
    ),
    (
        inside("c1", "ip route replace default via 10.9.0.99"),
        inside("c1", "ip route replace default via 10.9.0.1"),
        "neighbour 10.9.0.99",
        "does not answer",
    ),
    (
        inside("c1", "ip neigh replace 10.9.0.1 lladdr 02:00:00:00:00:99 nud permanent dev eth0"),
        inside("c1", "ip neigh del 10.9.0.1 dev eth0"),
        "neighbour 10.9.0.1",
        "told by hand that it is 02:00:00:00:00:99",
    ),
]


def test_ping_says_where_packets_end_at_night(node: Node, night: dict[str, str]) -> None:
    words = [MESOKIT, "ping", "c1", "192.0.2.1", "--seconds", "0.1", "--json"]
    for harm, right, place, says in WAYS:
        node.run(["sh", "-ec", harm], env=night)
        (found,) = node.run(words, check=False, env=ENV).json()["items"]
        assert found["ends"] == place and says in found["about"], (harm, found)
        node.run(["sh", "-ec", right], env=night)
        assert node.run(words, check=False, env=ENV).status == 0, right
