"""Faults, one at a time, on nodes that worked: `mesokit doctor` names each, and its remedy works.

Each fault is a line of shell that somebody might have typed, or that a crash, a reboot or another program
leaves behind. The remedy that doctor prints is run as it is (`mesokit` is on PATH); where it is advice in
words, the fault says what an operator would do. Healthy nodes of all kinds get no alarm.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netns_tests.faults import FAULTS, FIREWALL, Fault, inside, link_of
from netns_tests.node import PATH, Node, started, until
from netns_tests.plugins import MESOKIT, service
from netns_tests.test_view import POINT, WEB, attach, published

ENV = {"PATH": f"{Path(MESOKIT).parent}:{PATH}"}


DNS = """python3 - <<'X' &
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.9.0.1", 53))
open("/run/dns.pid", "w").write(str(os.getpid()))
while True:
    d, a = s.recvfrom(512)
    s.sendto(d, a)
X
while ! test -s /run/dns.pid; do sleep 0.05; done
"""
AGENT = """
import socket, time
s = socket.socket()
s.bind(("192.0.2.2", 5051))
s.listen()
time.sleep(3600)
"""


def _doctor(node: Node) -> list[dict[str, Any]]:
    told = node.run([MESOKIT, "doctor", "--json"], check=False, env=ENV)
    assert told.status in {0, 1, 2} and told.stdout, told
    found: list[dict[str, Any]] = told.json()["items"]
    return found


def _shell(node: Node, script: str) -> None:
    node.run(["sh", "-c", script], env=ENV)


def _prepared(node: Node, ours: str, fault: Fault) -> Iterator[None]:
    node.uplink()
    if fault.setup:
        _shell(node, fault.setup)
    web = published(WEB, 8080)
    if fault.check == "name-servers":
        bridge, *others = web["plugins"]
        ranges = {"type": "host-local", "subnet": "10.9.0.0/24"}
        web = web | {"plugins": [bridge | {"ipam": ranges, "dns": {"nameservers": ["10.9.0.1"]}}, *others]}
    attach(node, ours, web, "c1")
    if fault.check != "agent-unreachable":
        attach(node, ours, POINT, "c2")
    if fault.check in {"reverse-path", "duplicate-macs"}:
        box = attach(node, ours, WEB, "c3")
        node.cni("ADD", f"{ours}/ptp", POINT, "c3", box, ifname="eth1").ok()
    if fault.check == "name-servers":
        node.path("/run/dns.sh").write_text(DNS)
        _shell(node, "sh /run/dns.sh </dev/null >/dev/null 2>&1")
    if fault.check == "agent-unreachable":
        node.path("/run/agent.py").write_text(AGENT)
        Path(node.path("/run/mesos-agent")).symlink_to("/usr/bin/python3")
        flags = [
            "--work_dir=/var/lib/mesos",
            "--network_cni_plugins_dir=/x",
            "--network_cni_config_dir=/etc/cni/net.d",
        ]
        with started(node.popen(["/run/mesos-agent", "/run/agent.py", "--ip=192.0.2.2", *flags])):
            until(lambda: _doctor(node) == [], what="the agent listens")
            yield
        return
    yield


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_doctor_names_the_fault_and_its_remedy_works(node: Node, ours: str, fault: Fault) -> None:
    for _ in _prepared(node, ours, fault):
        assert _doctor(node) == [], "the node was not healthy before"
        _shell(node, fault.harm)
        found = [
            item for item in _doctor(node) if item["check"] == fault.check and fault.says in item["about"]
        ]
        assert found, (fault.says, _doctor(node))
        for item in found:
            assert item["evidence"] and item["remedy"]
        text = node.run([MESOKIT, "doctor"], check=False, env=ENV)
        assert text.status in {1, 2} and found[0]["remedy"].split("\n")[0] in text.text
        _shell(node, fault.fix or "\n".join(item["remedy"] for item in found))
        for item in _doctor(node):  # what comes with it, such as addresses that a link loses when it is down
            _shell(node, item["remedy"])
        assert _doctor(node) == []


NETWORKS: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "one bridge": [WEB],
    "one ptp": [POINT],
    "bridge and ptp": [WEB, POINT],
    "a bridge of layer two": [
        {"cniVersion": "1.0.0", "name": "flat", "type": "bridge", "bridge": "flat0",
         "ipam": {"type": "static", "addresses": [{"address": "192.0.2.77/24", "gateway": "192.0.2.1"}]}},
    ],
    "IPv6 alone": [
        {"cniVersion": "1.0.0", "name": "six", "type": "bridge", "bridge": "six0", "isDefaultGateway": True,
         "ipam": {"type": "host-local", "subnet": "fd00:6::/64"}},
    ],
    "a macvlan": [
        {"cniVersion": "1.0.0", "name": "mac", "type": "macvlan", "master": "eth0",
         "ipam": {"type": "host-local", "subnet": "192.0.2.0/24", "rangeStart": "192.0.2.100"}},
    ],
    "limits and tuning": [
        {"cniVersion": "1.0.0", "name": "tuned", "type": "tuning", "mtu": 1400,
         "delegate": {"type": "bandwidth", "ingressRate": 8000000, "ingressBurst": 800000,
                      "delegate": {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.7.0.0/24"}}}},
    ],
    "no address at all": [{"cniVersion": "1.0.0", "name": "bare", "type": "bridge", "bridge": "bare0"}],
    "loopback": [{"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}],
}  # fmt: skip

NEIGHBOURS = {
    "alone": "true",
    "Docker beside, with our bridge let pass": (
        "iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -I FORWARD -j DOCKER-USER; "
        "for i in web0 six0 bare0 flat0; do "
        "iptables -A DOCKER-USER -i $i -j ACCEPT; ip6tables -I FORWARD -i $i -j ACCEPT; done; "
        "iptables -A DOCKER-USER -s 10.0.0.0/8 -j ACCEPT; ip6tables -P FORWARD DROP; "
        "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0"
    ),
    "a route for all of 10/8": "ip route add 10.0.0.0/8 via 192.0.2.1",
}


@pytest.mark.parametrize("beside", NEIGHBOURS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_healthy_node_has_no_alarm(node: Node, ours: str, kind: str, beside: str) -> None:
    node.uplink()
    for number, conf in enumerate(NETWORKS[kind]):
        for copy in range(1 if "static" in str(conf) else 2):
            attach(node, ours, conf, f"c{number}-{copy}")
    _shell(node, NEIGHBOURS[beside])
    assert _doctor(node) == []
    told = node.run([MESOKIT, "doctor"], env=ENV)
    assert told.status == 0 and "healthy: " in told.text
    assert node.run([MESOKIT, "check"], env=ENV, check=False).status == 0


WAYS = {
    "policy": ("iptables -P FORWARD DROP", "192.0.2.1", "table ip filter, chain FORWARD"),
    "rule": (
        FIREWALL % "forward" + "nft add rule inet fw one ip daddr 192.0.2.1 drop",
        "192.0.2.1",
        "table inet fw",
    ),
    "bridge": (
        "nft add table bridge fw; "
        "nft 'add chain bridge fw one { type filter hook forward priority 0; policy drop; }'",
        "c3",
        "table bridge fw, chain one",
    ),
    "target down": (inside("c3", "ip link set eth0 down"), "c3", "eth0 of container c3"),
    "target's port": (f"ip link set {link_of('c3')} nomaster", "c3", link_of("c3")),
    "source's port": (f"ip link set {link_of('c1')} down", "c3", link_of("c1")),
    "no route": (inside("c1", "ip route del default"), "192.0.2.1", "eth0 of container c1"),
    "no neighbour": ("true", "192.0.2.99", "neighbour 192.0.2.99"),
    "no gateway": ("ip addr del 10.9.0.1/24 dev web0", "192.0.2.1", "neighbour 10.9.0.1"),
    "the target drops": (
        'nsenter --net=/run/netns/c3 sh -c "nft add table ip t; '
        "nft 'add chain ip t i { type filter hook input priority 0; policy drop; }'\"",
        "c3",
        "eth0 of container c3",
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_ping_says_where_packets_end(node: Node, ours: str, name: str) -> None:
    harm, target, place = WAYS[name]
    node.uplink()
    for cid in ("c1", "c3"):
        attach(node, ours, WEB, cid)
    before = node.run([MESOKIT, "ping", "c1", "c3", "tcp/9"], env=ENV)
    assert before.text.count("refused") == 2, "both families reach the target"
    place = node.run(["sh", "-c", f'printf %s "{place}"'], env=ENV).text
    rules = node.shell("nft list ruleset")
    _shell(node, harm)
    told = node.run([MESOKIT, "ping", "c1", target, "--seconds", "0.2", "--json"], check=False, env=ENV)
    (found,) = [item for item in told.json()["items"] if item["family"] == 4]
    assert told.status == 1
    assert found["ends"].startswith(place), found
    assert ("not ours" in found["about"]) == place.startswith("table "), found
    if harm == "true":
        assert node.shell("nft list ruleset") == rules, "the trace has gone"


def test_a_healthy_node_with_the_service_has_no_alarm(node: Node, ours: str) -> None:
    with service(node):
        attach(node, ours, WEB, "c1")
        assert _doctor(node) == []


def test_who_is_not_root_is_told_what_cannot_be_seen(node: Node, ours: str) -> None:
    attach(node, ours, WEB, "c1")
    told = node.run(["setpriv", "--reuid", "1000", "--clear-groups", MESOKIT, "doctor"], check=False)
    assert told.status == 1 and "UNKNOWN  hidden" in told.text and "Traceback" not in told.stderr.decode()


def test_a_mesos_container_that_gets_the_hosts_resolver_is_told(node: Node, ours: str) -> None:
    box = node.netns("c1")
    place = "/run/mesos/isolators/network/cni/c1"
    _shell(node, f"mkdir -p {place}; touch {place}/ns; mount --bind {box.path} {place}/ns")
    node.cni("ADD", f"{ours}/ptp", POINT, "c1", f"{place}/ns").ok()
    _shell(node, "echo nameserver 192.0.2.1 > /etc/resolv.conf")
    assert _doctor(node) == []
    _shell(node, "printf 'nameserver 127.0.0.53\\noptions edns0\\n' > /etc/resolv.conf")
    (found,) = _doctor(node)
    assert found["check"] == "name-servers" and "which names 127.0.0.53: that is themselves" in found["about"]


def test_thousands_of_leases_of_nobody_in_a_pool_of_16_million(node: Node, ours: str) -> None:
    conf = POINT | {"name": "big-net", "ipam": {"type": "host-local", "subnet": "10.0.0.0/8"}}
    attach(node, ours, conf, "c1")
    place = node.path("/var/lib/cni/networks/big-net")
    for number in range(3000):
        (place / f"10.1.{number // 256}.{number % 256}").write_text(f"gone{number}\r\neth0")
    (pool,) = node.run([MESOKIT, "ip", "--json"], env=ENV, timeout=20).json()["items"]
    assert (pool["used"], pool["size"]) == (3001, 2**24 - 3)
    assert _doctor(node) == []  # of other plugins, perhaps, and there is room
    told = node.run([MESOKIT, "gc", "--dry-run"], env=ENV, timeout=20)
    assert told.text == "nothing is stale\n"
    *first, last = told.stderr.decode().splitlines()
    assert len(first) == 20 and last == "and 2980 more on network big-net: mesokit ip big-net"
