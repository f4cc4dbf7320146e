"""Rules that iptables made, when iptables is not there any more."""

from typing import Any

import pytest

from cni_plugins.conftest import World
from cni_plugins.kernel import iptables
from cni_plugins.kernel.iptables import Tool
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import parse_cidr

WHO = Identity("net1", "cid1", "eth0")
FIRST, SECOND = parse_cidr("10.1.0.2/24"), parse_cidr("10.2.0.2/24")
SIX = parse_cidr("fd00::2/64")


def rules(world: World, family: str = "") -> list[str]:
    return world.run(f"ip{family}tables-save", "-t", "nat").splitlines()


@pytest.fixture
def before(world: World) -> list[str]:
    """What somebody else has in the same tables."""
    world.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.1.0.3/32", "-j", "MASQUERADE")
    world.run("iptables", "-t", "nat", "-N", "CNI-HOSTPORT-DNAT")
    return [line for line in rules(world) if line[0] in "-:"]


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iptables, "find", lambda name: None)


def test_masquerading_goes_without_iptables(
    world: World, before: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool(world.host, 4, after(30))
    iptables.add_masquerade(tool, WHO, [FIRST, SECOND])
    uninstall(monkeypatch)
    assert iptables.remove_masquerade(tool, WHO, [FIRST]) == ""
    left = rules(world)
    assert not any("10.1.0.2/32" in line for line in left)
    assert any("10.2.0.2/32" in line for line in left)
    for _ in range(2):
        assert iptables.remove_masquerade(tool, WHO) == ""
        assert [line for line in rules(world) if line[0] in "-:"] == before


def test_ports_and_a_port_mapper_s_rules_go_without_iptables(
    world: World, before: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool(world.host, 4, after(30))
    wanted = iptables.Publication(FIRST, (("tcp", "", 8080, 80),), False, False, 13, "", ())
    iptables.add_ports(tool, WHO, wanted)
    world.run("iptables", "-t", "nat", "-N", "MESOS")
    for container in ("cid1", "cid11"):
        comment = ("-m", "comment", "--comment", f"container_id: {container}")
        world.run("iptables", "-t", "nat", "-A", "MESOS", "-p", "tcp", *comment, "-j", "RETURN")
    uninstall(monkeypatch)
    for _ in range(2):
        assert iptables.remove_ports(tool, WHO) == ""
        assert iptables.remove_commented(tool, "MESOS", "container_id: cid1") == ""
    left = rules(world)
    assert not any(iptables.chain_name("DN-", WHO) in line for line in left)
    assert [line for line in left if line.startswith("-A MESOS")] == [
        '-A MESOS -p tcp -m comment --comment "container_id: cid11" -j RETURN'
    ]


def test_a_container_is_detached_after_iptables_was_uninstalled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = [[{"subnet": "10.50.0.0/24"}], [{"subnet": "fd00:50::/64"}]]
    config: dict[str, Any] = {"cniVersion": "1.0.0", "name": "n", "type": "portmap", "backend": "iptables"}
    config["delegate"] = {
        "type": "bridge",
        "bridge": "app0",
        "isGateway": True,
        "ipMasq": True,
        "ipMasqBackend": "iptables",
        "ipam": {"type": "host-local", "ranges": ranges},
    }
    config["runtimeConfig"] = {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"}]}
    world.add(config)
    names = [iptables.chain_name(prefix, Identity("n", "c1", "eth0")) for prefix in ("", "DN-")]
    assert all(any(name in line for line in rules(world, family)) for name in names for family in ("", "6"))
    uninstall(monkeypatch)
    world.delete(config)
    assert world.records() == []
    assert not any(name in line for name in names for family in ("", "6") for line in rules(world, family))


def test_rules_of_the_old_tables_are_spoken_of(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    uninstall(monkeypatch)
    monkeypatch.setattr(iptables, "_legacy_in_use", lambda host, version, table: True)
    left = iptables.remove_masquerade(Tool(world.host, 6, after(30)), WHO, [SIX])
    assert left.startswith("ip6tables is not installed any more: rules of chain CNI-e8f6f419")


def test_an_iptables_that_fails_is_an_error_only_where_it_matters(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iptables, "find", lambda name: "/bin/false")
    tool = Tool(world.host, 4, after(30))
    assert iptables.remove_ports(tool, WHO) == ""
    monkeypatch.setattr(iptables, "_legacy_in_use", lambda host, version, table: True)
    with pytest.raises(CniError, match="iptables-save failed with status 1"):
        iptables.remove_ports(tool, WHO)
    with pytest.raises(CniError, match="after 0 s"):
        iptables.remove_ports(Tool(world.host, 4, after(0)), WHO)
