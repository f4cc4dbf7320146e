"""What bridge and ptp have in common: the names and MAC addresses of their pairs, and duplicate addresses."""

from typing import Any

import pytest

from cni_plugins.conftest import World

STATIC = {"type": "static", "addresses": [{"address": "10.9.0.5/24"}, {"address": "fd00:9::5/64"}]}
BRIDGE: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "n",
    "type": "bridge",
    "bridge": "br0",
    "ipam": STATIC,
}
PTP = {**BRIDGE, "type": "ptp"}
MESOS = {
    "networkInfoLabels": {"prefix": "net/", "allow": ["hostInterface", "mac"]},
    "args": {
        "org.apache.mesos": {
            "network_info": {"labels": {"labels": [{"key": "net/hostInterface", "value": "app-7"}]}}
        }
    },
}


@pytest.mark.parametrize("conf", [BRIDGE, PTP], ids=["bridge", "ptp"])
@pytest.mark.parametrize(
    "asked",
    [
        {"hostInterface": "app-7"},
        {"hostInterface": "other", "args": {"cni": {"hostInterface": "app-7"}}},
        {"args": {"cni": {"hostInterface": "x"}}, "runtimeConfig": {"hostInterface": "app-7"}},
        MESOS,
    ],
    ids=["configuration", "args", "runtime", "label"],
)
def test_the_host_s_end_has_the_name_that_was_asked_for(
    world: World, conf: dict[str, Any], asked: dict[str, Any]
) -> None:
    result = world.add(conf | asked)
    assert "app-7" in [item["name"] for item in result["interfaces"]]
    assert "app-7" in world.links()
    world.delete(conf | asked)
    assert world.links() == ["lo"]


@pytest.mark.parametrize("conf", [BRIDGE, PTP], ids=["bridge", "ptp"])
def test_a_name_that_is_taken_is_refused_and_left_alone(world: World, conf: dict[str, Any]) -> None:
    world.run("ip", "link", "add", "app-7", "type", "veth", "peer", "name", "mine")
    error = world.refused(conf | {"hostInterface": "app-7"})
    assert error["code"] == 7 and "app-7" in error["msg"]
    world.delete(conf | {"hostInterface": "app-7"})
    assert world.links() == ["app-7", "lo", "mine"]
    assert world.refused(conf | {"hostInterface": "a/b"})["code"] == 7
    assert world.refused(conf | {"runtimeConfig": {"hostInterface": 7}})["code"] == 7


def mac(result: dict[str, Any]) -> str:
    return str(next(item["mac"] for item in result["interfaces"] if item.get("sandbox")))


@pytest.mark.parametrize("kind", ["bridge", "ptp", "macvlan"])
def test_a_mac_address_made_of_the_ip_address(world: World, kind: str) -> None:
    world.run("ip", "link", "add", "dum0", "type", "veth", "peer", "name", "dum1")
    conf = {**BRIDGE, "type": kind, "master": "dum0", "macFromIP": True}
    assert mac(world.add(conf)) == "0a:58:0a:09:00:05"
    (link,) = world.json("ip", "-j", "link", "show", "eth0", box="c1")
    assert link["address"] == "0a:58:0a:09:00:05"
    asked = conf | {"runtimeConfig": {"mac": "02:00:00:00:00:01"}}
    assert mac(world.add(asked, "c2")) == "02:00:00:00:00:01"
    six = conf | {"ipam": {"type": "static", "addresses": [{"address": "fd00:9::1:2/64"}]}}
    assert mac(world.add(six, "c3")) == "0a:58:00:01:00:02"


def test_duplicate_ipv6_addresses_are_found_when_asked_for(world: World) -> None:
    """Without `enabledad` the second container has the address at once; with it, it is refused."""
    conf = BRIDGE | {"enabledad": True}
    world.add(conf, "c1")
    addresses = world.json("ip", "-j", "-6", "addr", "show", "eth0", box="c1")[0]["addr_info"]
    assert not any(item.get("tentative") for item in addresses)
    error = world.refused(conf, "c2")
    assert error["code"] == 7 and "fd00:9::5" in error["msg"]
    assert "eth0" not in world.links("c2")
    world.add(BRIDGE, "c2")
