"""`mesokit update` killed between every two changes: it is taken back or finished by CHECK, or all goes with
DEL, or with GC alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netns_tests.case import bridge, local
from netns_tests.node import Netns, Node
from netns_tests.policy_box import task
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_crash import Driver, _clean, driver, make_box, shim
from netns_tests.test_update import CHAIN, NET, PTP, record

__all__ = ["shim"]

COMMON = (
    "mtu=1400",
    "routes+=10.40.0.0/16",
    "routes-=10.30.0.0/16",
    "addresses+=10.9.0.77/24,fd00:9::77/64",
)
#: The record has lines of the attempt, and the index of reservations another order; links of the host look
#: for duplicates of their own addresses for a second; who dies while taking an address away leaves a setting
#: that then matters to nobody.
ALLOWED = [
    r"file /run/lock/crash-counter",
    r"file /run/mesokit/(attachments|host-local)/",
    r"c1: sysctl ipv4/conf/eth0/promote_secondaries ",
]
SIX = [{"address": "fd00:9::5/64"}, {"address": "fd00:9::6/64"}]
TWO: dict[str, Any] = {
    "type": "static",
    "addresses": [{"address": "10.9.0.5/24"}, {"address": "10.9.0.6/24"}],
}
SCENARIOS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "chain": (
        CHAIN,
        (
            *COMMON,
            "gateway=10.9.0.254",
            "sysctl.net.core.somaxconn=600",
            "ingressRate=400000000",
            "egressRate=200000000",
            "ports+=9090:90/udp,8443:443",
            "ports-=8080",
            "macspoofchk=true",
            "portIsolation=true",
        ),
    ),
    "ptp": (PTP, COMMON),
    "fewer": (
        NET | bridge(TWO, isGateway=True, ipMasq=True, macspoofchk=True),
        ("addresses-=10.9.0.6", "macspoofchk=false"),
    ),
    "fewer-ptp": (
        NET | {"type": "ptp", "ipMasq": True, "ipam": TWO | {"addresses": [*TWO["addresses"], *SIX]}},
        ("addresses-=10.9.0.6,fd00:9::6", "routes+=10.40.0.0/16,fd00:40::/32"),
    ),
    "task": (
        NET
        | {"args": task(["web"], {"tier": "back"})}
        | bridge(TWO, isGateway=True, policy="groups", policyLabels=["tier"]),
        (
            "dns.nameservers=10.0.0.3",
            "groups=web,db",
            "labels.tier=front",
            "hairpinMode=true",
        ),
    ),
    "first-port": (
        CHAIN | {"runtimeConfig": {}},
        ("ports+=9090:90", "gateway=fd00:9::fe", "ingressRate=0", "ingressBurst=0"),
    ),
    "macvlan": (
        NET | {"type": "macvlan", "master": "eth0", "mtu": 1400, "ipam": {**TWO, "addresses": SIX}},
        ("mtu=1300", "addresses+=fd00:9::77/64", "routes+=fd00:40::/32@fd00:9::1"),
    ),
}
#: What a task with the right to does to its own network, and an update that it makes hard to take back.
SPITE = "ip link set eth0 down; ip addr flush dev eth0; sysctl -qw net.ipv6.conf.all.disable_ipv6=1"
UNDONE = (
    "gateway=10.9.0.254,fd00:9::fe",
    "routes+=10.40.0.0/16",
    "addresses+=10.9.0.77/24,fd00:9::77/64",
    "sysctl.net.ipv6.conf.eth0.hop_limit=99",
)
#: What a Mesos agent wrote for the container.
RESOLV = "/run/mesos/isolators/network/cni/c1/resolv.conf"


def agent(node: Node) -> None:
    path = node.path(RESOLV)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("nameserver 10.0.0.1\n")


def _check(plugin: Driver, box: Netns, result: dict[str, Any]) -> None:
    plugin.succeed("CHECK", box, prevResult=result)


def _added(plugin: Driver, box: Netns) -> dict[str, Any]:
    answer = plugin.call("ADD", box)
    assert answer["status"] == 0, answer
    result: dict[str, Any] = json.loads(answer["stdout"])
    return result


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SCENARIOS)
def test_an_update_that_was_killed_is_taken_back_or_finished(shim: Path, name: str) -> None:
    conf, words = SCENARIOS[name]
    with Node() as node:
        node.uplink()
        agent(node)
        box = make_box(node)
        with driver(node, shim, conf) as plugin:
            result = _added(plugin, box)
            old, before = record(node), snapshot(node, [box])
            crash, done = 1, 0
            while (answer := plugin.update(words, crash))["status"] == -9:
                _check(plugin, box, result)
                now = record(node)
                if now["revision"] == 1:
                    assert not done, "what is complete is not taken back by dying later"
                    assert now == old, crash
                    assert_clean(node, before, f"killed before change {crash}", boxes=[box], allowed=ALLOWED)
                else:
                    done += 1
                    plugin.succeed("DEL", box)
                    agent(node)
                    result = _added(plugin, box)
                    old, before = record(node), snapshot(node, [box])
                crash += 1
            assert answer["status"] == 0, answer
            assert crash > 5
            _check(plugin, box, result)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_left_of_an_update_that_was_killed(shim: Path, name: str) -> None:
    conf, words = SCENARIOS[name]
    with Node() as node:
        node.uplink()
        agent(node)
        box = make_box(node)
        with driver(node, shim, conf) as plugin:
            before = snapshot(node, [box])
            crash = 1
            plugin.succeed("ADD", box)
            while (answer := plugin.update(words, crash))["status"] == -9:
                if crash % 2:
                    plugin.succeed("DEL", box)
                plugin.collect()
                agent(node)
                _clean(node, before, box, f"update killed before change {crash}")
                plugin.succeed("ADD", box)
                crash += 1
            assert answer["status"] == 0, answer
            plugin.succeed("DEL", box)
            agent(node)
            _clean(node, before, box)


@pytest.mark.timeout(900)
def test_a_task_cannot_keep_its_del_from_coming_through(shim: Path) -> None:
    """The update was killed, and its container has taken away what would be put back."""
    conf = NET | {
        "type": "tuning",
        "sysctl": {"net.ipv6.conf.eth0.hop_limit": "63"},
        "delegate": bridge(local("10.9.0.0/24", "fd00:9::/64"), isDefaultGateway=True),
    }
    with Node() as node:
        box = make_box(node)
        with driver(node, shim, conf) as plugin:
            before = snapshot(node)
            plugin.succeed("ADD", box)
            crash = 1
            while plugin.update(UNDONE, crash)["status"] == -9:
                box.run(["sh", "-c", SPITE])
                plugin.succeed("DEL", box)
                assert_clean(node, before, f"killed before change {crash}", allowed=[r"c1: ", *ALLOWED[:1]])
                box.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=0"])
                plugin.succeed("ADD", box)
                crash += 1
            assert crash > 8
            box.run(["sh", "-c", SPITE])
            plugin.succeed("DEL", box)
            assert_clean(node, before, "killed", allowed=[r"c1: ", *ALLOWED[:1]])
