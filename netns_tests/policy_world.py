"""Containers on networks of several kinds, random policies over them, and real packets between every pair.

Nothing is retried: a policy holds when `mesokit policy apply` has returned.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from cni_plugins.policy.tests import evaluator
from cni_plugins.policy.tests.strategies import policies
from netns_tests.node import Node, until
from netns_tests.plugins import TOP
from netns_tests.policy_box import Box, apply, conf
from netns_tests.policy_lan import lan

PORTS = [22, 79, 80, 81, 443, 5432, 8000, 8100]
PROBE = str(Path(__file__).with_name("policy_probe.py"))
#: By network, the kind of its interfaces.
KINDS = {"one": "bridge", "two": "ptp", "three": "macvlan"}
EXPLAINER = """
import json, os, sys
from cni_plugins.spec.namespace import OWN_NETNS, open_namespace
from cni_plugins.spec.roots import roots_from
from cni_plugins.steps import policy_state
from cni_plugins.view.explain import explain_flow
host = open_namespace(OWN_NETNS)
state = policy_state.load(roots_from(os.environ), host)
found = []
for source, target, protocol, number in json.load(sys.stdin):
    traffic = "icmp" if protocol == "icmp" else f"{protocol}/{number}"
    (answer,) = explain_flow(state, host, source, target, traffic)
    found.append(answer["allowed"])
print(json.dumps(found))
"""
MEMBERS: list[tuple[str, str, list[str], dict[str, str]]] = [
    ("c0", "one", ["dev"], {"role": "web"}),
    ("c1", "one", ["dev", "test"], {"role": "db", "tier": ""}),
    ("c2", "one", [], {"role": ""}),
    ("c3", "two", ["test"], {"role": "web", "tier": "db"}),
    ("c4", "two", ["dev"], {}),
    ("c5", "two", ["Dev"], {"tier": 'a=b:",'}),
    ("c6", "three", ["dev", "test"], {"role": "db"}),
    ("c7", "three", [], {"role": "web", "tier": ""}),
]

Found = dict[tuple[str, str, str, int], bool]


def _network(name: str, default: str) -> dict[str, Any]:
    if KINDS[name] == "macvlan":
        made = lan("macvlan", default, name=name)
        # Its router is the other machine of the LAN, which knows the way to the other networks.
        made["ipam"]["routes"] = [
            {"dst": "10.0.0.0/8", "gw": "192.0.2.1"},
            {"dst": "fd00::/8", "gw": "2001:db8::1"},
        ]
        return made
    number = {"one": "1", "two": "2"}[name]
    ranges = [[{"subnet": f"10.{number}.0.0/24"}], [{"subnet": f"fd0{number}::/64"}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    return conf(default, name=name, type=KINDS[name], ipam=ipam)


@contextmanager
def world(ours: str, defaults: dict[str, str]) -> Iterator[tuple[Node, list[Box], list[dict[str, Any]]]]:
    """The containers of the networks that have a default, and what the evaluator has to know of them."""
    with Node() as node:
        by_no_filter_of_all_bridges(node)
        if "three" in defaults:
            _lan_with_a_router(node)
        boxes, known = [], []
        for name, network, groups, labels in MEMBERS:
            if network not in defaults:
                continue
            box = Box(node, ours, name, _network(network, defaults[network]), groups, **labels)
            boxes.append(box)
            subnets = [each[0]["subnet"] for each in box.config["ipam"]["ranges"]]
            known.append(
                {
                    "network": network,
                    "container": name,
                    "addresses": [box.four, box.six],
                    "subnets": subnets,
                    "groups": groups,
                    "labels": labels,
                    "default": defaults[network],
                }
            )
            if network == "three":  # a macvlan does not reach the host that it is on, but by the router
                node.shell(f"ip route add {box.four} via 192.0.2.1; ip route add {box.six} via 2001:db8::1")
        serving = [box.netns.popen(["python3", PROBE, "serve", ",".join(map(str, PORTS))]) for box in boxes]
        until(lambda: all("ready" in each.output().decode() for each in serving), what="all serve")
        time.sleep(1)  # the host's ends of new pairs detect duplicate addresses
        yield node, boxes, known


def by_no_filter_of_all_bridges(node: Node) -> None:
    """br_netfilter of all bridges off, as without the module: what judges is what the policy turned on."""
    node.shell("sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0")


def _lan_with_a_router(node: Node) -> None:
    router = node.uplink()
    # Who forwards asks for neighbours from such an address.
    node.shell("ip -n world addr add fe80::1/64 dev world nodad; ip addr add fe80::2/64 dev eth0 nodad")
    ways = "ip route add 10.0.0.0/8 via 192.0.2.2; ip route add fd00::/8 via 2001:db8::2"
    forwarding = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    redirects = (f"net.ipv4.conf.{name}.send_redirects=0" for name in ("all", "world"))
    router.run(["sh", "-ec", f"sysctl -qw {' '.join((*forwarding, *redirects))}; {ways}"])


def probe(boxes: Sequence[Box], chosen: random.Random, seconds: float) -> Found:
    """Every pair, both families, three kinds of traffic; who was answered within so many seconds."""
    asked: dict[str, list[tuple[str, str, int]]] = {}
    for box in boxes:
        for other in boxes:
            for address in (other.four, other.six) if other is not box else ():
                kinds = [("icmp", 128 if ":" in address else 8), ("tcp", chosen.choice(PORTS))]
                kinds += [("udp", chosen.choice(PORTS)), ("tcp", chosen.choice(PORTS))]
                asked.setdefault(box.name, []).extend((address, *kind) for kind in kinds)
    running = {
        box.name: box.netns.node.popen(
            ["python3", PROBE, "ask", str(seconds)], input=json.dumps(asked[box.name]), netns=box.netns.path
        )
        for box in boxes
    }
    found: Found = {}
    for box in boxes:
        answers = running[box.name].wait().json()
        for (address, protocol, number), answered in zip(asked[box.name], answers, strict=True):
            source = box.six if ":" in address else box.four
            found[source, address, protocol, number] = answered
    return found


def _explained(node: Node, triples: Sequence[tuple[str, str, str, int]]) -> list[bool]:
    """What `mesokit policy explain` says, in one process."""
    words = [sys.executable, "-c", EXPLAINER]
    found: list[bool] = node.run(words, input=json.dumps(triples), cwd=str(TOP), timeout=120).json()
    return found


def packets_arrive_where_the_evaluator_says(
    ours: str, defaults: dict[str, str], *, examples: int, seconds: float = 0.8, explained: int = 0
) -> int:
    """Over so many sets of policies; the number of probes. `explained`: of how many of each set `explain` has
    to say the same.
    """
    count = 0
    with world(ours, defaults) as (node, boxes, known):

        @seed(len(str(defaults)))
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(listed=policies(), number=st.integers(0, 1 << 30))
        def judged(listed: list[dict[str, Any]], number: int) -> None:
            nonlocal count
            apply(node, listed)
            found = probe(boxes, random.Random(number), seconds)
            count += len(found)
            wrong = {
                each: answered
                for each, answered in found.items()
                if answered != evaluator.allowed(listed, known, each)
            }
            assert not wrong, f"{wrong}\n{json.dumps(listed, indent=1)}"
            triples = random.Random(number).sample(sorted(found), min(explained, len(found)))
            said = _explained(node, triples)
            differing = {each: one for each, one in zip(triples, said, strict=True) if one != found[each]}
            assert not differing, f"explain: {differing}\n{json.dumps(listed, indent=1)}"

        judged()
    return count
