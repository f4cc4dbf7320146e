"""Random policies, real packets: what arrives is what an evaluator says that knows nothing of the compiler.

Six containers of both families, on a bridge (network one) and on routed pairs (network two); every pair is
probed both ways. Nothing is retried: a policy holds when `mesokit policy apply` has returned.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from cni_plugins.policy.tests import evaluator
from cni_plugins.policy.tests.strategies import policies
from netns_tests.node import Node, until
from netns_tests.plugins import make_folder
from netns_tests.test_policy import Box, apply, conf

PORTS = [22, 79, 80, 81, 443, 5432, 8000, 8100]
PROBE = str(Path(__file__).with_name("policy_probe.py"))
MEMBERS: list[tuple[str, str, list[str], dict[str, str]]] = [
    ("c0", "one", ["dev"], {"role": "web"}),
    ("c1", "one", ["dev", "test"], {"role": "db", "tier": ""}),
    ("c2", "one", [], {"role": ""}),
    ("c3", "two", ["test"], {"role": "web", "tier": "db"}),
    ("c4", "two", ["dev"], {}),
    ("c5", "two", ["Dev"], {"tier": 'a=b:",'}),
]


def _network(name: str, default: str) -> dict[str, Any]:
    number = {"one": "1", "two": "2"}[name]
    ranges = [[{"subnet": f"10.{number}.0.0/24"}], [{"subnet": f"fd0{number}::/64"}]]
    ipam = {"type": "host-local", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}
    kind = {"one": "bridge", "two": "ptp"}[name]
    return conf(default, name=name, type=kind, ipam=ipam)


@contextmanager
def world(ours: str, defaults: dict[str, str]) -> Iterator[tuple[Node, list[Box], list[dict[str, Any]]]]:
    """The containers, and what the evaluator has to know of them."""
    with Node() as node:
        boxes, known = [], []
        for name, network, groups, labels in MEMBERS:
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
        serving = [box.netns.popen(["python3", PROBE, "serve", ",".join(map(str, PORTS))]) for box in boxes]
        until(lambda: all("ready" in each.output().decode() for each in serving), what="all serve")
        time.sleep(1)  # the host's ends of new pairs detect duplicate addresses
        yield node, boxes, known


def probe(boxes: list[Box], chosen: random.Random) -> dict[tuple[str, str, str, int], bool]:
    """Every pair, both families, three kinds of traffic; who was answered."""
    asked: dict[str, list[tuple[str, str, int]]] = {}
    for box in boxes:
        for other in boxes:
            for address in (other.four, other.six) if other is not box else ():
                kinds = [("icmp", 128 if ":" in address else 8), ("tcp", chosen.choice(PORTS))]
                kinds += [("udp", chosen.choice(PORTS)), ("tcp", chosen.choice(PORTS))]
                asked.setdefault(box.name, []).extend((address, *kind) for kind in kinds)
    running = {
        box.name: box.netns.node.popen(
            ["python3", PROBE, "ask"], input=json.dumps(asked[box.name]), netns=box.netns.path
        )
        for box in boxes
    }
    found: dict[tuple[str, str, str, int], bool] = {}
    for box in boxes:
        answers = running[box.name].wait().json()
        for (address, protocol, number), answered in zip(asked[box.name], answers, strict=True):
            source = box.six if ":" in address else box.four
            found[source, address, protocol, number] = answered
    return found


@pytest.mark.parametrize(
    "defaults", [{"one": "open", "two": "groups"}, {"one": "groups", "two": "isolated"}], ids=str
)
def test_packets_arrive_where_the_evaluator_says(
    defaults: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The count of probes is printed; `--policies 40` is the long form."""
    examples = int(request.config.getoption("--policies"))
    count = 0
    with world(make_folder(tmp_path), defaults) as (node, boxes, known):

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
            found = probe(boxes, random.Random(number))
            count += len(found)
            wrong = {
                each: answered
                for each, answered in found.items()
                if answered != evaluator.allowed(listed, known, each)
            }
            assert not wrong, f"{wrong}\n{json.dumps(listed, indent=1)}"

        judged()
    print(f"{count} probes")  # noqa: T201 - the figure of the run
