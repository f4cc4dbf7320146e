"""tuning's sysctls: names that would leave the container's network, and maps that say two things."""

import json
from typing import Any

import pytest

from cni_plugins.conftest import World, told

PREVIOUS = {"cniVersion": "1.1.0", "interfaces": [{"name": "lo", "sandbox": "x"}]}
CONF: dict[str, Any] = {"cniVersion": "1.1.0", "name": "n", "type": "tuning", "prevResult": PREVIOUS}


@pytest.mark.parametrize(
    "name",
    [
        "kernel.hostname",
        "net",
        "net/",
        "",
        "/",
        "..",
        "net/../kernel/hostname",
        "net/ipv4/../../kernel/hostname",
        "/net/../kernel/hostname",
        "net.//.kernel.hostname",
        "net.ipv4.//.//.kernel.hostname",
        "net/ipv4/conf/IFNAME/../../../../kernel/hostname",
        "net.ipv4",
        "net/core/somaxconn\0",
        "net/core/\ud800",
        "net/core/" + "a" * 300,
        "net/core/somaxconn\n",
    ],
)
def test_no_name_leads_out_of_the_network(world: World, name: str) -> None:
    before = world.run("cat", "/proc/sys/kernel/hostname")
    error = world.refused(CONF | {"sysctl": {name: "owned"}})
    assert error["code"] in {5, 7} and "internal" not in error["msg"], error
    assert world.run("cat", "/proc/sys/kernel/hostname") == before
    assert not world.records()


@pytest.mark.parametrize("value", ["\0", "\ud800", "x" * 10000])
def test_no_value_breaks_anything(world: World, value: str) -> None:
    error = world.refused(CONF | {"sysctl": {"net.core.somaxconn": value}})
    assert error["code"] in {5, 7} and "internal" not in error["msg"], error
    assert not world.records()


def test_a_name_that_stands_twice_is_refused(world: World) -> None:
    world.box("c1")
    doubled = json.dumps(CONF | {"sysctl": {}}).replace(
        '"sysctl": {}', '"sysctl": {"net.core.somaxconn": "1", "net.core.somaxconn": "2"}'
    )
    answer = world.call("ADD", doubled.encode())
    assert answer.code == 7 and "net.core.somaxconn" in told(answer.document)


@pytest.mark.parametrize(
    "name",
    [
        "net/ipv4/../core/somaxconn",
        "net.ipv4.//.core.somaxconn",
        "net/ipv4/./../core/somaxconn",
        "/net/ipv4/../core/somaxconn",
        "net/core/somaxconn",
        "net.core.somaxconn",
    ],
)
def test_the_allowlist_is_about_what_is_set(world: World, name: str) -> None:
    """A name that a path's `..` leads elsewhere is not what the operator's expression was about."""
    place = world.root / "etc/cni/tuning/allowlist.conf"
    place.parent.mkdir(parents=True)
    place.write_text("^/?net/ipv4/.*$\n^net\\.ipv4\\..*$\n")
    error = world.refused(CONF | {"sysctl": {name: "1"}})
    assert error["code"] == 7 and name in error["msg"]
    world.add(CONF | {"sysctl": {"net/ipv4/conf/IFNAME/arp_filter": "1"}}, CNI_IFNAME="lo")


def test_both_separators_and_an_interface_with_a_dot(world: World) -> None:
    world.box("c1")
    world.run("ip", "link", "add", "eth0.5", "type", "veth", "peer", "name", "p", box="c1")
    names = (
        "net/ipv4/conf/eth0.5/arp_filter",
        "net.ipv4.conf.eth0/5.arp_ignore",
        "net.ipv4.conf.IFNAME.arp_announce",
    )
    world.add(CONF | {"sysctl": dict.fromkeys(names, "1")}, CNI_IFNAME="eth0.5")
    for key in ("arp_filter", "arp_ignore", "arp_announce"):
        assert world.run("cat", f"/proc/sys/net/ipv4/conf/eth0.5/{key}", box="c1").strip() == "1"
    world.delete(CONF, CNI_IFNAME="eth0.5")
    for key in ("arp_filter", "arp_ignore", "arp_announce"):
        assert world.run("cat", f"/proc/sys/net/ipv4/conf/eth0.5/{key}", box="c1").strip() == "0"
