"""A node changes from the reference plugins to ours and back, with containers that live through it."""

from __future__ import annotations

from typing import Any

from netns_tests.node import Node
from netns_tests.plugins import MESOKIT
from netns_tests.test_view import items

CONF: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "net",
    "type": "bridge",
    "bridge": "br0",
    "isDefaultGateway": True,
    "ipMasq": True,
    "ipam": {"type": "host-local", "subnet": "10.5.0.0/24"},
}


def test_from_the_reference_plugins_and_back(node: Node, ours: str, reference: str) -> None:
    boxes = {name: node.netns(name) for name in ("old", "new", "back")}
    node.cni("ADD", f"{reference}/bridge", CONF, "old", boxes["old"]).ok()
    node.path("/etc/cni/net.d").mkdir(parents=True, exist_ok=True)
    (pool,) = items(node, "ip")
    assert [(held["container_id"], held["state"], held["ours"]) for held in pool["held"]] == [
        ("old", "unrecorded", False)
    ]
    assert node.run([MESOKIT, "gc"]).text == "nothing is stale\n"
    node.cni("ADD", f"{ours}/bridge", CONF, "new", boxes["new"]).ok()
    assert boxes["old"].ping("10.5.0.3") and boxes["new"].ping("10.5.0.2")
    assert [item["container_id"] for item in items(node, "ls")] == ["new"]
    assert node.run([MESOKIT, "gc"]).text == "nothing is stale\n"
    node.cni("DEL", f"{ours}/bridge", CONF, "old", boxes["old"]).ok()
    assert boxes["new"].ping("10.5.0.1")
    boxes["new"].delete()  # a container that died as the node was drained
    assert [item["state"] for item in items(node, "ls")] == ["stale"]
    assert node.run([MESOKIT, "gc"]).status == 0
    assert items(node, "ls") == [] and items(node, "ip") == []
    assert "mesokit" not in node.shell("nft list tables")
    node.cni("ADD", f"{reference}/bridge", CONF, "back", boxes["back"]).ok()
    assert boxes["back"].ping("10.5.0.1")
    node.cni("DEL", f"{reference}/bridge", CONF, "back", boxes["back"]).ok()
