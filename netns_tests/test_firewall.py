"""firewall: who reaches whom with each backend and policy, beside Docker's FORWARD DROP and with a real
firewalld, and what goes with the last container."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from netns_tests.case import DUAL, V4, bridge, local
from netns_tests.node import Netns, Node, NodeError, started, until
from netns_tests.plugins import MESOKIT, TOP
from netns_tests.runtime import Attachment, attach, network
from netns_tests.snapshot import assert_clean, snapshot

DOCKER = "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP"
BACKENDS = ("nftables", "iptables")

UNPACKED = TOP / "build" / "unpacked"
_PYTHON = ["/usr/bin/python3", "-B"]
CMD = [*_PYTHON, f"{UNPACKED}/firewalld/usr/bin/firewall-cmd"]
FIREWALLD = [
    *(*_PYTHON, f"{UNPACKED}/firewalld/usr/sbin/firewalld", "--nofork", "--nopid"),
    *("--default-config", f"{UNPACKED}/firewalld/usr/lib/firewalld"),
    *("--system-config", "/run/firewalld-config"),
]
ENV = {"PYTHONPATH": f"{UNPACKED}/python3-firewall/usr/lib/python3/dist-packages"}
BUS = """<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/> <allow receive_sender="*"/> <allow own="*"/> <allow user="*"/>
  </policy>
</busconfig>
"""


def firewall(**keys: Any) -> dict[str, Any]:
    return {"type": "firewall", **keys}


def lan(name: str, subnet: str, policy: str, backend: str) -> dict[str, Any]:
    plugins = [
        bridge(local(subnet), bridge=f"br-{name}", isDefaultGateway=True),
        firewall(ingressPolicy=policy, backend=backend),
    ]
    return network(plugins, name=name)


def test_docker_drops_what_it_forwards(node: Node, plugins: str) -> None:
    """FORWARD's policy is DROP, as Docker sets it: with the plugin alone, no key given, packets pass."""
    world = node.uplink()
    node.shell(DOCKER)
    config = network([bridge(DUAL, isDefaultGateway=True, ipMasq=True), firewall()])
    before = snapshot(node)
    with_it = attach(node, plugins, config, "c1", node.netns("c1"))
    without = attach(node, plugins, {**config, "plugins": config["plugins"][:1]}, "c2", node.netns("c2"))
    assert with_it.box is not None and without.box is not None
    assert with_it.box.ping("192.0.2.1") and with_it.box.ping("2001:db8::1")
    assert not without.box.ping("192.0.2.1", seconds=1)
    assert not world.ping("10.9.0.2", seconds=1)
    assert with_it.check().error is None
    for attachment in (with_it, without):
        assert attachment.delete().error is None
        assert attachment.box is not None
        attachment.box.delete()
    assert_clean(node, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bridges_are_kept_apart(node: Node, plugins: str, backend: str) -> None:
    """Guarded bridges do not reach each other, an open one and their own containers do; the last container
    takes the rules with it."""
    before = snapshot(node)
    made: dict[str, Attachment] = {}
    for cid, name, subnet, policy in (
        ("a1", "a", "10.1.0.0/24", "same-bridge"),
        ("a2", "a", "10.1.0.0/24", "same-bridge"),
        ("b1", "b", "10.2.0.0/24", "same-bridge"),
        ("o1", "o", "10.3.0.0/24", "open"),
    ):
        made[cid] = attach(node, plugins, lan(name, subnet, policy, backend), cid, node.netns(cid))
    a1 = made["a1"].box
    assert a1 is not None
    assert a1.ping("10.1.0.3") and a1.ping("10.3.0.2") and a1.ping("10.1.0.1")
    assert not a1.ping("10.2.0.2", seconds=1)
    assert made["a1"].delete().error is None
    assert made["a2"].box is not None
    assert not made["a2"].box.ping("10.2.0.2", seconds=1), (
        "the bridge is still guarded for its other container"
    )
    for item in made.values():
        assert item.check().error is None or item is made["a1"]
    for item in made.values():
        assert item.delete().error is None
        assert item.box is not None
        item.box.delete()
    assert_clean(node, before)
    assert "br-a" not in node.run(["iptables-save"]).text


@pytest.mark.parametrize("backend", BACKENDS)
def test_isolated_containers_of_one_bridge(node: Node, plugins: str, backend: str) -> None:
    """Bridged frames too, without br_netfilter; the gateway and the world are reached."""
    node.uplink()
    before = snapshot(node)
    config = network(
        [bridge(V4, isDefaultGateway=True, ipMasq=True), firewall(ingressPolicy="isolated", backend=backend)],
    )
    made = [attach(node, plugins, config, cid, node.netns(cid)) for cid in ("c1", "c2")]
    one = made[0].box
    assert one is not None
    assert one.ping("10.9.0.1") and one.ping("192.0.2.1")
    assert not one.ping("10.9.0.3", seconds=1)
    assert all(item.check().error is None for item in made)
    for item in made:
        assert item.delete(previous=False).error is None
        assert item.box is not None
        item.box.delete()
    assert_clean(node, before)


def test_nftables_says_what_it_cannot_do(node: Node, plugins: str) -> None:
    node.shell(DOCKER)
    config = network([bridge(V4), firewall(backend="nftables")])
    box = node.netns("c1")
    attachment = Attachment(node, plugins, config, "c1", box)
    answer = attachment.add()
    assert answer.error is None
    assert b"FORWARD" in answer.finished.stderr and b"iptables" in answer.finished.stderr
    (element,) = _elements(node, "admitted4")
    assert element["elem"]["val"] == "10.9.0.2"
    assert attachment.delete().error is None
    assert not _elements(node, "admitted4")


def _elements(node: Node, name: str) -> list[Any]:
    listed = node.run(["nft", "-j", "list", "set", "inet", "mesokit", name], check=False)
    if listed.status:
        return []
    found: list[Any] = listed.json()["nftables"][1]["set"].get("elem", [])
    return found


def test_the_administrators_chain_is_asked_first(node: Node, plugins: str) -> None:
    node.uplink()
    node.shell(f"{DOCKER}; iptables -N MINE; iptables -A MINE -d 192.0.2.1 -j DROP")
    config = network(
        [bridge(V4, isDefaultGateway=True), firewall(backend="iptables", iptablesAdminChainName="MINE")]
    )
    made = attach(node, plugins, config, "c1", node.netns("c1"))
    assert made.box is not None
    assert not made.box.ping("192.0.2.1", seconds=1)
    node.shell("iptables -F MINE")
    assert made.delete().error is None
    assert "-N MINE" in node.run(["iptables", "-S"]).text


def test_an_address_used_again_stays_admitted(node: Node, plugins: str) -> None:
    """iptables' rules name addresses only: the late DEL of a container whose address another one has by now
    leaves that one's."""
    config = network([firewall(backend="iptables")])
    first, second = (Attachment(node, plugins, config, cid, node.netns(cid)) for cid in ("c1", "c2"))
    result = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "10.9.0.2/24", "interface": 0}],
    }
    for item in (first, second):
        document = item._document(config["plugins"][0], result)
        node.cni("ADD", f"{plugins}/firewall", document, item.cid, item.box).ok()
    rules = node.run(["iptables-save", "-t", "filter"]).text
    assert rules.count("-s 10.9.0.2/32") == 1
    for item, left in ((first, 1), (second, 0)):
        document = item._document(config["plugins"][0], None)
        node.cni("DEL", f"{plugins}/firewall", document, item.cid, item.box).ok()
        assert node.run(["iptables-save", "-t", "filter"]).text.count("-s 10.9.0.2/32") == left


def test_what_the_reference_made_is_taken_down(node: Node, plugins: str, reference: str) -> None:
    """And the other way round."""
    before = snapshot(node)
    box = node.netns("c1")
    config = network([bridge(DUAL), firewall(backend="iptables")])
    for adds, deletes in ((reference, plugins), (plugins, reference)):
        made = attach(node, adds, config, "c1", box)
        assert "10.9.0" in node.run(["iptables-save", "-t", "filter"]).text
        other = Attachment(node, deletes, config, "c1", box, result=made.result)
        if deletes == plugins:
            assert other.check().error is None
        answer = node.cni(
            "DEL", f"{deletes}/firewall", other._document(config["plugins"][1], made.result), "c1", box
        )
        assert answer.error is None
        assert "10.9.0" not in node.run(["iptables-save", "-t", "filter"]).text
        assert made.delete().error is None
        node.run(["ip", "link", "del", "br0"], check=False)  # the reference leaves its bridge
    box.delete()
    assert_clean(node, before)


def test_a_rule_that_is_gone_is_made_again(node: Node, plugins: str, request: pytest.FixtureRequest) -> None:
    """After `iptables -F`, and after nft flushed our table: CHECK says so, `mesokit reload` mends it. The
    service may have mended it before CHECK looks.
    """
    for backend in BACKENDS:
        config = network([bridge(V4), firewall(backend=backend, ingressPolicy="same-bridge")], name=backend)
        box = node.netns(backend)
        made = attach(node, plugins, config, "c1", box)
        node.shell("iptables -F; nft flush table inet mesokit || true")
        found = made.check()
        assert found.error is not None or "service" in request.node.name
        node.run([MESOKIT, "reload"])
        answer = made.check()
        assert answer.error is None, answer.error
        assert made.delete().error is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"ingressPolicy": "closed"}, ["ingressPolicy", "closed", "same-bridge"]),
        ({"backend": "pf"}, ["backend", "pf", "iptables"]),
        ({"iptablesAdminChainName": "a b"}, ["iptablesAdminChainName", "a b"]),
        ({"iptablesAdminChainName": "CNI-FORWARD"}, ["iptablesAdminChainName", "CNI-FORWARD"]),
        ({"ingresPolicy": "open"}, ["ingresPolicy", "ingressPolicy"]),
    ],
)
def test_refused_before_anything_is_made(
    node: Node, plugins: str, keys: dict[str, Any], words: list[str]
) -> None:
    box = node.netns("c1")
    conf = {"cniVersion": "1.0.0", "name": "net", **firewall(**keys), "delegate": bridge(V4)}
    answer = node.cni("ADD", f"{plugins}/firewall", conf, "c1", box)
    text = json.dumps(answer.error)
    assert all(word in text for word in words), text
    assert [item["ifname"] for item in node.json("ip", "-j", "link")] == ["lo"]


@contextmanager
def firewalld(node: Node) -> Iterator[None]:
    """Debian's own, unpacked and not installed (it would start on this machine), on a bus of the node."""
    node.shell("mkdir -p /run/dbus /run/firewalld-config")
    node.path("/run/bus.conf").write_text(BUS)
    bus = ["dbus-daemon", "--config-file=/run/bus.conf", "--nofork", "--nopidfile"]
    with started(node.popen(bus)), ExitStack() as stack:
        until(node.path("/run/dbus/system_bus_socket").is_socket, what="the system bus")
        running = stack.enter_context(started(node.popen(FIREWALLD, env=ENV)))

        def ready() -> bool:
            if running.ended():
                raise NodeError(running.errors().decode(errors="replace"))
            return node.run([*CMD, "--state"], env=ENV, check=False).status == 0

        until(ready, seconds=60, what="firewalld")
        yield


def _sources(node: Node) -> str:
    return node.run([*CMD, "--zone=trusted", "--list-sources"], env=ENV).text


@pytest.mark.timeout(180)
def test_firewalld_gets_sources_of_its_zone(node: Node, plugins: str) -> None:
    """A real firewalld: chosen because it runs, its zone has the addresses, CHECK sees a reload, `mesokit
    reload` brings them back, DEL takes them away."""
    node.uplink()
    with firewalld(node):
        config = network([bridge(DUAL, isDefaultGateway=True, ipMasq=True), firewall()])
        box: Netns = node.netns("c1")
        made = attach(node, plugins, config, "c1", box)
        assert set(_sources(node).split()) == {"10.9.0.2/32", "fd00:9::2/128"}
        assert made.check().error is None
        assert box.ping("192.0.2.1")
        node.run([*CMD, "--reload"], env=ENV)
        assert "firewalld" in json.dumps(made.check().error)
        node.run([MESOKIT, "reload"])
        assert made.check().error is None
        assert made.delete(previous=False).error is None
        assert not _sources(node).split()
        assert made.delete().error is None
