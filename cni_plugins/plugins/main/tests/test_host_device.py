"""host-device: found by every key, and given back as it was, whatever happened to it."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.conftest import World, told
from cni_plugins.kernel import links
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after

MAC = "02:00:00:00:00:21"
CONF: dict[str, Any] = {"cniVersion": "1.1.0", "name": "n", "type": "host-device", "device": "up0"}
STATIC = {
    "type": "static",
    "addresses": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}, {"address": "fd00:9::5/64"}],
    "routes": [{"dst": "10.30.0.0/16"}],
}


@pytest.fixture
def node(world: World) -> World:
    """`up0` with an MTU, addresses, a queue, an alias and routes; its peer `far` stays on the host."""
    for line in (
        f"link add up0 address {MAC} mtu 1400 type veth peer name far",
        "link set up0 alias uplink txqueuelen 77 promisc on",
        "addr add 192.0.2.7/24 dev up0",
        "addr add 198.51.100.7/32 dev up0 noprefixroute",
        "addr add fd00:7::7/64 dev up0 nodad",
        "link set far up",
        "link set up0 up",
        "route add 203.0.113.0/24 via 192.0.2.1 dev up0 metric 5",
        "route add 2001:db8:7::/48 via fd00:7::1 dev up0",
    ):
        world.run("ip", *line.split())
    world.box("c1")
    return world


def seen(world: World, name: str = "up0", box: str | None = None) -> Any:
    """All that an operator sees of a link, and the routes by it."""
    (link,) = world.json("ip", "-j", "-d", "addr", "show", name, box=box)
    kept = ("ifname", "mtu", "address", "ifalias", "txqlen", "promiscuity")
    held = sorted(
        (item["local"], item["prefixlen"], item.get("noprefixroute"), item.get("nodad"))
        for item in link["addr_info"]
        if item["scope"] != "link"
    )
    routes = [
        (item["dst"], item.get("gateway"), item.get("metric"))
        for family in ("-4", "-6")
        for item in world.json("ip", family, "-j", "route", "show", "dev", name, box=box)
        if not item["dst"].startswith("fe80")
    ]
    return {key: link.get(key) for key in kept}, "UP" in link["flags"], held, sorted(routes, key=str)


def test_it_comes_back_as_it_was(node: World) -> None:
    before = seen(node)
    result = node.add({**CONF, "ipam": STATIC})
    assert result["interfaces"] == [{"name": "eth0", "mac": MAC, "sandbox": node.boxes["c1"].path}]
    inside, up, held, routes = seen(node, "eth0", "c1")
    assert (inside["mtu"], inside["address"], up) == (1400, MAC, True)
    assert [item[0] for item in held] == ["10.9.0.5", "fd00:9::5"]
    assert ("10.30.0.0/16", "10.9.0.1", None) in routes
    assert node.links() == ["far", "lo"]
    assert node.call("CHECK", {**CONF, "ipam": STATIC, "prevResult": result}).status == 0
    node.delete(CONF)
    assert seen(node) == before
    assert node.links("c1") == ["lo"]
    assert not node.records()


def test_one_that_was_down_stays_down(node: World) -> None:
    node.run("ip", "link", "set", "up0", "down")
    before = seen(node)
    node.add(CONF)
    assert seen(node, "eth0", "c1")[1]
    node.delete(CONF)
    assert seen(node) == before


def test_what_the_task_did_to_it_is_undone(node: World) -> None:
    before = seen(node)
    node.add({**CONF, "ipam": STATIC})
    for line in (
        "link set eth0 down",
        "link set eth0 name mine",
        "link set mine address 02:00:00:00:00:66 mtu 1300 txqueuelen 5 alias far",
        "link add eth0 type veth peer name other",
        f"link set eth0 address {MAC} alias up0",
        "link add br0 type bridge",
        "link set mine master br0",
    ):
        node.run("ip", *line.split(), box="c1")
    node.delete(CONF)
    assert seen(node) == before
    assert node.links("c1") == ["br0", "eth0", "lo", "other"]


def test_what_a_task_made_in_its_place_never_comes_to_the_host(node: World) -> None:
    """The device was given as a veth; the task deletes it and makes one that looks the same."""
    node.add(CONF)
    node.run("ip", "link", "del", "eth0", box="c1")
    node.run("ip", "link", "add", "eth0", "address", MAC, "type", "veth", "peer", "name", "bait", box="c1")
    node.run("ip", "link", "set", "eth0", "alias", "up0", box="c1")
    node.delete(CONF)
    assert node.links() == ["lo"]
    assert node.links("c1") == ["bait", "eth0", "lo"]


def test_del_fails_while_its_name_is_taken(node: World) -> None:
    before = seen(node)
    node.add(CONF)
    node.run("ip", "link", "add", "up0", "type", "bridge")
    answer = node.call("DEL", CONF)
    assert answer.code == 11 and "another link up0" in answer.document["msg"] + answer.document["details"]
    assert seen(node, "eth0", "c1")[1], "it is in the container still, and up"
    node.run("ip", "link", "del", "up0")
    node.delete(CONF)
    assert seen(node) == before


def test_a_virtual_one_ends_with_its_namespace(node: World) -> None:
    node.add(CONF)
    node.forget("c1")
    node.delete(CONF)
    assert "up0" not in node.links()
    assert not node.records()


def test_a_failed_add_gives_it_back(node: World) -> None:
    before = seen(node)
    bad = {**STATIC, "routes": [{"dst": "10.30.0.0/16", "gw": "203.0.113.1"}]}
    node.refused({**CONF, "ipam": bad})
    assert seen(node) == before
    assert node.links("c1") == ["lo"]
    assert not node.records()


def test_a_name_of_the_container_is_not_taken_twice(node: World) -> None:
    """The host's name is one that the container has; CNI_IFNAME is not."""
    node.run("ip", "link", "add", "up0", "type", "bridge", box="c1")
    node.add(CONF)
    assert node.links("c1") == ["eth0", "lo", "up0"]
    node.delete(CONF)
    assert "up0" in node.links()
    node.run("ip", "link", "add", "eth0", "type", "bridge", box="c1")
    assert "already has an interface eth0" in node.refused(CONF)["msg"]


def test_gc_gives_it_back(node: World) -> None:
    before = seen(node)
    node.add(CONF)
    answer = node.call("GC", {**CONF, "cni.dev/valid-attachments": []})
    assert answer.status == 0, answer.document
    assert seen(node) == before


def test_a_port_of_a_bridge_is_one_again(node: World) -> None:
    node.run("ip", "link", "add", "br0", "type", "bridge")
    node.run("ip", "link", "set", "up0", "master", "br0")
    node.add(CONF)
    node.delete(CONF)
    assert node.json("ip", "-j", "link", "show", "up0")[0]["master"] == "br0"


def faked(world: World, bus: str, device: str, driver: str, *below: str) -> Path:
    """A device in a sysfs of the test's, with a driver."""
    place = world.root / f"sys/bus/{bus}/devices/{device}"
    place.mkdir(parents=True)
    drivers = world.root / f"sys/bus/{bus}/drivers/{driver}"
    drivers.mkdir(parents=True)
    (place / "driver").symlink_to(drivers)
    for folder in below:
        (place / folder).mkdir(parents=True)
    return place


def test_it_is_found_by_every_key(node: World) -> None:
    faked(node, "pci", "0000:3d:00.1", "ixgbe", "net/up0")
    faked(node, "pci", "0000:3d:00.2", "virtio-pci", "virtio0/net/up0")
    faked(node, "auxiliary", "mlx5_core.sf.2", "mlx5_core", "net/up0")
    (node.root / "sys/devices/pci0000:00/0000:3d:00.1/net/up0").mkdir(parents=True)
    before = seen(node)
    for keys in (
        {"device": "up0"},
        {"hwaddr": MAC.upper()},
        {"kernelpath": "/sys/devices/pci0000:00/0000:3d:00.1"},
        {"pciBusID": "0000:3d:00.1"},
        {"pciBusID": "0000:3d:00.2"},
        {"runtimeConfig": {"deviceID": "0000:3d:00.1"}},
        {"runtimeConfig": {"deviceID": "mlx5_core.sf.2"}},
        {"device": "far", "runtimeConfig": {"deviceID": "0000:3d:00.1"}},
    ):
        conf = {key: value for key, value in CONF.items() if key != "device"} | keys
        assert node.add(conf)["interfaces"][0]["mac"] == MAC, keys
        assert node.call("STATUS", conf).code == 7, "it is away"
        node.delete({"name": "n", "type": "host-device"})
        assert seen(node) == before
        assert node.call("STATUS", conf).status == 0


@pytest.mark.parametrize("driver", ["vfio-pci", "uio_pci_generic", "igb_uio"])
def test_a_device_of_a_userspace_driver_is_left_alone(node: World, driver: str) -> None:
    faked(node, "pci", "0000:3d:00.1", driver)
    conf: dict[str, Any] = {**CONF, "device": None, "pciBusID": "0000:3d:00.1", "ipam": STATIC}
    result = node.add(conf)
    assert result["interfaces"] == [{"name": "eth0", "sandbox": node.boxes["c1"].path}]
    assert [entry["address"] for entry in result["ips"]] == ["10.9.0.5/24", "fd00:9::5/64"]
    assert node.links("c1") == ["lo"]
    assert node.call("CHECK", {**conf, "prevResult": result}).status == 0
    node.delete(conf)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "no device is named"),
        ({"device": "up7"}, "device is up7"),
        ({"device": "lo"}, "device is lo: the loopback interface"),
        ({"hwaddr": "02:00:00:00:00:99"}, "hwaddr is 02:00:00:00:00:99"),
        ({"kernelpath": "/etc"}, "kernelpath is '/etc', not below /sys/devices/"),
        ({"kernelpath": "/sys/devices/../../etc"}, "not below /sys/devices/"),
        ({"kernelpath": "/sys/devices/nothing"}, "kernelpath is "),
        ({"pciBusID": "../../x"}, "pciBusID is '../../x'"),
        ({"pciBusID": "0000:00:00.0"}, "pciBusID is "),
        ({"runtimeConfig": {"deviceID": "../x"}}, "runtimeConfig.deviceID is '../x'"),
        ({"runtimeConfig": {"deviceID": "0000:00:00.0"}}, "runtimeConfig.deviceID is '0000:00:00.0'"),
    ],
)
def test_what_cannot_be_found_is_named(node: World, keys: dict[str, Any], said: str) -> None:
    conf = {key: value for key, value in CONF.items() if key != "device"} | keys
    error = node.refused(conf)
    assert error["code"] == 7 and said in told(error)


def test_check_tells_another_device(node: World) -> None:
    result = node.add(CONF)
    node.run("ip", "link", "set", "eth0", "down", box="c1")
    node.run("ip", "link", "set", "eth0", "name", "away", box="c1")
    node.run("ip", "link", "add", "eth0", "address", MAC, "type", "veth", "peer", "name", "p", box="c1")
    answer = node.call("CHECK", {**CONF, "prevResult": result})
    assert "eth0 is not the device up0 of the host" in answer.document["msg"]


def test_what_the_reference_moved_is_given_back(node: World) -> None:
    """It leaves no record: the alias is the name. A virtual device must be the configured one."""
    for device, given in (("up0", True), ("far", False)):
        with Netlink(node.host, after(10)) as netlink:
            link = links.find(netlink, "up0")
            assert link is not None
            netlink.request(links.change("up0", link.index, ifalias="up0"))
            netlink.request(links.move("up0", link.index, node.boxes["c1"].fd, "eth0"))
        node.delete({**CONF, "device": device})
        assert ("up0" in node.links()) is given


def test_records_hold_all_of_it(node: World) -> None:
    node.add(CONF)
    (record,) = node.records()
    step = next(json.loads(line) for line in record.read_text().splitlines() if "host-device" in line[:40])
    assert step["args"]["name"] == "up0" and step["args"]["identity"] > 0
