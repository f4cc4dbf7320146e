"""tap: who may open it, how often, and what it is in."""

from typing import Any

import pytest

from cni_plugins.conftest import World

CONF: dict[str, Any] = {"cniVersion": "1.1.0", "name": "n", "type": "tap"}
IPAM = {"type": "static", "addresses": [{"address": "10.9.0.5/24"}, {"address": "fd00:9::5/64"}]}


def shown(world: World) -> Any:
    (link,) = world.json("ip", "-j", "-d", "addr", "show", "eth0", box="c1")
    return link


@pytest.mark.parametrize("queues", [True, False])
@pytest.mark.parametrize("ids", [{}, {"owner": 54321}, {"group": 54322}, {"owner": 54321, "group": 54322}])
def test_owner_group_and_queues(world: World, ids: dict[str, int], queues: bool) -> None:
    """An MTU and a MAC address hold in every combination."""
    conf = {**CONF, **ids, "multiQueue": queues, "mtu": 1400, "mac": "02:00:00:00:00:31", "ipam": IPAM}
    result = world.add(conf)
    link = shown(world)
    data = link["linkinfo"]["info_data"]
    assert (link["mtu"], link["address"], data["type"]) == (1400, "02:00:00:00:00:31", "tap")
    assert data["persist"] and data["multi_queue"] is queues
    assert {key: int(data[{"owner": "user"}.get(key, key)]) for key in ids} == ids
    assert {"10.9.0.5", "fd00:9::5"} <= {item["local"] for item in link["addr_info"]}
    assert result["interfaces"] == [
        {"name": "eth0", "mac": "02:00:00:00:00:31", "sandbox": world.boxes["c1"].path}
    ]
    assert world.call("CHECK", {**conf, "prevResult": result}).status == 0
    world.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99", box="c1")
    world.delete(CONF)
    assert world.links("c1") == ["lo"]


def test_a_port_of_a_bridge_of_the_container(world: World) -> None:
    world.box("c1")
    error = world.refused({**CONF, "bridge": "br7"})
    assert error["code"] == 7 and "bridge is 'br7'" in error["msg"]
    assert world.links("c1") == ["lo"]
    world.run("ip", "link", "add", "br7", "type", "bridge", box="c1")
    result = world.add({**CONF, "bridge": "br7"})
    assert shown(world)["master"] == "br7" and "UP" in shown(world)["flags"]
    world.run("ip", "link", "set", "eth0", "nomaster", box="c1")
    answer = world.call("CHECK", {**CONF, "bridge": "br7", "prevResult": result})
    assert "eth0 is no port of bridge br7" in answer.document["msg"]
    world.delete(CONF)


def test_a_selinux_context_needs_selinux(world: World) -> None:
    conf = {**CONF, "selinuxContext": "system_u:object_r:container_file_t:s0"}
    error = world.refused(conf)
    assert error["code"] == 7
    assert "selinuxContext is 'system_u:" in error["msg"] and "has no SELinux" in error["msg"]
    place = world.root / "sys/fs/selinux"
    place.mkdir(parents=True)
    (place / "enforce").write_text("1")
    error = world.refused(conf)  # this kernel has none, whatever that file says
    assert error["code"] == 7 and "SELinux does not take it" in error["msg"]
    assert world.links("c1") == ["lo"] and not world.records()


def test_what_took_its_name_is_left_alone(world: World) -> None:
    world.add(CONF)
    world.run("ip", "link", "set", "eth0", "down", box="c1")
    world.run("ip", "link", "set", "eth0", "name", "mine", box="c1")
    world.run("ip", "link", "add", "eth0", "type", "bridge", box="c1")
    world.delete(CONF)
    assert world.links("c1") == ["eth0", "lo"]


def test_it_ends_with_its_namespace(world: World) -> None:
    world.add(CONF)
    world.forget("c1")
    world.delete(CONF)
    assert not world.records()
