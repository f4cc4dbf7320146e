"""Containers under policy on a private node, and who of them reaches whom."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Any

from netns_tests.node import Answer, Netns, Node
from netns_tests.plugins import IN_QEMU, MESOKIT

_PATIENCE = 3.0 if IN_QEMU else 0.6  # seconds
SUBNETS = ["10.9.0.0/24", "fd09::/64"]


def conf(policy: str | None = "open", **keys: Any) -> dict[str, Any]:
    """A bridge network of both families."""
    made: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "bridge",
        "bridge": "br0",
        "isDefaultGateway": True,
        "policyLabels": ["role", "tier"],
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}] for subnet in SUBNETS]},
    }
    if policy is not None:
        made["policy"] = policy
    return made | keys


def task(groups: list[str], labels: dict[str, str]) -> dict[str, Any]:
    """What a Mesos agent adds to a configuration."""
    listed = [{"key": key, "value": value} for key, value in labels.items()]
    info = {"name": "net", "groups": groups, "labels": {"labels": listed}}
    return {"org.apache.mesos": {"network_info": info}}


class Box:
    """A container with its interface."""

    def __init__(
        self,
        node: Node,
        ours: str,
        name: str,
        config: dict[str, Any],
        groups: list[str] | None = None,
        **labels: str,
    ) -> None:
        self.node, self.ours, self.name = node, ours, name
        self.config = config | {"args": task(groups or [], labels)}
        self.netns: Netns = node.netns(name)
        self.netns.run(["ip", "link", "set", "lo", "up"])
        self.result = node.cni("ADD", f"{ours}/{config['type']}", self.config, name, self.netns).ok()
        found = [each["address"].split("/")[0] for each in self.result["ips"]]
        self.four = next(each for each in found if ":" not in each)
        self.six = next((each for each in found if ":" in each), "")

    @property
    def addresses(self) -> list[str]:
        return [each for each in (self.four, self.six) if each]

    def call(self, verb: str) -> Answer:
        config = self.config | {"prevResult": self.result}
        return self.node.cni(verb, f"{self.ours}/{self.config['type']}", config, self.name, self.netns)

    def reaches(self, other: Box | str) -> bool:
        """By ping, in every family that both have; all or none."""
        return reaches(self.netns, [other] if isinstance(other, str) else other.addresses)


def write(node: Node, policies: list[dict[str, Any]], name: str = "p.json") -> None:
    folder = node.path("/etc/mesokit/policy.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"policies": policies}))


def apply(node: Node, policies: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    if policies is not None:
        write(node, policies)
    answer: dict[str, Any] = json.loads(node.run([MESOKIT, "policy", "apply", "--json"]).text)
    return answer


def reaches(source: Netns, addresses: Sequence[str]) -> bool:
    """By ping, all or none. Where some answer, the others are asked for longer: a packet may be late."""
    with ThreadPoolExecutor(len(addresses)) as at_once:
        answers = list(at_once.map(lambda each: source.ping(each, seconds=_PATIENCE), addresses))
    silent = [each for each, answered in zip(addresses, answers, strict=True) if not answered]
    if any(answers) and silent:
        assert all(source.ping(each, seconds=5) for each in silent), f"{source.name}: the families differ"
    return any(answers)


def pairs_that_reach(places: Mapping[str, tuple[Netns, Sequence[str]]]) -> set[str]:
    """Of places by name, each with its addresses: all ask at once, so that silence is waited for once."""
    pairs = list(permutations(places, 2))
    with ThreadPoolExecutor(len(pairs)) as at_once:
        reached = at_once.map(lambda pair: reaches(places[pair[0]][0], places[pair[1]][1]), pairs)
        return {f"{a}{b}" for (a, b), passes in zip(pairs, reached, strict=True) if passes}


def matrix(boxes: list[Box]) -> set[str]:
    """The pairs of containers that reach one another, by their names."""
    return pairs_that_reach({box.name: (box.netns, box.addresses) for box in boxes})
