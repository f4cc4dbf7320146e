"""Announcements, as frames."""

import time
from collections.abc import Callable
from ipaddress import ip_interface

from cni_plugins.conftest import World, new_namespace
from cni_plugins.kernel import announce

MAC = bytes.fromhex("020000000005")


def until(true: Callable[[], bool]) -> None:
    """Wait for something that the kernel does soon; AssertionError after a minute."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def neighbour(world: World, address: str) -> str:
    return str(world.json("ip", "-j", "neigh", "show", address, "dev", "x1")[0]["lladdr"])


def test_arp() -> None:
    frame = announce.arp(MAC, ip_interface("10.9.0.3/24"))
    ethernet, header = "ffffffffffff0200000000050806", "0001080006040001"
    assert frame.hex() == ethernet + header + "0200000000050a090003" + "0000000000000a090003"


def test_the_kernel_believes_an_advertisement(world: World) -> None:
    """A neighbour that knows the address by another MAC address takes the new one: the checksum is right,
    too.
    """
    world.run("ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
    world.run("ip", "link", "set", "x0", "address", "02:00:00:00:00:05", "up")
    world.run("ip", "link", "set", "x1", "up")
    world.run("ip", "neigh", "add", "fd00::3", "lladdr", "02:00:00:00:00:09", "dev", "x1", "nud", "stale")
    world.run("ip", "neigh", "add", "10.9.0.3", "lladdr", "02:00:00:00:00:09", "dev", "x1", "nud", "stale")
    world.run("ip", "addr", "add", "10.9.0.1/24", "dev", "x1")
    announce.prepared(world.host, "x0", [ip_interface("10.9.0.3/24"), ip_interface("fd00::3/64")])()
    until(lambda: {neighbour(world, "10.9.0.3"), neighbour(world, "fd00::3")} == {"02:00:00:00:00:05"})


def test_a_container_that_has_gone_is_no_error() -> None:
    namespace = new_namespace()
    announce.prepared(namespace, "eth0", [ip_interface("10.9.0.3/24")])()
