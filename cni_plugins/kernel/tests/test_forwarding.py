"""A host that lives on router advertisements goes on to, when it begins to forward for its containers."""

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.kernel import forwarding, sysctl
from cni_plugins.kernel.forwarding import Uplink
from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after

ACCEPT = "ipv6/conf/up0/accept_ra"


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def uplink(world: World) -> Callable[[], None]:
    """up0, by which a router in a namespace of its own is reached; what is returned makes it advertise."""
    router = world.box("router")
    world.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "r0")
    world.run("ip", "link", "set", "r0", "netns", router.path)
    sysctl.ensure(router, {"ipv6/conf/r0/accept_dad": "0"})
    world.run("ip", "link", "set", "lo", "up", box="router")
    world.run("ip", "link", "set", "r0", "up", box="router")
    sysctl.ensure(world.host, {"ipv6/conf/up0/accept_dad": "0", "ipv6/conf/all/forwarding": "0"})
    world.run("ip", "link", "set", "up0", "up")
    until(lambda: "fe80::" in world.run("ip", "-6", "addr", "show", "dev", "r0", "-tentative", box="router"))
    with entered(router):
        channel = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        index = socket.if_nametoindex("r0")

    def advertise() -> None:
        """RFC 4861, 4.2: a router for half an hour, without a prefix."""
        packet = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
        channel.sendto(packet, ("ff02::1", 0, 0, index))

    return advertise


def default_routes(world: World) -> list[str]:
    return world.run("ip", "-6", "route", "show", "default").splitlines()


def learned(world: World, advertise: Callable[[], None]) -> None:
    """Advertise until the route is there: the link may not listen yet."""

    def try_it() -> bool:
        advertise()
        return any("proto ra" in line for line in default_routes(world))

    until(try_it)


def test_a_host_keeps_the_default_route_that_a_router_advertised(
    world: World, uplink: Callable[[], None]
) -> None:
    with Netlink(world.host, after(60)) as netlink:
        assert forwarding.uplinks(netlink) == ()
        learned(world, uplink)
        (found,) = forwarding.uplinks(netlink)
        assert found.name == "up0"
        forwarding.keep_routers(world.host, [found, Uplink("up0", 999), Uplink("gone", 7)])
        assert not forwarding.is_on(world.host, 6)
        forwarding.turn_on(world.host, [4, 6])
        assert forwarding.is_on(world.host, 4)
        assert "proto ra" in default_routes(world)[0]
        # The next advertisement counts too: a route that ran out comes again.
        world.run("ip", "-6", "route", "del", "default")
        learned(world, uplink)
        assert forwarding.uplinks(netlink) == ()
        forwarding.release_routers(world.host, [found])
        assert sysctl.read(world.host, ACCEPT) == "2"  # it forwards: the route would go
        assert default_routes(world)
        sysctl.ensure(world.host, {"ipv6/conf/all/forwarding": "0"})
        forwarding.release_routers(world.host, [Uplink("up0", 999)])
        assert sysctl.read(world.host, ACCEPT) == "2"  # another link of that name
        forwarding.release_routers(world.host, [found])
        assert sysctl.read(world.host, ACCEPT) == "1"
        assert default_routes(world)


def test_what_an_administrator_decided_stays(world: World, uplink: Callable[[], None]) -> None:
    learned(world, uplink)
    with Netlink(world.host, after(60)) as netlink:
        (found,) = forwarding.uplinks(netlink)
        sysctl.ensure(world.host, {ACCEPT: "0"})
        assert forwarding.uplinks(netlink) == ()
        forwarding.release_routers(world.host, [found])
        assert sysctl.read(world.host, ACCEPT) == "0"


def network(kind: str) -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.50.0.0/24"}], [{"subnet": "fd00:50::/64"}]]}
    return {"cniVersion": "1.0.0", "name": kind, "type": kind, "isGateway": True, "ipam": ipam}


def test_containers_come_and_go_on_a_host_with_an_advertised_route(
    world: World, uplink: Callable[[], None]
) -> None:
    learned(world, uplink)
    networks = [network("bridge"), network("ptp")]
    for number, config in enumerate(networks):
        world.add(config, f"c{number}")
        assert "proto ra" in default_routes(world)[0]
    assert sysctl.read(world.host, "ipv6/conf/all/forwarding") == "1"
    world.delete(networks[0], "c0")
    assert sysctl.read(world.host, ACCEPT) == "2"
    sysctl.ensure(world.host, {"ipv6/conf/all/forwarding": "0"})
    world.delete(networks[1], "c1")
    assert sysctl.read(world.host, ACCEPT) == "1"
    assert "proto ra" in default_routes(world)[0]


def test_the_route_outlives_the_last_container_while_the_host_forwards(
    world: World, uplink: Callable[[], None]
) -> None:
    learned(world, uplink)
    config = network("bridge")
    world.add(config)
    world.delete(config)
    assert sysctl.read(world.host, "ipv6/conf/all/forwarding") == "1"
    assert sysctl.read(world.host, ACCEPT) == "2"
    learned(world, uplink)
    # The next container holds it again only if the host has to begin to forward once more.
    sysctl.ensure(world.host, {ACCEPT: "1", "ipv6/conf/all/forwarding": "0"})
    learned(world, uplink)
    world.add(config)
    assert "proto ra" in default_routes(world)[0]
    world.delete(config)


def test_an_add_that_fails_puts_back_nothing_that_others_count_on(
    world: World, uplink: Callable[[], None]
) -> None:
    learned(world, uplink)
    world.add(network("bridge"))
    broken = network("ptp") | {"hostInterface": "up0"}
    world.refused(broken, "c2")
    assert sysctl.read(world.host, ACCEPT) == "2"
    assert default_routes(world)
    world.delete(network("bridge"))


def test_a_host_without_advertised_routes_is_left_alone(world: World, uplink: Callable[[], None]) -> None:
    world.add(network("bridge"))
    assert sysctl.read(world.host, ACCEPT) == "1"
    assert not list((world.root / "run/mesokit").glob("claims/routers-*"))
    world.delete(network("bridge"))
