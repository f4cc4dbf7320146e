"""host-device with a physical device, which the kernel itself takes back from a namespace that dies."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.spec.namespace import from_descriptor

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def machine_world(tmp_path: Path) -> Iterator[World]:
    """The machine's own namespace for a host, because that is where the kernel takes devices back to, and its
    sysfs.
    """
    (tmp_path / "sys").symlink_to("/sys")
    fd = os.open("/proc/1/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    world = World(tmp_path, from_descriptor(fd, "/proc/1/ns/net"))
    world.box("c1")
    try:
        yield world
    finally:
        for namespace in (world.host, *world.boxes.values()):
            os.close(namespace.fd)


def shown(world: World, name: str) -> Any:
    (link,) = world.json("ip", "-j", "addr", "show", name)
    held = sorted(item["local"] for item in link["addr_info"] if item["scope"] != "link")
    return link["mtu"], link["address"], link.get("ifalias"), "UP" in link["flags"], held


@pytest.mark.parametrize("taken", [False, True], ids=["its name is free", "its name is taken meanwhile"])
def test_a_physical_device_comes_back_from_a_namespace_that_died(machine_world: World, taken: bool) -> None:
    world = machine_world
    subprocess.run(["modprobe", "virtio_net"], check=True)
    (hardware,) = Path("/sys/bus/pci/devices").glob("*/virtio*/net/*")
    name, address = hardware.name, hardware.parents[2].name
    world.run("ip", "link", "set", name, "mtu", "1400", "alias", "uplink")
    world.run("ip", "addr", "replace", "192.0.2.7/24", "dev", name)
    world.run("ip", "-6", "addr", "replace", "fd00:7::7/64", "dev", name, "nodad")
    world.run("ip", "link", "set", name, "up")
    before = shown(world, name)
    conf: dict[str, Any] = {"cniVersion": "1.1.0", "name": "n", "type": "host-device", "pciBusID": address}
    conf["ipam"] = {"type": "static", "addresses": [{"address": "10.9.0.5/24"}]}
    result = world.add(conf)
    assert name not in world.links() and "eth0" in world.links("c1")
    assert world.call("CHECK", {**conf, "prevResult": result}).status == 0
    world.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:77", box="c1")
    if taken:
        world.run("ip", "link", "add", name, "type", "dummy")
        if name != "eth0":
            world.run("ip", "link", "add", "eth0", "type", "dummy")
    world.forget("c1")
    if taken:
        answer = world.call("DEL", conf)
        assert answer.code == 11 and f"another link {name}" in answer.document["msg"] + str(answer.document)
        for other in {name, "eth0"}:
            world.run("ip", "link", "del", other)
    world.delete({"name": "n", "type": "host-device"})
    assert shown(world, name) == before
    assert not world.records()
