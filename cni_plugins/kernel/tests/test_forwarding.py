"""A host that lives on router advertisements goes on to, when it begins to forward for its containers."""

import socket
import struct
import time
from collections.abc import Callable

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
