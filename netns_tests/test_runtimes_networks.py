"""podman's own networks, the default one and what `podman network create` writes, on our plugins alone; and
the lists that Nomad, flannel and Calico publish."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from netns_tests.case import bridge, local
from netns_tests.node import Node
from netns_tests.runtime import attach, network
from netns_tests.snapshot import assert_clean, snapshot
from netns_tests.test_runtimes import RUNTIME, Podman
from netns_tests.traffic import ask

SERVE = "while true; do echo hello | nc -l -p 80 >/dev/null; done"
#: podman reads a list of its own with them; it writes its files with the network.
OWN = (*RUNTIME, r"(file|dir) /(etc/cni|var/lib/containers|root)")


@pytest.fixture
def podman(node: Node, plugins: str) -> Podman:
    return Podman(node, plugins)


def test_the_default_network(node: Node, podman: Podman) -> None:
    """Its list is bridge, portmap, firewall, tuning; beside Docker's FORWARD DROP too."""
    world = node.uplink()
    node.shell("iptables -P FORWARD DROP")
    podman.run("--network", "none", command="true")
    before = snapshot(node)
    with podman.container("web", "--publish", "8080:80", command=SERVE) as networks:
        address = networks["podman"]["IPAddress"]
        assert node.ping(address)
        assert ask(node, "tcp", "192.0.2.2", 8080, seconds=20) == "hello"
        reply = node.run(["podman", "exec", "web", "ping", "-c", "1", "-W", "5", "192.0.2.1"])
        assert "1 packets received" in reply.text
        assert world.ping("192.0.2.2")
    assert_clean(node, before, allowed=OWN)


#: Options of `podman network create`, and what its list then says, as words of JSON.
FORMS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "plain": ((), ('"firewall"',)),
    "subnet": (("--subnet", "10.77.0.0/24", "--gateway", "10.77.0.9"), ("10.77.0.9",)),
    "range": (("--subnet", "10.77.0.0/24", "--ip-range", "10.77.0.128/25"), ("rangeStart",)),
    "internal": (("--internal",), ()),
    "isolate": (("--opt", "isolate=true"), ("same-bridge",)),
    "ipv6": (("--ipv6", "--subnet", "fd00:77::/64", "--subnet", "10.77.0.0/24"), ("fd00:77::",)),
    "mtu": (("--opt", "mtu=1400"), ("1400",)),
    "macvlan": (
        (
            "--driver",
            "macvlan",
            "--opt",
            "parent=eth0",
            "--subnet",
            "192.0.2.0/24",
            "--ip-range",
            "192.0.2.128/25",
        ),
        ('"macvlan"',),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_network_create(node: Node, podman: Podman, form: str) -> None:
    options, words = FORMS[form]
    node.uplink()
    podman.run("--network", "none", command="true")
    before = snapshot(node)
    node.run(["podman", "network", "create", *options, "made"])
    written = node.path("/etc/cni/net.d/made.conflist").read_text()
    assert all(word in written for word in words), written
    with (
        podman.container("one", "--network", "made") as one,
        podman.container("two", "--network", "made") as two,
    ):
        addresses = [two["made"]["IPAddress"], two["made"]["GlobalIPv6Address"]]
        for address in filter(None, addresses):
            tries = f"for i in 1 2 3 4 5; do ping -c 1 -W 1 {address} && exit 0; done; exit 1"
            assert node.run(["podman", "exec", "one", "sh", "-c", tries]).status == 0
        inside = node.run(["podman", "exec", "one", "ip", "addr", "show", "eth0"]).text
        assert one["made"]["IPAddress"] in inside
        assert ("mtu 1400" in inside) == (form == "mtu")
        default = "default" in node.run(["podman", "exec", "one", "ip", "route"]).text
        assert default == (form != "internal")
    node.run(["podman", "network", "rm", "made"])
    assert_clean(node, before, allowed=OWN)


def test_isolated_networks_do_not_reach_each_other(node: Node, podman: Podman) -> None:
    for name in ("blue", "red"):
        node.run(["podman", "network", "create", "--opt", "isolate=true", name])
    node.run(["podman", "network", "create", "open"])
    with (
        podman.container("one", "--network", "blue"),
        podman.container("two", "--network", "red") as two,
        podman.container("three", "--network", "open") as three,
    ):

        def reached(address: str) -> bool:
            argv = ["podman", "exec", "one", "ping", "-c", "2", "-W", "2", address]
            return node.run(argv, check=False).status == 0

        assert not reached(two["red"]["IPAddress"])
        assert reached(three["open"]["IPAddress"])


#: Nomad's bridge network (client/allocrunner/networking_bridge_linux.go), Calico's list with its own plugin
#: replaced by a bridge.
LISTS: dict[str, dict[str, Any]] = {
    "nomad": network(
        [
            {"type": "loopback"},
            {
                "type": "bridge",
                "bridge": "nomad",
                "ipMasq": True,
                "isGateway": True,
                "forceAddress": True,
                "hairpinMode": False,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "172.26.64.0/20"}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "firewall", "backend": "iptables", "iptablesAdminChainName": "NOMAD-ADMIN"},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
        name="nomad",
        version="0.4.0",
    ),
    "calico": network(
        [
            bridge(local("10.9.0.0/24"), isDefaultGateway=True, ipMasq=True),
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
            {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}},
        ],
        name="k8s-pod-network",
        version="0.3.1",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_published_lists(node: Node, plugins: str, name: str) -> None:
    world = node.uplink()
    node.shell("iptables -P FORWARD " + ("DROP" if name == "nomad" else "ACCEPT"))
    before = snapshot(node)
    box = node.netns("c1")
    asked = {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 10**8, "ingressBurst": 10**7, "egressRate": 10**8, "egressBurst": 10**7},
    }
    made = attach(node, plugins, LISTS[name], "c1", box, capabilities=asked)
    assert box.ping("192.0.2.1") and world.ping("192.0.2.2")
    if name == "nomad":
        assert "NOMAD-ADMIN" in json.dumps(node.run(["iptables", "-S"]).text)
        assert made.check().error is None
    assert made.delete().error is None
    box.delete()
    assert_clean(node, before, allowed=[r"node: nft (chain|rule) ip filter .*NOMAD-ADMIN"])
