"""The CNI specification to the letter: the verbs that look after attachments, GC, STATUS and CHECK."""

from __future__ import annotations

from typing import Any

import pytest

from netns_tests.case import bridge, local
from netns_tests.node import Answer, Netns, Node, until
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_conformance import box, conf

__all__ = ["box"]


# GC and STATUS


def collected(node: Node, plugins: str, valid: list[tuple[str, str]] | None, **keys: Any) -> Answer:
    document = conf(**keys)
    if valid is not None:
        document["cni.dev/valid-attachments"] = [{"containerID": cid, "ifname": name} for cid, name in valid]
    return node.cni("GC", f"{plugins}/bridge", document, ifname="")


def test_gc_removes_what_is_not_listed(node: Node, plugins: str) -> None:
    before = snapshot(node)
    boxes = {cid: node.netns(cid) for cid in ("c1", "c2", "c3")}
    for cid, each in boxes.items():
        node.cni("ADD", f"{plugins}/bridge", conf(isGateway=True, ipMasq=True), cid, each).ok()
    assert collected(node, plugins, [("c2", "eth0"), ("c3", "eth1")]).code == 0
    reserved = node.path("/var/lib/cni/networks/net")
    until(lambda: sorted(path.name for path in reserved.glob("10*")) == ["10.9.0.3"])
    assert boxes["c2"].ping("10.9.0.1")
    assert all(link["ifname"] != "eth0" for link in boxes["c1"].json("ip", "-j", "link"))
    assert collected(node, plugins, []).code == 0
    for each in boxes.values():
        each.delete()
    assert_clean(node, before)


def test_gc_of_another_network_changes_nothing(node: Node, plugins: str, box: Netns) -> None:
    node.cni("ADD", f"{plugins}/bridge", conf(isGateway=True), "c1", box).ok()
    before = snapshot(node, [box])
    assert collected(node, plugins, [], name="other").code == 0
    assert_clean(node, before, boxes=[box])


def test_gc_without_a_list_removes_nothing(node: Node, plugins: str, box: Netns) -> None:
    node.cni("ADD", f"{plugins}/bridge", conf(isGateway=True), "c1", box).ok()
    before = snapshot(node, [box])
    got = collected(node, plugins, None)
    assert "valid-attachments" in got.finished.text + got.finished.stderr.decode()
    assert_clean(node, before, boxes=[box])


def test_status_tells_an_exhausted_pool(node: Node, plugins: str, box: Netns) -> None:
    document = conf(ipam=local("10.9.0.0/30"))
    assert node.cni("STATUS", f"{plugins}/bridge", document, ifname="").code == 0
    node.cni("ADD", f"{plugins}/bridge", document, "c1", box).ok()
    assert node.cni("STATUS", f"{plugins}/bridge", document, ifname="").code == 50
    node.cni("DEL", f"{plugins}/bridge", document, "c1", box).ok()
    assert node.cni("STATUS", f"{plugins}/bridge", document, ifname="").code == 0


# CHECK


@pytest.mark.parametrize(
    "harm",
    [
        "ip -n c1 addr del 10.9.0.2/24 dev eth0",
        "ip -n c1 route del default",
        "ip -n c1 link set eth0 down",
        "ip -n c1 link del eth0",
        "ip link set br0 down; ip link del br0",
        "rm /var/lib/cni/networks/net/10.9.0.2",
    ],
)
def test_check_notices(node: Node, plugins: str, box: Netns, harm: str) -> None:
    document = conf(isDefaultGateway=True)
    document["prevResult"] = node.cni("ADD", f"{plugins}/bridge", document, "c1", box).ok()
    assert node.cni("CHECK", f"{plugins}/bridge", document, "c1", box).code == 0
    node.shell(harm)
    assert node.cni("CHECK", f"{plugins}/bridge", document, "c1", box).code != 0


def test_check_of_a_layer_2_attachment(node: Node, plugins: str, box: Netns) -> None:
    document = {"cniVersion": "1.0.0", "name": "net", **bridge(None)}
    document["prevResult"] = node.cni("ADD", f"{plugins}/bridge", document, "c1", box).ok()
    assert node.cni("CHECK", f"{plugins}/bridge", document, "c1", box).code == 0
