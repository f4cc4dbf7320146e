"""Keys of the dhcp plugin that are refused by their name."""

import pytest

from cni_plugins.conftest import World


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
