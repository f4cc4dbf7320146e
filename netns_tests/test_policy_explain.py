"""What `mesokit policy explain` says of the host, the world and networks is what real packets meet."""

from __future__ import annotations

from typing import Any

import pytest

from netns_tests.node import Finished, Netns, Node
from netns_tests.plugins import MESOKIT
from netns_tests.policy_box import Box, apply, conf
from netns_tests.policy_lan import lan
from netns_tests.traffic import ask, server

POLICY: dict[str, Any] = {
    "name": "web",
    "for": {"labels": {"role": "web"}},
    "egress": [
        {"allow": ["tcp/8000"], "to": ["host"]},
        {"allow": ["tcp/80"], "to": ["world"]},
        {"deny": ["tcp/80"], "to": [{"cidr": "192.0.2.0/25"}]},
    ],
    "ingress": [
        {"allow": ["tcp/80"], "from": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}]},
        {"deny": ["tcp/81"], "from": ["host"]},
    ],
}


def explained(node: Node, source: str, target: str, traffic: str) -> Finished:
    return node.run([MESOKIT, "policy", "explain", source, target, traffic, "--json"], check=False)


def allowed(node: Node, source: str, target: str, traffic: str) -> bool:
    """Of both families alike."""
    (said,) = {item["allowed"] for item in explained(node, source, target, traffic).json()}
    return bool(said)


def agrees(node: Node, box: Box, where: Netns | Node, address: str, names: tuple[str, ...]) -> None:
    """Of each port what passes between a container and somebody else is what is said, both ways."""
    for port in (80, 81, 8000):
        with server(where, "tcp", port):
            out = ask(box.netns, "tcp", address, port, seconds=0.5) is not None
        for name in names:
            assert allowed(node, "web", name, f"tcp/{port}") == out, (name, port, out)
        with server(box.netns, "tcp", port):
            back = ask(where, "tcp", box.four, port, seconds=0.5) is not None
        for name in names:
            assert allowed(node, name, "web", f"tcp/{port}") == back, (name, port, back)


@pytest.mark.parametrize("kind", ["bridge", "macvlan"])
def test_the_host_as_an_end(node: Node, ours: str, kind: str) -> None:
    """By name or by any of its addresses, wherever the container is judged."""
    node.uplink()
    made = conf("isolated") if kind == "bridge" else lan("macvlan", "isolated", mode="bridge")
    box = Box(node, ours, "web", made, role="web")
    apply(node, [POLICY])
    if kind == "bridge":
        agrees(node, box, node, "10.9.0.1", ("host", "10.9.0.1", "192.0.2.2"))
    assert not allowed(node, "web", "host", "tcp/80") and allowed(node, "web", "host", "tcp/8000")
    assert allowed(node, "host", "web", "tcp/80") and not allowed(node, "host", "web", "tcp/81")
    assert allowed(node, "web", "host", "tcp/5051")
    (answer, *_) = explained(node, "web", "host", "tcp/80").json()
    assert answer["target"] == "host" and "no rule allows it" in answer["reasons"][0]["says"]
    (answer, *_) = explained(node, "host", "web", "tcp/81").json()
    assert answer["reasons"][0]["says"] == "denied" and "p.json" in answer["reasons"][0]["where"]


def test_the_world_and_networks(node: Node, ours: str) -> None:
    world = node.uplink()
    node.shell("ip netns exec world ip route add 10.9.0.0/24 via 192.0.2.2")
    box = Box(node, ours, "web", conf("isolated"), role="web")
    apply(node, [POLICY])
    agrees(node, box, world, "192.0.2.1", ("192.0.2.1", "192.0.2.0/25"))
    assert allowed(node, "web", "world", "tcp/80") and not allowed(node, "world", "web", "tcp/80")
    parts = explained(node, "192.0.2.0/24", "web", "tcp/80")
    assert [(item["source"], item["allowed"]) for item in parts.json()] == [
        ("192.0.2.0/24 (such as 192.0.2.0)", True),
        ("192.0.2.0/24 (such as 192.0.2.128)", False),
    ]
    assert parts.status == 1
    told = node.run([MESOKIT, "policy", "explain", "web", "0.0.0.0/0", "tcp/80"], check=False).text
    assert "0.0.0.0/0 (such as 192.0.2.0) is refused" in told and "(such as 0.0.0.0) passes" in told


BAD = {
    ("web", "10.0.0.0/33", "tcp/80"): "'10.0.0.0/33' is no network: '33' is no prefix length of 10.0.0.0",
    ("10.9.0.5/24", "web", "tcp/80"): "write 10.9.0.0/24, or 10.9.0.5 for the address",
    ("web", "hosts", "tcp/80"): "nothing here goes by 'hosts'",
    ("host", "world", "tcp/80"): "world is no container under policy",
    ("web", "fd77::/16", "icmpv4"): "no family in common",
    ("", "web", "tcp/80"): "the name is empty",
    ("web", "host", "tcp/80-90"): "more than one port",
    ("web", "host", "http"): "http",
}


def test_a_bad_name_gets_one_sentence(node: Node, ours: str) -> None:
    node.uplink()
    Box(node, ours, "web", conf("isolated"), role="web")
    for words, said in BAD.items():
        answer = node.run([MESOKIT, "policy", "explain", *words], check=False)
        told = answer.stderr.decode()
        assert answer.status != 0 and said in told and len(told.strip().splitlines()) == 1, told
