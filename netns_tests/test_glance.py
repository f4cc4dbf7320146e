"""A digest tells every change that the programs would tell, and none that comes by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from netns_tests import glance as seen
from netns_tests import snapshot as told
from netns_tests.glance import glance
from netns_tests.node import Node, until
from netns_tests.snapshot import snapshot
from netns_tests.sysctls import Sysctls

WORLD = """
    ip link add br0 type bridge
    ip link add v0 type veth peer name v1
    ip link set v0 master br0
    for name in br0 v0 v1; do ip link set $name addrgenmode none up; done
    ip addr add 10.9.0.1/24 dev br0
    ip addr add fd00:9::1/64 dev br0 nodad
    ip route add 10.30.0.0/16 via 10.9.0.7
    ip -6 route add fd00:30::/32 via fd00:9::7
"""
#: One after another: of every kind that a snapshot has.
CHANGES = (
    "ip link add v2 type veth peer name v3",
    "ip link set v1 name v9",
    "ip link set v0 mtu 1400",
    "ip link set v0 txqueuelen 77",
    "ip link set v0 address 02:00:00:00:00:07",
    "ip link set v0 alias somebody",
    "ip link property add dev v0 altname another",
    "ip link set v0 addrgenmode eui64",
    "ip link set v0 group 7",
    "ip link set v0 promisc on",
    "ip link set v0 gso_max_size 4000",
    "ip link set br0 type bridge ageing_time 7000",
    "ip link set br0 type bridge stp_state 1",
    "ip link set v0 type bridge_slave hairpin on",
    "ip link set v0 type bridge_slave cost 7",
    "bridge link set dev v0 isolated on",
    "tc qdisc add dev v0 root tbf rate 8mbit burst 8k latency 20ms",
    "ip addr add 10.9.0.2/24 dev br0",
    "ip addr change 10.9.0.1/24 dev br0 metric 7",
    "ip addr add fd00:9::2/64 dev br0 nodad",
    "ip addr add fe80::1/64 dev br0 nodad",
    "ip addr change fd00:9::1/64 dev br0 nodad noprefixroute",
    "ip route add 10.31.0.0/16 dev br0",
    "ip route add 10.31.0.0/16 dev br0 table 7",
    "ip route add unreachable 10.32.0.0/16",
    "ip route change 10.30.0.0/16 via 10.9.0.8",
    "ip route change 10.30.0.0/16 via 10.9.0.7 mtu 1300",
    "ip route del 10.30.0.0/16",
    "ip -6 route add fd00:31::/32 dev br0",
    "ip -6 route add blackhole fd00:32::/32",
    "ip -6 route change fd00:30::/32 via fd00:9::8",
    "ip rule add from 10.9.0.2 table 7",
    "ip rule del table default",
    "ip -6 rule add from fd00:9::2 table 7",
    "bridge fdb add 02:00:00:00:00:09 dev v0 master",
    "bridge fdb add 02:00:00:00:00:19 dev br0 self",
    "nft add table inet other",
    "nft add chain inet other some",
    "sysctl -qw net.ipv4.ip_forward=1",
    "sysctl -qw net.ipv4.conf.v0.arp_filter=1",
    "sysctl -qw net.ipv6.conf.v0.hop_limit=9",
    "sysctl -qw net.ipv6.conf.default.accept_dad=0",
    "sysctl -qw net.core.somaxconn=77",
    "ip link set v0 nomaster",
    "ip link set v0 down",
    "ip addr del 10.9.0.1/24 dev br0",
)


def test_every_change_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the snapshot says with the digest is what the programs say."""
    node.shell(WORLD)
    before = snapshot(node)
    for change in CHANGES:
        node.shell(change)
        after = snapshot(node)
        assert after != before, change
        with monkeypatch.context() as patch:
            patch.setattr(told, "_SAID", {})
            assert snapshot(node) == after, change
        before = after


def test_programs_are_started_once_for_a_state(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets that pass, timers and what came and went again make no other state."""
    node.shell(WORLD)
    box = node.netns("c1")
    node.shell("ip link set v1 netns c1; ip -n c1 addr add 10.9.0.5/24 dev v1; ip -n c1 link set v1 up")
    assert box.ping("10.9.0.1")
    links = ("ip", "-j", "link", "show", "type", "bridge"), ("ip", "-j", "link", "show", "type", "veth")
    until(lambda: all(each["operstate"] == "UP" for words in links for each in node.json(*words)))
    before = snapshot(node, [box])
    monkeypatch.setattr(told, "_told", None)
    assert box.ping("10.9.0.1")
    node.shell("ip addr add 10.9.0.2/24 dev br0; ip addr del 10.9.0.2/24 dev br0")
    assert snapshot(node, [box]) == before


#: One after another: what becomes of links whose settings were read before.
COME_AND_GO = (
    "ip link set v1 name v9",
    "ip link add v1 type bridge; sysctl -qw net.ipv4.conf.v1.arp_filter=1",
    "ip link del v1; ip link add v1 type bridge; sysctl -qw net.ipv6.conf.v1.hop_limit=7",
    "ip link set v1 name v2; ip link set v9 name v1",
    "sysctl -qw net.ipv6.conf.v1.stable_secret=fd00::1",
    "ip link del v2; ip link del v1",
)


def test_settings_are_those_of_the_links_that_are_there(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """As files tell that are opened anew."""
    node.shell(WORLD)
    place = f"/proc/{node.pid}/ns/net"
    for change in ("true", *COME_AND_GO):
        node.shell(change)
        kept = glance(place).sysctls
        with monkeypatch.context() as patch:
            patch.setattr(seen, "_READ", Sysctls(most=0))
            assert glance(place).sysctls == kept, change


def _open_now() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_more_files_stay_open_than_may() -> None:
    many, before = len(Sysctls(most=0).read(1)), _open_now()
    sysctls = Sysctls(most=3 * many)
    for number in range(5):  # of namespaces
        sysctls.read(number)
    assert many <= _open_now() - before <= 3 * many
    sysctls.most = 0
    sysctls.read(1)
    assert _open_now() == before


def test_tables_of_nftables_are_seen(node: Node) -> None:
    place = f"/proc/{node.pid}/ns/net"
    assert not glance(place).ruled
    node.shell("nft add table bridge other")
    assert glance(place).ruled
