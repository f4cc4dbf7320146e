"""flannel: what is rendered of subnet.env, what is kept of it, and DEL without either."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netns_tests.case import bridge
from netns_tests.node import Node
from netns_tests.runtime import Attachment, attach, network
from netns_tests.snapshot import assert_clean, snapshot

LEASE = {
    "FLANNEL_NETWORK": "10.244.0.0/16",
    "FLANNEL_SUBNET": "10.244.7.1/24",
    "FLANNEL_IPV6_NETWORK": "fd00:244::/48",
    "FLANNEL_IPV6_SUBNET": "fd00:244:0:7::1/64",
    "FLANNEL_MTU": "1450",
    "FLANNEL_IPMASQ": "false",
}
#: flannel's published /etc/kube-flannel/cni-conf.json.
PUBLISHED = network(
    [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
    name="cbr0",
    version="0.3.1",
)
DATA = "/var/lib/cni/flannel"


def lease(node: Node, path: str = "/run/flannel/subnet.env", **keys: str | None) -> None:
    place = node.path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{key}={value}" for key, value in {**LEASE, **keys}.items() if value is not None]
    place.write_text("\n".join(lines) + "\n")


def kept(node: Node) -> dict[str, dict[str, Any]]:
    place = node.path(DATA)
    return {item.name: json.loads(item.read_text()) for item in place.iterdir()} if place.is_dir() else {}


def test_the_published_list(node: Node, plugins: str) -> None:
    """Rendered as the project's plugin does it; packets pass; nothing is left."""
    world = node.uplink()
    lease(node)
    before = snapshot(node)
    box = node.netns("c1")
    made = attach(node, plugins, PUBLISHED, "c1", box)
    assert made.result is not None
    assert [item["address"] for item in made.result["ips"]] == ["10.244.7.2/24", "fd00:244:0:7::2/64"]
    (rendered,) = kept(node).values()
    assert rendered["name"] == "cbr0" and rendered["type"] == "bridge" and rendered["cniVersion"] == "0.3.1"
    assert (rendered["mtu"], rendered["ipMasq"], rendered["isGateway"]) == (1450, True, True)
    assert rendered["hairpinMode"] is True
    assert rendered["ipam"]["ranges"] == [[{"subnet": "10.244.7.0/24"}], [{"subnet": "fd00:244:0:7::/64"}]]
    assert rendered["ipam"]["routes"] == [{"dst": "10.244.0.0/16"}, {"dst": "fd00:244::/48"}]
    assert kept(node).keys() == {"c1"}
    (link,) = box.json("ip", "-j", "link", "show", "eth0")
    assert link["mtu"] == 1450
    assert box.ping("192.0.2.1") and world.ping("192.0.2.2")
    assert made.delete().error is None
    assert not kept(node)
    box.delete()
    assert_clean(node, before)


def test_the_lease_changes_while_containers_run(node: Node, plugins: str) -> None:
    """CHECK and DEL are about what was made; a new container gets the new subnet; DEL needs no subnet.env."""
    conf = {**PUBLISHED, "cniVersion": "1.0.0"}
    lease(node)
    before = snapshot(node)
    first = attach(node, plugins, conf, "c1", node.netns("c1"))
    lease(node, FLANNEL_SUBNET="10.244.9.1/24", FLANNEL_MTU="1400")
    assert first.check().error is None
    second = attach(node, plugins, conf, "c2", node.netns("c2"))
    assert second.result is not None
    assert second.result["ips"][0]["address"].startswith("10.244.9.")
    node.path("/run/flannel/subnet.env").unlink()
    assert first.box is not None and second.box is not None
    assert first.box.ping("10.244.7.1") and second.box.ping("10.244.9.1") and first.box.ping("10.244.9.2")
    for item in (first, second):
        assert item.check().error is None
        assert item.delete(previous=False).error is None
        assert item.delete(previous=False).error is None, "again"
        assert item.box is not None
        item.box.delete()
    assert not kept(node)
    assert_clean(node, before, allowed=[r"file /run/flannel"])


def test_a_container_on_two_networks_and_twice_on_one(node: Node, plugins: str) -> None:
    """The project's plugin keeps one file a container: the second attachment overwrites the first's."""
    lease(node)
    lease(
        node,
        "/run/flannel/blue.env",
        FLANNEL_NETWORK="10.99.0.0/16",
        FLANNEL_SUBNET="10.99.1.1/24",
        FLANNEL_IPV6_NETWORK=None,
        FLANNEL_IPV6_SUBNET=None,
    )
    box = node.netns("c1")
    blue = network(
        [{"type": "flannel", "subnetFile": "/run/flannel/blue.env", "delegate": {"bridge": "blue0"}}],
        name="blue",
    )
    made = [
        attach(node, plugins, PUBLISHED, "c1", box, ifname="eth0"),
        attach(node, plugins, blue, "c1", box, ifname="eth1"),
        attach(node, plugins, blue, "c1", box, ifname="eth2"),
    ]
    assert len(kept(node)) == 3
    assert made[0].delete().error is None
    assert {item["name"] for item in kept(node).values()} == {"blue"}
    # The machine starts anew: what is on a disk stays.
    node.shell("rm -rf /run/mesokit/attachments; ip link del blue0; nft flush ruleset")
    for item in made[1:]:
        assert item.delete(previous=False).error is None
    assert not kept(node)
    assert not list(node.path("/var/lib/cni/networks").rglob("10.*"))


def test_what_the_projects_plugin_kept_is_replayed(node: Node, plugins: str) -> None:
    """Its file is named after the container; the delegate's DEL gets exactly what is in it."""
    box = node.netns("c1")
    rendered = {
        **bridge({"type": "host-local", "subnet": "10.5.0.0/24"}),
        "name": "cbr0",
        "cniVersion": "1.0.0",
    }
    node.cni("ADD", "/usr/lib/cni/bridge", rendered, "c1", box).ok()
    node.path(DATA).mkdir(parents=True)
    node.path(f"{DATA}/c1").write_text(json.dumps(rendered))
    assert Attachment(node, plugins, PUBLISHED, "c1", box).delete().error is None
    assert not kept(node)
    assert not list(node.path("/var/lib/cni/networks").rglob("10.*"))
    assert "eth0" not in box.run(["ip", "link"]).text


@pytest.mark.parametrize(
    ("changed", "conf", "words"),
    [
        ({"FLANNEL_MTU": None, "FLANNEL_SUBNET": None}, {}, ["FLANNEL_MTU", "FLANNEL_SUBNET", "subnet.env"]),
        ({"FLANNEL_SUBNET": "10.1.1.1"}, {}, ["FLANNEL_SUBNET", "10.1.1.1"]),
        ({"FLANNEL_IPMASQ": "maybe"}, {}, ["FLANNEL_IPMASQ", "maybe"]),
        ({}, {"delegate": {"name": "x"}}, ["delegate.name"]),
        ({}, {"delegate": {"ipam": {}}}, ["delegate.ipam"]),
        ({}, {"delegate": {"type": 5}}, ["delegate.type", "5"]),
        ({}, {"subnetFile": "/run/none"}, ["/run/none", "flanneld"]),
    ],
)
def test_refused_before_anything_is_made(
    node: Node, plugins: str, changed: dict[str, str | None], conf: dict[str, Any], words: list[str]
) -> None:
    lease(node, "/run/flannel/subnet.env", **changed)
    box = node.netns("c1")
    document = {"cniVersion": "1.0.0", "name": "net", "type": "flannel", **conf}
    answer = node.cni("ADD", f"{plugins}/flannel", document, "c1", box)
    text = json.dumps(answer.error)
    assert all(word in text for word in words), text
    assert [item["ifname"] for item in node.json("ip", "-j", "link")] == ["lo"]
    assert not kept(node)
    node.cni("DEL", f"{plugins}/flannel", document, "c1", box).ok()
