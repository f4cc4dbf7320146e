"""A node changes plugins while containers run: what one set attached, the other one deletes.

From ours to the reference's, masquerade has to be asked for through iptables: v1.1.1 of the reference fails
to delete what is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from netns_tests.case import DEFAULT4, DUAL, V4, Conf, bridge, local
from netns_tests.cases_links import SPARE
from netns_tests.node import Netns, Node
from netns_tests.runtime import Attachment, attach, network
from netns_tests.snapshot import Snapshot, assert_clean, difference, residue, snapshot

PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
UDP_PORTS = {"portMappings": [{"hostPort": 8053, "containerPort": 53, "protocol": "udp"}]}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
LAN = local("192.0.2.128/25")

#: Chains of plugins and the runtime's arguments for them.
NETWORKS: Mapping[str, tuple[list[Conf], dict[str, Any]]] = {
    "bridge": ([bridge(V4, isGateway=True)], {}),
    "bridge-masquerade": ([bridge(DUAL, isDefaultGateway=True, ipMasq=True)], {}),
    "bridge-spoof-check": ([bridge(V4, macspoofchk=True)], {}),
    "ptp-masquerade": (
        [{"type": "ptp", "ipMasq": True, "ipam": local("10.9.0.0/24", routes=[DEFAULT4])}],
        {},
    ),
    "macvlan": ([{"type": "macvlan", "master": "eth0", "ipam": LAN}], {}),
    "sbr": ([bridge(local("10.9.0.0/24", routes=[DEFAULT4]), isGateway=True), {"type": "sbr"}], {}),
    "tuning": (
        [bridge(V4), {"type": "tuning", "mtu": 1300, "promisc": True, "mac": "02:aa:bb:cc:dd:01"}],
        {},
    ),
    "portmap": ([bridge(DUAL, isDefaultGateway=True), PORTMAP], PORTS),
    "portmap-udp": ([bridge(V4, isDefaultGateway=True, ipMasq=True), PORTMAP], UDP_PORTS),
}
#: How the runtime deletes: as libcni does; as Mesos does, which knows no previous result; after the
#: container's end.
WAYS = ("previous", "bare", "gone")


def _delete(attachment: Attachment, way: str) -> None:
    if way == "gone" and attachment.box is not None:
        attachment.box.delete()
        attachment.box = None
    answer = attachment.delete(previous=way == "previous")
    assert answer.error is None, answer


def _frame(node: Node, reference: str, config: Mapping[str, Any], caps: Mapping[str, Any]) -> Snapshot:
    """The facts after an attachment that the reference plugins both made and deleted: what they keep for
    the network."""
    before = snapshot(node)
    box = node.netns("frame")
    attachment = attach(node, reference, config, "frame", box, capabilities=caps)
    assert attachment.delete().error is None
    box.delete()
    assert not [line for line in difference(before, snapshot(node)) if "frame" in line]
    return snapshot(node)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_ours_delete_what_the_reference_attached(
    node: Node, plugins: str, reference: str, name: str, way: str
) -> None:
    node.uplink()
    chain, caps = NETWORKS[name]
    config = network(chain)
    before = _frame(node, reference, config, caps)
    attachment = attach(node, reference, config, "c1", node.netns("c1"), capabilities=caps)
    attachment.folder = plugins
    _delete(attachment, way)
    if attachment.box is not None:
        attachment.box.delete()
    # The bridge that the reference keeps gets its own addresses' routes when it has looked for duplicates.
    late = [r"node: route local local \S+ - br0 "]
    assert_clean(node, before, f"{name} deleted {way}", allowed=late)


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_reference_deletes_what_ours_attached(
    node: Node, plugins: str, reference: str, name: str, way: str
) -> None:
    node.uplink()
    chain, caps = NETWORKS[name]
    chain = [{**plugin, **({"ipMasqBackend": "iptables"} if "ipMasq" in plugin else {})} for plugin in chain]
    before = snapshot(node)
    box = node.netns("c1")
    ours = attach(node, plugins, network(chain), "c1", box, capabilities=caps)
    theirs = Attachment(node, reference, ours.config, "c1", box, capabilities=caps, result=ours.result)
    _delete(theirs, way)
    _only_records_and_elements(residue(node, before, seconds=0), box)
    box.delete()
    answer = Attachment(node, plugins, network(chain, version="1.1.0"), "", None).collect([])
    assert answer.error is None, answer
    # The uplink's own address gets its route when the kernel has looked for duplicates.
    late = [r"node: route local local \S+ - eth0 "]
    assert_clean(node, before, f"{name} deleted {way}, then collected", allowed=late)


def _only_records_and_elements(left: list[str], box: Netns) -> None:
    """The reference knows neither our records nor our tables; links and addresses must be gone all the
    same."""
    for line in left:
        assert not line.startswith(("+ node: link veth", "+ file /var/lib/cni")), line
        assert "10.9.0." not in line or "nft element" in line or "/run/mesokit/" in line or " br0" in line, (
            line
        )


@pytest.mark.parametrize("order", ["reference, then ours", "ours, then reference"])
def test_a_device_of_the_host_is_given_back_by_the_other(
    node: Node, plugins: str, reference: str, order: str
) -> None:
    node.shell(SPARE)
    config = network([{"type": "host-device", "device": "spare0", "ipam": V4}])
    folders = (reference, plugins) if order.startswith("reference") else (plugins, reference)
    box = node.netns("c1")
    attachment = attach(node, folders[0], config, "c1", box)
    assert "spare0" not in {item["ifname"] for item in node.json("ip", "-j", "link")}
    attachment.folder = folders[1]
    _delete(attachment, "bare")
    (link,) = node.json("ip", "-j", "link", "show", "spare0")
    assert (link["mtu"], link["address"]) == (1400, "02:aa:bb:cc:dd:10")
    assert not node.path("/var/lib/cni/networks/net/10.9.0.2").exists()
