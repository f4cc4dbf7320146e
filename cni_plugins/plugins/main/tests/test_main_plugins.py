"""What the main plugins have in common: names, MAC addresses, dns, routes, duplicate addresses."""

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


@pytest.fixture
def master(world: World) -> World:
    """A world whose host has a link `dum0` that is up."""
    world.run("ip", "link", "add", "dum0", "type", "veth", "peer", "name", "dum1")
    world.run("ip", "link", "set", "dum0", "up")
    world.run("ip", "link", "set", "dum1", "up")
    return world


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
def test_a_mac_address_made_of_the_ip_address(master: World, kind: str) -> None:
    conf = {**BRIDGE, "type": kind, "master": "dum0", "macFromIP": True}
    assert mac(master.add(conf)) == "0a:58:0a:09:00:05"
    (link,) = master.json("ip", "-j", "link", "show", "eth0", box="c1")
    assert link["address"] == "0a:58:0a:09:00:05"
    asked = conf | {"runtimeConfig": {"mac": "02:00:00:00:00:01"}}
    assert mac(master.add(asked, "c2")) == "02:00:00:00:00:01"
    six = conf | {"ipam": {"type": "static", "addresses": [{"address": "fd00:9::1:2/64"}]}}
    assert mac(master.add(six, "c3")) == "0a:58:00:01:00:02"


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


@pytest.mark.parametrize("kind", ["bridge", "ptp", "macvlan"])
def test_check_agrees_with_its_own_add(master: World, kind: str) -> None:
    """With routes in other tables, metrics, and MAC addresses in capitals."""
    routes = [
        {"dst": "10.20.0.0/16", "gw": "10.9.0.1", "mtu": 1400, "advmss": 1200, "priority": 50},
        {"dst": "10.30.0.0/16", "gw": "10.9.0.1", "table": 1000},
        {"dst": "fd00:30::/32", "gw": "fd00:9::1", "table": 1000, "priority": 7},
        {"dst": "0.0.0.0/0", "gw": "10.9.0.1"},
    ]
    dns = {"nameservers": ["10.9.0.53"], "search": ["example"]}
    conf = {
        **BRIDGE,
        "cniVersion": "1.1.0",
        "type": kind,
        "master": "dum0",
        "ipam": STATIC | {"routes": routes, "dns": dns},
        "runtimeConfig": {"mac": "0A:58:0A:09:00:FF"},
    }
    result = master.add(conf)
    assert result["dns"] == dns, "what IPAM found reaches the result"
    assert result["routes"] == routes
    for interface in result["interfaces"]:
        interface["mac"] = interface["mac"].upper()
    answer = master.call("CHECK", conf | {"prevResult": result})
    assert answer.status == 0, answer.document
    master.run("ip", "-6", "route", "del", "fd00:30::/32", "table", "1000", box="c1")
    assert "fd00:30::/32" in master.call("CHECK", conf | {"prevResult": result}).document["msg"]
    own = conf | {"dns": {"nameservers": ["10.9.0.54"]}}
    master.delete(conf)
    assert master.add(own)["dns"] == {"nameservers": ["10.9.0.54"]}
