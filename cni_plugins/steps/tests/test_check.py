"""CHECK sees what a user would feel, and forgives what a later plugin of the list did."""

import time
from typing import Any

import pytest

from cni_plugins.conftest import World

IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.9.0.0/24"}], [{"subnet": "fd00:9::/64"}]]}
BRIDGE: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "n",
    "type": "bridge",
    "bridge": "br0",
    "isGateway": True,
    "ipam": IPAM,
}
PTP: dict[str, Any] = {**BRIDGE, "type": "ptp"}
MACVLAN: dict[str, Any] = {**BRIDGE, "type": "macvlan", "master": "up0"}
CONFS = {"bridge": BRIDGE, "ptp": PTP, "macvlan": MACVLAN}

#: Plugins, what is done to the host ({host} is the host's end) or to the container, and what CHECK names.
HARMS: list[tuple[str, str, str, str]] = [
    ("bridge ptp macvlan", "c1", "ip link set eth0 down", "eth0 is down"),
    ("bridge ptp", "host", "ip link set {host} down", "is down"),
    ("bridge", "host", "ip link set br0 down", "br0 is down"),
    ("macvlan", "host", "ip link set up0 down", "up0, the master of eth0, is down"),
    ("bridge ptp", "host", "sysctl -qw net.ipv4.ip_forward=0", "ip_forward"),
    ("bridge ptp", "host", "sysctl -qw net.ipv6.conf.all.forwarding=0", "forwarding"),
    ("bridge ptp macvlan", "c1", "ip link set eth0 mtu 1300", "MTU 1300"),
    ("bridge", "host", "ip link set {host} nomaster", "no port of bridge br0"),
    ("ptp", "host", "ip route del 10.9.0.2/32", "10.9.0.2/32"),
]
CASES = [(kind, where, harm, said) for kinds, where, harm, said in HARMS for kind in kinds.split()]


def prepared(world: World) -> World:
    world.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    for name in ("up0", "up1"):
        world.run("ip", "link", "set", name, "up")
    return world


def complaint(world: World, conf: dict[str, Any], result: Any) -> str:
    answer = world.call("CHECK", conf | {"prevResult": result})
    return str(answer.document["msg"]) if answer.status else ""


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "without a record"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}: {case[2]}")
def test_check_names_what_a_user_would_feel(
    world: World, case: tuple[str, str, str, str], recorded: bool
) -> None:
    """C10. Each with a record, and as after the reference plugin's ADD (where an MTU that no configuration
    names is anybody's)."""
    kind, where, harm, said = case
    conf = CONFS[kind]
    result = prepared(world).add(conf)
    if not recorded:
        if "mtu" in harm:
            conf = conf | {"mtu": 1500}
        for path in world.records():
            path.unlink()
    assert complaint(world, conf, result) == ""
    host = next((item["name"] for item in result["interfaces"] if item["name"].startswith("veth")), "")
    world.run(*harm.format(host=host).split(), box=None if where == "host" else where)
    assert said in complaint(world, conf, result)


def test_check_names_a_duplicate_address(world: World) -> None:
    """C10. The address that the kernel found on another host is not in use (DADFAILED)."""
    conf = BRIDGE | {"ipam": {"type": "host-local", "subnet": "fd00:9::/64"}}
    result = world.add(conf)
    world.box("c2")
    world.run("ip", "link", "add", "x0", "master", "br0", "type", "veth", "peer", "name", "x1")
    world.run("ip", "link", "set", "x0", "up")
    world.run("ip", "addr", "add", "fd00:9::2/64", "dev", "x1", "nodad")
    world.run("ip", "link", "set", "x1", "up")
    world.run("ip", "addr", "del", "fd00:9::2/64", "dev", "eth0", box="c1")
    world.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=1", box="c1")
    world.run("ip", "addr", "add", "fd00:9::2/64", "dev", "eth0", box="c1")
    end = time.monotonic() + 30
    while "dadfailed" not in world.run("ip", "-6", "addr", "show", "eth0", box="c1"):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "DADFAILED" in complaint(world, conf, result)


@pytest.mark.parametrize("kind", sorted(CONFS))
def test_check_forgives_what_a_later_plugin_changed(world: World, kind: str) -> None:
    """tuning in the same list sets MTU and MAC address; prevResult of 1.0.0 has no place for the MTU."""
    conf = CONFS[kind]
    first = prepared(world).add(conf)
    tuning = {"type": "tuning", "mtu": 1300, "mac": "02:00:00:00:00:07", "prevResult": first}
    result = world.add(conf | tuning)
    assert complaint(world, conf, result) == ""
    world.run("ip", "link", "set", "eth0", "mtu", "1280", box="c1")
    assert complaint(world, {**conf, **tuning, "prevResult": result}, result) != ""


def test_check_forgives_the_reference_plugin_s_tuning(world: World) -> None:
    """Which leaves no record, but a file of what it found."""
    result = prepared(world).add(BRIDGE)
    world.run("ip", "link", "set", "eth0", "mtu", "1300", box="c1")
    assert "MTU" in complaint(world, BRIDGE, result)
    backup = world.root / "run/cni/tuning/c1_eth0.json"
    backup.parent.mkdir(parents=True)
    backup.write_text('{"mtu": 1500}')
    assert complaint(world, BRIDGE, result) == ""
