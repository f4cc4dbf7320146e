"""Announcements, as neighbours hear them."""

import time
from collections.abc import Callable

from cni_plugins.conftest import World, new_namespace
from cni_plugins.kernel import announce


def until(true: Callable[[], bool]) -> None:
    """Wait for something that the kernel does soon; AssertionError after a minute."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def neighbour(world: World, address: str) -> str:
    return str(world.json("ip", "-j", "neigh", "show", address, "dev", "x1")[0]["lladdr"])


def test_a_neighbour_believes_it(world: World) -> None:
    """One that knows both addresses by another MAC address takes the new one."""
    box = world.box("c1")
    world.run("ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
    world.run("ip", "link", "set", "x0", "netns", box.path)
    for address in ("10.9.0.3/24", "fd00::3/64"):
        world.run("ip", "addr", "add", address, "dev", "x0", *(["nodad"] * (":" in address)), box="c1")
    world.run("ip", "link", "set", "x0", "address", "02:00:00:00:00:05", "up", box="c1")
    world.run("ip", "link", "set", "x1", "up")
    world.run("ip", "addr", "add", "10.9.0.1/24", "dev", "x1")
    for address in ("fd00::3", "10.9.0.3"):
        other = ("lladdr", "02:00:00:00:00:09", "dev", "x1", "nud", "stale")
        world.run("ip", "neigh", "replace", address, *other)
    for name in ("ipv4/conf/x0/arp_notify", "ipv6/conf/x0/ndisc_notify"):
        world.run("sh", "-c", f"echo 1 >/proc/sys/net/{name}", box="c1")
    announce.prepared(box, "x0")()
    until(lambda: {neighbour(world, "10.9.0.3"), neighbour(world, "fd00::3")} == {"02:00:00:00:00:05"})


def test_a_container_that_has_gone_is_no_error() -> None:
    announce.prepared(new_namespace(), "eth0")()
