"""Wishes that cannot be met are refused with the whole path of the key; what may be on purpose is remarked
on; what Go's marshalling writes for "nothing" is taken as nothing.
"""

import json
from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.main import handle
from cni_plugins.spec.call import Request

LOCAL: dict[str, Any] = {"type": "host-local", "subnet": "10.9.0.0/24"}
SIX: dict[str, Any] = {"type": "host-local", "ranges": [[{"subnet": "fd00:9::/64"}]]}
BRIDGE: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0"}
IPAM: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "type": "host-local", "ipam": LOCAL}
STATIC: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "type": "static"}


def task(**info: Any) -> dict[str, Any]:
    return {"args": {"org.apache.mesos": {"network_info": {"name": "net"} | info}}}


def remarks(world: World, config: dict[str, Any], box: str = "c1") -> str:
    """What an ADD that succeeds says on its standard error."""
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": box,
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": world.box(box).path,
        "MESOKIT_ROOT": str(world.root),
    }
    reply = handle(Request(str(config["type"]), env, json.dumps(config).encode(), host_netns=world.host.fd))
    assert reply.status == 0, reply.stdout
    return reply.stderr.decode()


@pytest.mark.parametrize(
    "config",
    [
        BRIDGE | {"bridge": "", "hostInterface": "", "ipam": {}, "dns": {}, "runtimeConfig": {"mac": ""}},
        BRIDGE | {"ipam": {"type": ""}, "ipMasqBackend": "", "vlanTrunk": None, "args": None},
        BRIDGE | {"ipam": LOCAL | {"rangeStart": "", "rangeEnd": "", "gateway": "", "dataDir": ""}},
        BRIDGE
        | {
            "ipam": {
                "type": "host-local",
                "routes": None,
                "ranges": [[{"subnet": "10.9.0.0/24", "gateway": ""}]],
            }
        },
        {**BRIDGE, "type": "macvlan", "master": "dum0", "mode": "", "mac": "", "ipam": LOCAL},
        {**BRIDGE, "type": "macvlan", "master": "", "linkInContainer": False},
        STATIC | {"ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24", "gateway": ""}]}},
        {**BRIDGE, "type": "tuning", "mac": "", "sysctl": {}, "delegate": BRIDGE},
        {
            **BRIDGE,
            "type": "portmap",
            "backend": "",
            "runtimeConfig": {"portMappings": None},
            "delegate": BRIDGE,
        },
    ],
)
def test_what_go_writes_for_nothing_is_nothing(world: World, config: dict[str, Any]) -> None:
    world.run("ip", "link", "add", "dum0", "type", "veth", "peer", "name", "dum1")
    world.run("ip", "link", "set", "dum0", "up")
    world.run("ip", "route", "add", "default", "dev", "dum0")
    world.add(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BRIDGE | {"mtu": 10}, ["mtu is 10", "68"]),
        (BRIDGE | {"mtu": 1000, "ipam": SIX}, ["mtu is 1000", "1280"]),
        ({**BRIDGE, "type": "ptp", "mtu": 1000, "ipam": SIX}, ["mtu is 1000", "1280"]),
        ({**BRIDGE, "type": "tuning", "mtu": 1000, "delegate": BRIDGE | {"ipam": SIX}}, ["mtu is 1000"]),
        (BRIDGE | {"vlan": 5000}, ["vlan is 5000"]),
        (BRIDGE | {"vlanTrunk": [{"id": 5}, {"minID": -1}]}, ["vlanTrunk[1].minID is -1"]),
        (
            BRIDGE | {"ipam": {"type": "host-local", "ranges": [[{"subnet": 7}]]}},
            ["ipam.ranges[0][0].subnet is 7"],
        ),
        (
            BRIDGE | {"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.0.0.1/8"}]]}},
            ["ipam.ranges[0][0].subnet is 10.0.0.1/8"],
        ),
        (BRIDGE | {"ipam": LOCAL | {"routes": [{"dst": "x"}]}}, ["ipam.routes[0].dst is 'x'"]),
        (
            BRIDGE | {"ipam": LOCAL | {"routes": [{"dst": "0.0.0.0/0", "gw": "fd00::1"}]}},
            ["ipam.routes[0].gw is fd00::1", "family"],
        ),
        (
            BRIDGE | {"ipam": {"type": "static", "addresses": [{}, {"gateway": 1}]}},
            ["ipam.addresses[1].gateway is 1"],
        ),
        ({**BRIDGE, "type": "tuning", "sysctl": {"a": 1}, "delegate": BRIDGE}, ["sysctl['a'] is 1"]),
        ({**BRIDGE, "type": "tuning", "delegate": BRIDGE | {"mtu": 10}}, ["mtu is 10"]),
        (BRIDGE | task(ip_addresses=[{"protocol": ["IPv4"]}]), ["network_info.ip_addresses[0].protocol"]),
        (
            BRIDGE | task(port_mappings=[{"host_port": "x"}]),
            ["network_info.port_mappings[0].host_port is 'x'"],
        ),
        (BRIDGE | {"ipam": {"subnet": "10.9.0.0/24"}}, ["ipam.type", "host-local"]),
        (BRIDGE | {"plugins": [{"type": "portmap"}]}, ["'plugins'", "chain"]),
        (BRIDGE | {"ipam": LOCAL | {"gateway": "10.9.0.0"}}, ["ipam.gateway is 10.9.0.0", "network's own"]),
        (BRIDGE | {"ipam": LOCAL | {"gateway": "10.9.0.255"}}, ["ipam.gateway is 10.9.0.255", "broadcast"]),
        (BRIDGE | {"ipam": LOCAL | {"dataDir": "data"}}, ["ipam.dataDir is 'data'", "absolute"]),
        (BRIDGE | {"ipam": LOCAL | {"resolvConf": "resolv.conf"}}, ["ipam.resolvConf is", "absolute"]),
        ({**BRIDGE, "type": "tuning", "dataDir": "x", "delegate": BRIDGE}, ["dataDir is 'x'", "absolute"]),
        (
            BRIDGE | {"ipam": LOCAL} | task(port_mappings=[{"host_port": 80, "container_port": 80}]),
            ["80", "portmap"],
        ),
        (STATIC | {"args": {"cni": {"ips": ["10.9.0.5/24"]}}}, ["'ipam' is missing", "static"]),
        ({k: v for k, v in IPAM.items() if k != "ipam"}, ["'ipam' is missing", "host-local"]),
    ],
)
def test_refused_with_the_path_of_the_key(world: World, config: dict[str, Any], words: list[str]) -> None:
    error = world.refused(config)
    assert error["code"] == 7
    for word in words:
        assert word in f"{error['msg']} {error.get('details', '')}"
    assert (world.links(), world.records(), world.reserved("net")) == (["lo"], [], [])


def test_a_number_beyond_all_numbers_is_no_internal_error(world: World) -> None:
    world.box("c1")
    answer = world.call("ADD", b'{"cniVersion":"1.1.0","name":"net","type":"bridge","mtu":1e999}')
    assert (answer.code, "1e999" in answer.document["details"]) == (6, True)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"ipMasquerade": True}, ["'ipMasquerade'", "'ipMasq'"]),
        ({"defaultGateway": True}, ["'defaultGateway'", "'isDefaultGateway'"]),
        ({"subnet": "10.9.0.0/24"}, ["'subnet'", "inside 'ipam'"]),
        ({"ipam": LOCAL | {"rangeBegin": "10.9.0.7"}}, ["'rangeBegin'", "'rangeStart'"]),
        ({"ipam": LOCAL | {"isGateway": True}}, ["'isGateway'", "beside 'type'"]),
        (
            {
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "10.9.0.0/24", "rangeBegin": "10.9.0.7"}]],
                }
            },
            ["'rangeBegin'"],
        ),
        ({"ipam": LOCAL | {"gateway": "10.8.0.1"}}, ["ipam.gateway is 10.8.0.1", "outside of 10.9.0.0/24"]),
        ({"ipam": {"type": "host-local", "subnet": "10.9.0.4/32"}}, ["10.9.0.4/32", "reaches nobody"]),
    ],
)
def test_what_may_be_on_purpose_is_remarked_on_once(
    world: World, keys: dict[str, Any], words: list[str]
) -> None:
    said = remarks(world, BRIDGE | keys)
    assert said.count("\n") == 1
    for word in words:
        assert word in said


def test_keys_of_other_programs_are_not_remarked_on(world: World) -> None:
    keys = {
        "podman_labels": {"a": "b"},
        "io.containerd.x": 1,
        "Comment": "x",
        "nerdctlID": "x",
        "nerdctlLabels": {},
        "firewall": {},
        "capabilities": {"ips": True},
    }
    assert remarks(world, BRIDGE | keys | {"ipam": LOCAL | {"comment": "x", "network": "y"}}) == ""
    assert remarks(world, BRIDGE | {"ipam": LOCAL}, "c2") == ""


def test_gc_takes_null_for_the_empty_list(world: World) -> None:
    config = BRIDGE | {"ipam": LOCAL}
    world.add(config)
    assert world.call("GC", config).code == 7
    assert world.reserved("net") == ["10.9.0.2"]
    assert world.call("GC", config | {"cni.dev/valid-attachments": None}).status == 0
    assert (world.records(), world.reserved("net")) == ([], [])


@pytest.mark.parametrize(
    "config", [IPAM, STATIC | {"ipam": {"type": "static", "addresses": [{"address": "10.9.0.5/24"}]}}]
)
def test_an_ipam_plugin_needs_no_namespace(world: World, config: dict[str, Any]) -> None:
    for verb in ("ADD", "CHECK", "DEL"):
        answer = world.call(verb, config, "c9", CNI_NETNS="/var/run/netns/no-such")
        assert answer.status == 0, answer.document


@pytest.mark.parametrize(
    "config",
    [
        {**BRIDGE, "type": "loopback"},
        {**BRIDGE, "type": "ptp"},
        {**BRIDGE, "type": "portmap", "prevResult": {"cniVersion": "1.1.0"}},
        {**BRIDGE, "type": "bandwidth", "prevResult": {"cniVersion": "1.1.0"}},
    ],
)
def test_who_reads_no_cni_args_takes_any(world: World, config: dict[str, Any]) -> None:
    world.add(config, CNI_ARGS="none", **({"ifname": "lo"} if config["type"] == "loopback" else {}))
    assert world.refused(BRIDGE, "c2", CNI_ARGS="none")["code"] == 4


def test_requests_are_read_as_the_reference_reads_them(world: World) -> None:
    config = STATIC | {"ipam": {"type": "static"}}
    found = world.add(config, CNI_ARGS="IP=10.9.0.5/24, fd00::5/64;GATEWAY=10.9.0.1, fd00::1")
    assert [(item["address"], item["gateway"]) for item in found["ips"]] == [
        ("10.9.0.5/24", "10.9.0.1"),
        ("fd00::5/64", "fd00::1"),
    ]
    assert world.add(IPAM, CNI_ARGS="IP= 10.9.0.7")["ips"][0]["address"] == "10.9.0.7/24"
    for box, mac in (("c3", "C2-11-22-33-44-55"), ("c4", "c211.2233.4456")):
        found = world.add(BRIDGE, box, CNI_ARGS=f"MAC={mac}")
        assert found["interfaces"][2]["mac"].startswith("c2:11:22:33:44:5")
