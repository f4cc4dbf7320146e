"""Ports of the host that a container may not have, and the sentence that says why."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.kernel.namespace import entered

BRIDGE: dict[str, Any] = {
    "type": "bridge",
    "bridge": "br0",
    "isGateway": True,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]},
}
V4 = BRIDGE | {"ipam": {"type": "host-local", "subnet": "10.9.0.0/24"}}


def network(mapping: dict[str, Any], **keys: Any) -> dict[str, Any]:
    mapping = {"hostPort": 8022, "containerPort": 22} | mapping
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "portmap", "delegate": BRIDGE}
    return conf | {"runtimeConfig": {"portMappings": [mapping]}} | keys


@contextmanager
def listening(
    world: World, address: str, *, kind: int = socket.SOCK_STREAM, only: bool = False
) -> Iterator[None]:
    """A program of the host, this one, waits on port 8022."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    world.run("ip", "link", "set", "lo", "up")
    with entered(world.host):
        opened = socket.socket(family, kind)
    with opened:
        if only:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind((address, 8022))
        if kind == socket.SOCK_STREAM:
            opened.listen()
        yield


@pytest.mark.parametrize(
    ("address", "mapping", "keys"),
    [
        ("0.0.0.0", {}, {}),
        ("0.0.0.0", {"hostIP": "192.0.2.7"}, {}),
        ("127.0.0.53", {}, {}),
        ("127.0.0.1", {"hostIP": "127.0.0.1"}, {}),
        ("::", {}, {}),
        ("::", {}, {"delegate": V4}),
        ("::ffff:127.0.0.1", {}, {"delegate": V4}),
    ],
)
def test_a_port_that_a_program_listens_on_is_refused_by_its_name(
    world: World, address: str, mapping: dict[str, Any], keys: dict[str, Any]
) -> None:
    with listening(world, address):
        error = world.refused(network(mapping, **keys))
        assert error["code"] == 103
        name = Path("/proc/self/comm").read_text().strip()
        for word in ("host port 8022/tcp", name, f"process {os.getpid()}"):
            assert word in error["msg"]
        assert "overrideListeners" in error["details"]
        assert (world.links(), world.records(), world.reserved("net")) == (["lo"], [], [])
        world.add(network(mapping, overrideListeners=True, **keys))


@pytest.mark.parametrize(
    ("address", "mapping", "keys"),
    [
        ("127.0.0.1", {"hostIP": "192.0.2.7"}, {}),
        ("0.0.0.0", {"protocol": "udp"}, {}),
        ("0.0.0.0", {"hostPort": 8023}, {}),
        ("::1", {}, {}),
        ("0.0.0.0", {"hostIP": "fd00::7"}, {}),
    ],
)
def test_a_port_that_a_program_leaves_free_is_published(
    world: World, address: str, mapping: dict[str, Any], keys: dict[str, Any]
) -> None:
    with listening(world, address):
        world.add(network(mapping, **keys))


def test_families_and_datagrams(world: World) -> None:
    with listening(world, "::", only=True):
        world.add(network({}, delegate=V4))
        world.delete(network({}))
        assert world.refused(network({}))["code"] == 103
    with listening(world, "0.0.0.0", kind=socket.SOCK_DGRAM):
        assert "8022/udp" in world.refused(network({"protocol": "udp"}))["msg"]
        world.add(network({}))


def test_a_runtimes_placeholder_is_no_obstacle(world: World) -> None:
    """podman lets conmon hold the port that it publishes, and calls ADD again on `network reload`."""
    comm = Path("/proc/self/comm")
    name = comm.read_text()
    with listening(world, "0.0.0.0"):
        comm.write_text("conmon")
        try:
            world.add(network({}))
        finally:
            comm.write_text(name)


@pytest.mark.parametrize("plugin", [{}, {"type": "mesos-cni-port-mapper", "chain": "X"}])
def test_what_the_operator_says_of_ports(world: World, plugin: dict[str, Any]) -> None:
    allowed = network({}, allowedHostPorts=[80, "31000-32000"], **plugin)
    error = world.refused(allowed)
    assert error["code"] == 7
    assert "8022 is not one of allowedHostPorts (80, 31000-32000)" in error["msg"]
    reserved = network({}, reservedHostPorts=["1-8100"], **plugin)
    assert "8022 is one of reservedHostPorts (1-8100)" in world.refused(reserved)["msg"]
    task = {"port_mappings": [{"host_port": 22, "container_port": 22}]}
    wish = {"args": {"org.apache.mesos": {"network_info": task}}, "runtimeConfig": {}}
    assert "22 is one of" in world.refused(network({}, reservedHostPorts=["1-100"], **plugin) | wish)["msg"]
    assert world.records() == []
    world.add(network({}, allowedHostPorts=["8000-8999"], reservedHostPorts=[22], **plugin))


@pytest.mark.parametrize("value", [0, 65536, "8-7", "a", "1-2-3", True, 1.5, None, [], "٣", "80 "])
def test_spans_that_are_none(world: World, value: Any) -> None:
    error = world.refused(network({}, reservedHostPorts=[80, value]))
    assert error["code"] == 7
    assert "reservedHostPorts[1] is" in error["msg"]


def test_a_container_that_the_host_has_no_route_to(world: World) -> None:
    """The reference accepts it: a route may come later."""
    world.box("c1")
    previous = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": "x"}],
        "ips": [{"address": "10.99.0.5/24", "interface": 0}],
    }
    conf = {key: value for key, value in network({}).items() if key != "delegate"}
    world.add(conf | {"prevResult": previous})
    assert "10.99.0.5" in world.run("nft", "list", "ruleset")
    world.delete(conf)
    assert "10.99.0.5" not in world.run("nft", "list", "ruleset")
