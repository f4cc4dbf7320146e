"""Containers under policy on a private node, and who of them reaches whom."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from netns_tests.node import Answer, Netns, Node
from netns_tests.plugins import MESOKIT
from netns_tests.qemu import IN_QEMU

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

    def call(self, verb: str) -> Answer:
        config = self.config | {"prevResult": self.result}
        return self.node.cni(verb, f"{self.ours}/{self.config['type']}", config, self.name, self.netns)

    def reaches(self, other: Box | str) -> bool:
        """By ping, in every family that both have; all or none."""
        targets = [other] if isinstance(other, str) else [each for each in (other.four, other.six) if each]
        with ThreadPoolExecutor(len(targets)) as at_once:
            found = set(at_once.map(lambda each: self.netns.ping(each, seconds=_PATIENCE), targets))
        assert len(found) == 1, f"{self.name}: the families differ"
        return found.pop()


def write(node: Node, policies: list[dict[str, Any]], name: str = "p.json") -> None:
    folder = node.path("/etc/mesokit/policy.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"policies": policies}))


def apply(node: Node, policies: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    if policies is not None:
        write(node, policies)
    answer: dict[str, Any] = json.loads(node.run([MESOKIT, "policy", "apply", "--json"]).text)
    return answer


def matrix(boxes: list[Box]) -> dict[str, bool]:
    pairs = [(a, b) for a in boxes for b in boxes if a is not b]
    with ThreadPoolExecutor(len(pairs)) as at_once:
        reached = at_once.map(lambda pair: pair[0].reaches(pair[1]), pairs)
        return {f"{a.name}{b.name}": passes for (a, b), passes in zip(pairs, reached, strict=True)}
