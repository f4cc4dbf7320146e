"""An error's `msg` is what the reference plugins say, word for word, where people and programs look for their
words; `details` has the key, the value and the way out.
"""

from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.plugins.tests.test_refusals import BRIDGE, IPAM, LOCAL, STATIC

TUNING: dict[str, Any] = {"cniVersion": "1.1.0", "name": "net", "type": "tuning", "delegate": BRIDGE}
PORTMAP = TUNING | {"type": "portmap", "capabilities": {"portMappings": True}}
ONE: dict[str, Any] = {"type": "host-local", "subnet": "10.9.0.0/24", "rangeStart": "10.9.0.9"}


def _portmap(**keys: Any) -> dict[str, Any]:
    return PORTMAP | {"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}} | keys


def _meta(kind: str, **keys: Any) -> dict[str, Any]:
    return TUNING | {"type": kind} | keys


#: A configuration, variables of its call, and what the reference says.
WORDS: list[tuple[dict[str, Any], dict[str, str], str]] = [
    (BRIDGE, {"CNI_COMMAND": "FOO"}, "unknown CNI_COMMAND: FOO"),
    (BRIDGE, {"CNI_CONTAINERID": "a/b"}, "invalid characters in containerID"),
    (BRIDGE, {"CNI_IFNAME": "a/b"}, "interface name contains / or : or whitespace characters"),
    (BRIDGE, {"CNI_IFNAME": "i" * 16}, "interface name is too long"),
    (BRIDGE, {"CNI_IFNAME": ".."}, "interface name is . or .."),
    (BRIDGE, {"CNI_NETNS": "/proc/1/ns/x"}, 'failed to open netns "/proc/1/ns/x": no such file or directory'),
    (BRIDGE, {"CNI_ARGS": "A"}, 'ARGS: invalid pair "A"'),
    (BRIDGE, {"CNI_ARGS": "A=b"}, 'ARGS: unknown args ["A=b"]'),
    (BRIDGE | {"cniVersion": "9.9.9"}, {}, "incompatible CNI versions"),
    (BRIDGE | {"name": ""}, {}, "missing network name"),
    (BRIDGE | {"name": "a/b"}, {}, "invalid characters found in network name"),
    (BRIDGE | {"cniVersion": "0.3.1"}, {"CNI_COMMAND": "CHECK"}, "config version does not allow CHECK"),
    (BRIDGE | {"cniVersion": "1.0.0"}, {"CNI_COMMAND": "GC"}, "config version does not allow GC"),
    (BRIDGE, {"CNI_COMMAND": "CHECK"}, "Required prevResult missing"),
    (
        BRIDGE | {"hairpinMode": True, "promiscMode": True},
        {},
        "cannot set hairpin mode and promiscuous mode at the same time",
    ),
    (
        BRIDGE | {"vlanTrunk": [{"minID": 4}]},
        {},
        "minID and maxID should be configured simultaneously, maxID is missing",
    ),
    (
        BRIDGE | {"vlanTrunk": [{"minID": 4, "maxID": 3}]},
        {},
        "minID is greater than maxID in trunk parameter",
    ),
    (BRIDGE | {"bridge": "lo"}, {}, '"lo" already exists but is not a bridge'),
    (
        BRIDGE | {"ipam": {"type": "far-away"}},
        {"CNI_PATH": "/a:/b"},
        'failed to find plugin "far-away" in path [/a /b]',
    ),
    (BRIDGE | {"type": "macvlan", "ipam": LOCAL}, {}, "no default route interface found"),
    (
        BRIDGE | {"type": "macvlan", "master": "eth7", "ipam": LOCAL},
        {},
        'failed to lookup master "eth7": Link not found',
    ),
    (
        BRIDGE | {"type": "vlan", "vlanId": 5},
        {},
        '"master" field is required. It specifies the host interface name to create the VLAN for',
    ),
    (
        BRIDGE | {"type": "host-device"},
        {},
        'specify either "device", "hwaddr", "kernelpath" or "pciBusID"',
    ),
    (IPAM | {"ipam": None}, {}, "IPAM config missing 'ipam' key"),
    (IPAM | {"ipam": {"type": "host-local"}}, {}, "no IP ranges specified"),
    (
        IPAM | {"ipam": ONE | {"rangeEnd": "10.9.0.8", "rangeStart": "10.9.0.8", "gateway": "10.9.0.8"}},
        {},
        "failed to allocate for range 0: no IP addresses available in range set: 10.9.0.8-10.9.0.8",
    ),
    (
        IPAM,
        {"CNI_ARGS": "IP=10.9.0.1"},
        "failed to allocate for range 0: requested ip 10.9.0.1 is subnet's gateway",
    ),
    (IPAM, {"CNI_ARGS": "IP=10.7.0.1"}, "failed to allocate all requested IPs: 10.7.0.1"),
    (
        STATIC | {"ipam": {"type": "static", "addresses": [{"address": "10.9.0.5"}]}},
        {},
        "the 'address' field is expected to be in CIDR notation, got: '10.9.0.5'",
    ),
    (
        STATIC | {"ipam": {"type": "static"}},
        {"CNI_ARGS": "IP=10.9.0.5"},
        "the 'ip' field is expected to be in CIDR notation, got: '10.9.0.5'",
    ),
    (
        STATIC | {"ipam": {"type": "static"}, "runtimeConfig": {"ips": ["10.9.0.5"]}},
        {},
        "an entry in the 'ips' field is NOT in CIDR notation, got: '10.9.0.5'",
    ),
    (
        STATIC
        | {"cniVersion": "0.2.0", "ipam": {"type": "static"}}
        | {"args": {"cni": {"ips": ["10.9.0.5/24", "10.9.0.6/24"]}}},
        {},
        "CNI version 0.2.0 does not support more than 1 address per family",
    ),
    (
        _portmap() | {"runtimeConfig": {"portMappings": [{"hostPort": 0, "containerPort": 80}]}},
        {},
        "Invalid host port number: 0",
    ),
    (
        _portmap(backend="iptables", conditionsV4=["ip", "saddr"], conditionsV6=["ip6", "saddr"]),
        {},
        "iptables backend was requested but configuration contains nftables-specific options "
        "[conditionsV4 conditionsV6]",
    ),
    (
        _portmap(backend="nftables", externalSetMarkChain="MARK", conditionsV4=["-s", "a"]),
        {},
        "nftables backend was requested but configuration contains iptables-specific options "
        "[externalSetMarkChain conditionsV4]",
    ),
    (
        _portmap(markMasqBit=3, externalSetMarkChain="MARK"),
        {},
        "Cannot specify externalSetMarkChain and markMasqBit",
    ),
    (_meta("bandwidth", ingressBurst=1000), {}, "if burst is set, rate must also be set"),
    (_meta("bandwidth", egressRate=1000), {}, "if rate is set, burst must also be set"),
    (
        _meta("sbr", gateways=["10.9.0.1", "10.9.0.2"]),
        {},
        "gateways list contains multiple IPv4 addresses: 10.9.0.1 and 10.9.0.2",
    ),
    (_meta("sbr", delegate=None), {}, "This plugin must be called as chained plugin"),
    (_meta("vrf"), {}, "configuration is expected to have a valid vrf name"),
]


@pytest.mark.parametrize(("config", "env", "words"), WORDS, ids=[words[:60] for _, _, words in WORDS])
def test_the_message_is_the_references(
    world: World, config: dict[str, Any], env: dict[str, str], words: str
) -> None:
    world.box("c1")
    answer = world.call(env.get("CNI_COMMAND", "ADD"), config, "c1", **env)
    assert answer.status == 1 and answer.document["msg"] == words, answer.document
    assert answer.document["details"]


def test_a_lease_that_nobody_renews(world: World) -> None:
    refused = world.refused(BRIDGE | {"ipam": {"type": "dhcp"}})
    socket = f"{world.root}/run/mesokit/dhcp.sock"
    words = f"error dialing DHCP daemon: dial unix {socket}: connect: no such file or directory"
    assert refused["msg"] == words, refused


def test_a_sysctl_that_stands_twice(world: World) -> None:
    world.box("c1")
    twice = b'{"net.core.somaxconn": "1", "net.core.somaxconn": "2"}'
    config = b'{"cniVersion": "1.1.0", "name": "net", "type": "tuning", "sysctl": ' + twice + b"}"
    assert world.call("ADD", config).document["msg"] == "duplicated sysctl keys are not allowed"


def test_an_address_that_somebody_has(world: World) -> None:
    world.add(IPAM)
    again = world.refused(IPAM)
    assert again["msg"] == (
        "failed to allocate for range 0: 10.9.0.2 has been allocated to c1, duplicate allocation is not "
        "allowed"
    )
    taken = world.refused(IPAM, "c2", CNI_ARGS="IP=10.9.0.2")
    assert taken["msg"] == (
        "failed to allocate for range 0: requested IP address 10.9.0.2 is not available in range set "
        "10.9.0.1-10.9.0.254"
    )


def test_a_bridge_with_another_gateway(world: World) -> None:
    world.add(BRIDGE | {"isGateway": True, "ipam": LOCAL})
    moved = world.refused(BRIDGE | {"isGateway": True, "ipam": LOCAL | {"gateway": "10.9.0.9"}}, "c2")
    words = '"br0" already has an IP address different from 10.9.0.9/24'
    assert moved["msg"] == f"failed to set bridge addr: {words}"
