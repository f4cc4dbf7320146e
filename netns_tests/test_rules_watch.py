"""A running node service makes rules again that somebody flushed, by itself; `mesokit reload` does it where
none runs."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from netns_tests.node import Netns, Node, until
from netns_tests.plugins import MESOKIT, service

NET: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net"}
CONF: dict[str, Any] = {
    **NET,
    "type": "portmap",
    "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]},
    "delegate": {
        "type": "bridge",
        "bridge": "br0",
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"},
    },
}
HARMS = [
    "nft flush ruleset",
    "nft flush chain inet mesokit postrouting",
    "nft flush map inet mesokit port4",
    "nft delete table inet mesokit",
]


def attached(node: Node, ours: str, name: str, port: int) -> tuple[Netns, dict[str, Any]]:
    box = node.netns(name)
    conf = CONF | {"runtimeConfig": {"portMappings": [{"hostPort": port, "containerPort": 80}]}}
    result = node.cni("ADD", f"{ours}/portmap", conf, name, box).ok()
    return box, conf | {"prevResult": result}


def whole(node: Node, ours: str, name: str, box: Netns, conf: dict[str, Any]) -> bool:
    return node.cni("CHECK", f"{ours}/portmap", conf, name, box).code == 0


@pytest.mark.parametrize("harm", HARMS)
def test_the_service_makes_again_what_somebody_flushed(node: Node, ours: str, harm: str) -> None:
    """C9. Nobody attaches anything and nobody asks: the older containers have their rules again."""
    first, first_conf = attached(node, ours, "c1", 8080)
    with service(node):
        second, second_conf = attached(node, ours, "c2", 8081)
        boxes = (("c1", first, first_conf), ("c2", second, second_conf))
        for _ in range(3):
            node.shell(harm)
            until(lambda: all(whole(node, ours, *each) for each in boxes), what="the rules are there again")
        for name, box, conf in boxes:
            node.cni("DEL", f"{ours}/portmap", conf, name, box).ok()
        until(lambda: "mesokit" not in node.shell("nft list ruleset"), what="the tables go")


def test_a_service_that_starts_looks_for_what_was_flushed_before(node: Node, ours: str) -> None:
    box, conf = attached(node, ours, "c1", 8080)
    node.shell("nft flush ruleset")
    assert not whole(node, ours, "c1", box, conf)
    with service(node):
        until(lambda: whole(node, ours, "c1", box, conf), what="the rules are there again")


def test_it_is_done_within_a_second(node: Node, ours: str) -> None:
    """Measured by nft itself, from the flush to the rule; the deadline is generous for a busy machine."""
    attached(node, ours, "c1", 8080)
    with service(node):
        time.sleep(1)  # its first look is over
        script = (
            "nft flush ruleset; begin=$(cut -d' ' -f1 /proc/uptime); "
            "until nft list map inet mesokit port4 2>/dev/null | grep -q 8080; do sleep 0.01; done; "
            "end=$(cut -d' ' -f1 /proc/uptime); echo $begin $end"
        )
        begin, end = map(float, node.shell(script).split())
        assert end - begin < 10


def test_reload_by_hand(node: Node, ours: str) -> None:
    first, first_conf = attached(node, ours, "c1", 8080)
    second, second_conf = attached(node, ours, "c2", 8081)
    node.shell("nft flush ruleset")
    told = node.run([MESOKIT, "reload", "--container", "c1", "--json"])
    assert json.loads(told.text) == [
        {"network": "net", "containerID": "c1", "ifname": "eth0", "plugin": "portmap", "errors": []}
    ]
    assert whole(node, ours, "c1", first, first_conf)
    assert not whole(node, ours, "c2", second, second_conf)
    assert node.run([MESOKIT, "reload", "--network", "net"]).text == "2 attachments as made, 0 not\n"
    assert whole(node, ours, "c2", second, second_conf)
    for path in node.path("/run/mesokit/attachments/net").iterdir():
        path.write_text(path.read_text() + '{"step": "no-such", "id": 99, "args": {}}\n')
    failed = node.run([MESOKIT, "reload"], check=False)
    assert failed.status == 1
    assert "no-such" in failed.stderr.decode() and failed.text == "0 attachments as made, 2 not\n"
