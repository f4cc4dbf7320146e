"""The forms of DEL that runtimes really send: less than the ADD had, other than the ADD had, more than once.

What was attached is known by its record, so each of them leaves the node as it was before the ADD. A list of
the plugins that have most to lose is attached: addresses, ports, masquerade, firewall, limits, settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from netns_tests.case import DUAL, V4, Conf, bridge, local
from netns_tests.cases_links import SPARE
from netns_tests.node import Node
from netns_tests.runtime import Attachment, attach, network
from netns_tests.snapshot import assert_clean, residue, snapshot

CAPABILITIES = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
LIST: list[Conf] = [
    bridge(DUAL, isDefaultGateway=True, ipMasq=True),
    {"type": "tuning", "mtu": 1300, "promisc": True, "dataDir": "/var/lib/cni/tuning"},
    {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 8_000_000},
    {"type": "firewall"},
    {"type": "portmap", "capabilities": {"portMappings": True}},
]


def _renamed(attachment: Attachment, name: str = "renamed") -> Attachment:
    return replace(attachment, config={**attachment.config, "name": name})


def _changed(attachment: Attachment, changes: Mapping[str, Conf]) -> Attachment:
    """With other keys for the plugins of these types."""
    plugins = [{**plugin, **changes.get(plugin["type"], {})} for plugin in attachment.config["plugins"]]
    return replace(attachment, config={**attachment.config, "plugins": plugins})


def _bare(attachment: Attachment) -> Attachment:
    """Of a runtime that has lost what it knew: names and types alone."""
    plugins = [{"type": plugin["type"]} for plugin in attachment.config["plugins"]]
    return replace(attachment, config={**attachment.config, "plugins": plugins}, capabilities={}, result=None)


def _of_version(version: str) -> Callable[[Attachment], Attachment]:
    return lambda attachment: replace(attachment, config={**attachment.config, "cniVersion": version})


def _elsewhere(attachment: Attachment) -> Attachment:
    """The result says nothing that is true any more."""
    result: dict[str, Any] = {"cniVersion": "1.0.0", "ips": [{"address": "198.51.100.7/24"}]}
    return replace(attachment, result=result)


SHAPES: Mapping[str, Callable[[Attachment], Attachment]] = {
    "no prevResult": lambda attachment: replace(attachment, result=None),
    "types alone": _bare,
    "another ipam": lambda attachment: _changed(
        attachment, {"bridge": {"ipam": {"type": "static", "addresses": [{"address": "10.8.0.2/24"}]}}}
    ),
    "another subnet": lambda attachment: _changed(attachment, {"bridge": {"ipam": local("10.7.0.0/24")}}),
    "changed keys": lambda attachment: _changed(
        replace(attachment, capabilities={}),
        {
            "bridge": {"bridge": "br7", "ipMasq": False},
            "tuning": {"mtu": 9000, "promisc": False, "dataDir": "/run/cni/tuning"},
            "bandwidth": {"ingressRate": 0, "ingressBurst": 0},
            "firewall": {"backend": "iptables"},
            "portmap": {"backend": "iptables"},
        },
    ),
    "an older version": _of_version("0.3.1"),
    "a newer version": _of_version("1.1.0"),
    "a version of the future": _of_version("9.0.0"),
    "a result of something else": _elsewhere,
    "a namespace that is gone": lambda attachment: replace(attachment, box=None),
    "another network name": _renamed,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_del_of_any_form_leaves_nothing(node: Node, plugins: str, shape: str) -> None:
    node.uplink()
    box = node.netns("c1")
    before = snapshot(node, [box])
    attachment = attach(node, plugins, network(LIST), "c1", box, capabilities=CAPABILITIES)
    asked = SHAPES[shape](attachment)
    for _ in range(2):
        assert asked.delete().error is None
    assert_clean(node, before, shape, boxes=[box])


def test_a_del_under_another_name_needs_proof(node: Node, plugins: str) -> None:
    """The container was on one network and is on another by the same interface name: a DEL of the first one
    that comes again must not end the second.
    """
    node.uplink()
    box = node.netns("c1")
    first = attach(node, plugins, network(LIST, name="first"), "c1", box, capabilities=CAPABILITIES)
    assert first.delete().error is None
    chain = [bridge(local("10.6.0.0/24"), isGateway=True), *LIST[1:]]
    second = attach(node, plugins, network(chain, name="second"), "c1", box, capabilities=CAPABILITIES)
    there = snapshot(node, [box])
    for late in (first, replace(first, result=None), _bare(_renamed(second)), _elsewhere(_renamed(second))):
        assert late.delete().error is None
    # Addresses' own routes come when the kernel has looked for duplicates.
    routes = [r"node: route local local \S+ - br0 "]
    assert residue(node, there, seconds=0, boxes=[box], allowed=routes) == []
    assert second.check().error is None


def test_a_device_is_given_back_by_a_del_under_another_name(node: Node, plugins: str) -> None:
    node.shell(SPARE)
    box = node.netns("c1")
    config = network([{"type": "host-device", "device": "spare0", "ipam": V4}])
    attachment = attach(node, plugins, config, "c1", box)
    assert _renamed(attachment).delete().error is None
    assert "spare0" in {item["ifname"] for item in node.json("ip", "-j", "link")}
    assert not list(node.path("/var/lib/cni/networks/net").glob("10.*"))


def test_tuning_writes_what_the_reference_restores(node: Node, plugins: str, reference: str) -> None:
    """A `dataDir` that is asked for has the reference's file: its DEL puts back what our ADD changed."""
    box = node.netns("c1")
    attach(node, plugins, network([bridge(V4)]), "c1", box)

    def state() -> list[object]:
        link = box.json("ip", "-d", "-j", "link", "show", "eth0")[0]
        return [link[key] for key in ("mtu", "promiscuity", "address")]

    before = state()
    tuned = {
        "type": "tuning",
        "mtu": 1300,
        "promisc": True,
        "mac": "02:aa:bb:cc:dd:01",
        "dataDir": "/opt/kept",
    }
    result = {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": box.path}]}
    conf = {**tuned, "name": "net", "cniVersion": "1.0.0", "prevResult": result}
    node.cni("ADD", f"{plugins}/tuning", conf, "c1", box).ok()
    assert state() == [1300, 1, "02:aa:bb:cc:dd:01"]
    assert node.cni("DEL", f"{reference}/tuning", conf, "c1", box).error is None
    assert state() == before
    assert not list(node.path("/opt/kept").iterdir())
