"""Keys that ask for a delegated prefix: refused by the dhcp plugin by their name, judged by host-local."""

from typing import Any

import pytest

from cni_plugins.conftest import World, told


@pytest.mark.parametrize("key", ["prefixDelegation", "iaPd", "IA_PD", "pd", "prefix", "dhcpv6-pd"])
def test_a_prefix_is_not_delegated(world: World, key: str) -> None:
    world.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    ipam = {"type": "dhcp", "families": ["ipv6"], key: True}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "macvlan", "master": "up0", "ipam": ipam}
    refused = world.refused(conf)
    assert refused["code"] == 2
    assert refused["msg"] == f"ipam.{key} is True, and dhcp asks no server for a prefix (IA_PD)"
    assert "host-local" in refused["details"]
    assert world.links("c1") == ["lo"] and world.records() == []


@pytest.mark.parametrize(
    ("delegation", "said"),
    [
        ({}, "ipam.prefixDelegation.uplink is missing"),
        ({"uplnk": "eth0"}, "unknown key 'uplnk' of ipam.prefixDelegation"),
        ({"uplink": "eth0", "length": 129}, "ipam.prefixDelegation.length is 129"),
        ({"uplink": "eth0", "length": 0}, "ipam.prefixDelegation.length is 0"),
        ({"uplink": "eth0", "subnet": -1}, "ipam.prefixDelegation.subnet is -1"),
        ({"uplink": "eth0", "duid": "zz"}, "ipam.prefixDelegation.duid is 'zz'"),
        ("eth0", "ipam.prefixDelegation is 'eth0'"),
        ({"uplink": "eth0"}, "no lease daemon answers on"),
    ],
)
def test_keys_of_a_delegation(world: World, delegation: Any, said: str) -> None:
    ipam = {"type": "host-local", "prefixDelegation": delegation}
    conf = {"cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0", "ipam": ipam}
    refused = world.refused(conf)
    assert said in told(refused)
    assert world.links("c1") == ["lo"] and world.records() == []
