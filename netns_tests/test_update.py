"""`mesokit update`: networks that change under running containers, with a ping every 10 ms and a TCP flow
across each change."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cni_plugins.spec.roots import roots_from
from cni_plugins.store import records
from netns_tests import flow
from netns_tests.case import bridge, local
from netns_tests.node import Netns, Node, started, until
from netns_tests.plugins import MESOKIT
from netns_tests.snapshot import assert_clean, snapshot

NET: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net"}
POOL = local("10.9.0.0/24", "fd00:9::/64", routes=[{"dst": "10.30.0.0/16"}])
CHAIN: dict[str, Any] = {
    **NET,
    "type": "chain",
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    "plugins": [
        bridge(POOL, isDefaultGateway=True, ipMasq=True),
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
        {
            "type": "bandwidth",
            "ingressRate": 800_000_000,
            "ingressBurst": 8_000_000,
            "egressRate": 800_000_000,
            "egressBurst": 8_000_000,
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
PTP: dict[str, Any] = {**NET, "type": "ptp", "ipMasq": True, "ipam": POOL}

#: Changes of a container of CHAIN, and how the kernel shows them: (command in the container or the host,
#: pattern). Each is safe: no ping is lost.
SAFE: list[tuple[list[str], str, str, str]] = [
    (["mtu=1400"], "box", "ip link show eth0", "mtu 1400"),
    (["mtu=1400"], "node", "ip link show type veth", "mtu 1400"),
    (["routes+=10.40.0.0/16"], "box", "ip route", r"10\.40\.0\.0/16 via 10\.9\.0\.1"),
    (["routes+=10.40.0.0/16@10.9.0.9", "routes-=10.30.0.0/16"], "box", "ip route", r"via 10\.9\.0\.9"),
    (["gateway=10.9.0.254,fd00:9::fe"], "box", "ip route", r"default via 10\.9\.0\.254"),
    (["gateway=10.9.0.254,fd00:9::fe"], "box", "ip -6 route", r"default via fd00:9::fe"),
    (["addresses+=10.9.0.77/24,fd00:9::77/64"], "box", "ip addr show eth0", r"10\.9\.0\.77/24"),
    (["addresses+=10.9.0.77/24,fd00:9::77/64"], "box", "ip addr show eth0", r"fd00:9::77/64"),
    (["sysctl.net.core.somaxconn=600"], "box", "sysctl net.core.somaxconn", "= 600"),
    (["ingressRate=400000000"], "node", "tc qdisc", r"rate 400Mbit"),
    (["egressRate=200000000"], "node", "tc qdisc", r"rate 200Mbit"),
    (["ports+=8080:81,9090:90/udp"], "node", "nft list ruleset", r"8080 .*10\.9\.0\.2 \. 81"),
    (["ports+=9090:90/udp", "ports-=8080/tcp"], "node", "nft list ruleset", r"9090 .*10\.9\.0\.2 \. 90"),
    (["macspoofchk=true"], "node", "nft list table bridge mesokit", "comment"),
    (["portIsolation=true", "hairpinMode=true"], "node", "bridge -d link", "isolated on"),
    (["portIsolation=true", "hairpinMode=true"], "node", "bridge -d link", "hairpin on"),
]

WORDS = list(dict.fromkeys(tuple(words) for words, *_ in SAFE))


@contextmanager
def attached(node: Node, ours: str, conf: dict[str, Any]) -> Iterator[tuple[Netns, dict[str, Any]]]:
    """A container of `conf`; at the end CHECK is content with the result of ADD, and DEL leaves nothing."""
    box = node.netns("c1")
    before = snapshot(node, [box])
    result = node.cni("ADD", f"{ours}/{conf['type']}", conf, "c1", box).ok()
    told = conf | {"prevResult": result}
    yield box, told
    node.cni("CHECK", f"{ours}/{conf['type']}", told, "c1", box).ok()
    node.cni("DEL", f"{ours}/{conf['type']}", conf, "c1", box).ok()
    assert_clean(node, before, "after DEL", boxes=[box])


def update(node: Node, *words: str, status: int = 0) -> Any:
    done = node.run([MESOKIT, "update", *words, "--json"], check=False)
    assert done.status == status, (done.text, done.stderr)
    return json.loads(done.text)


def record(node: Node, container: str = "") -> dict[str, Any]:
    """What the (only) container's record says, without what every step's number is."""
    found = records.every(roots_from({"MESOKIT_ROOT": str(node.path("/"))}))
    (contents,) = [each for _, each in found if container in {"", each.identity.container_id}]
    assert contents.begun is None
    return {
        "steps": [(line["step"], line["args"]) for line in contents.steps],
        "result": contents.result,
        "config": contents.head["config"],
        "revision": contents.revision,
    }


@contextmanager
def flowing(node: Node, box: Netns, target: str = "10.9.0.1") -> Iterator[dict[str, int]]:
    """What a flow of the container to the node felt of what the block does; filled in at its end."""
    felt: dict[str, int] = {}
    with started(node.popen([*flow.PROGRAM, "serve", "7"])) as server:
        until(lambda: b"ready" in server.output())
        across = box.popen([*flow.PROGRAM, "across", target, "7", "1.5"])
        time.sleep(0.3)
        yield felt
        felt |= json.loads(across.wait(60).text)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_no_packet_is_lost(node: Node, ours: str, words: tuple[str, ...]) -> None:
    with attached(node, ours, CHAIN) as (box, told):
        with flowing(node, box) as felt:
            (outcome,) = update(node, "c1", *words)
        assert outcome["changed"], outcome
        assert felt["lost"] == 0, felt
        assert felt["bytes"] > 0
        assert record(node)["revision"] == 2
        for asked, where, command, pattern in SAFE:
            if tuple(asked) == words:
                text = (box if where == "box" else node).run(command.split()).text
                assert re.search(pattern, text), text
        node.cni("CHECK", f"{ours}/chain", told, "c1", box).ok()
