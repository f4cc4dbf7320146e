"""What is asked of iptables-restore, given what iptables-save says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from pytest_mock import MockerFixture

from cni_plugins.kernel import iptables
from cni_plugins.kernel.iptables import Publication, Tool
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import parse_cidr

WHO = Identity("net1", "cid1", "eth0")
CHAIN = "CNI-e8f6f419596f7f47b3468487"
DNAT = "CNI-DN-e8f6f419596f7f47b3468"
COMMENT = r'-m comment --comment "name: \"net1\" id: \"cid1\""'


@dataclass
class Table:
    saved: list[str] = field(default_factory=list)
    restored: list[list[str]] = field(default_factory=list)


@pytest.fixture
def table(mocker: MockerFixture) -> Iterator[Table]:
    made = Table()

    def restore(tool: Tool, lines: Sequence[str]) -> None:
        made.restored.append(list(lines))

    mocker.patch.object(Tool, "save", lambda tool: made.saved)
    mocker.patch.object(Tool, "restore", restore)
    yield made


def tool(version: int = 4) -> Tool:
    return Tool(Namespace(-1, "", 0, 0), version, after(5))


def test_chain_names_are_the_references() -> None:
    assert iptables.chain_name("", WHO) == CHAIN
    assert iptables.chain_name("DN-", WHO) == DNAT


def test_masquerade_rules_are_the_references(table: Table) -> None:
    iptables.add_masquerade(tool(), WHO, [parse_cidr("10.1.0.2/24")])
    assert table.restored == [
        [
            f":{CHAIN} - [0:0]",
            f"-A {CHAIN} -d 10.1.0.0/24 {COMMENT} -j ACCEPT",
            f"-A {CHAIN} ! -d 224.0.0.0/4 {COMMENT} -j MASQUERADE",
            f"-A POSTROUTING -s 10.1.0.2/32 {COMMENT} -j {CHAIN}",
        ]
    ]


def test_a_jump_that_is_there_is_not_added_again(table: Table) -> None:
    table.saved = [f"-A POSTROUTING -s fd00::2/128 {COMMENT} -j {CHAIN}"]
    iptables.add_masquerade(tool(6), WHO, [parse_cidr("fd00::2/64")])
    assert not [line for line in table.restored[0] if "POSTROUTING" in line]


def test_a_second_interface_keeps_the_rules_of_the_first(table: Table) -> None:
    accept = f"-A {CHAIN} -d 10.2.0.0/24 {COMMENT} -j ACCEPT"
    table.saved = [f":{CHAIN} - [0:0]", accept, f"-A {CHAIN} ! -d 224.0.0.0/4 {COMMENT} -j MASQUERADE"]
    iptables.add_masquerade(tool(), WHO, [parse_cidr("10.1.0.2/24"), parse_cidr("10.2.0.2/24")])
    assert [line for line in table.restored[0] if "ACCEPT" in line] == [
        accept,
        f"-A {CHAIN} -d 10.1.0.0/24 {COMMENT} -j ACCEPT",
    ]


def test_one_attachments_rules_go_and_the_others_stay(table: Table) -> None:
    jumps = [f"-A POSTROUTING -s 10.1.0.{n}/32 {COMMENT} -j {CHAIN}" for n in (2, 3)]
    table.saved = [f":{CHAIN} - [0:0]", *jumps, f"-A POSTROUTING -j {CHAIN}9"]
    iptables.remove_masquerade(tool(), WHO, [parse_cidr("10.1.0.2/24")])
    assert table.restored == [["-D" + jumps[0][2:]]]
    iptables.remove_masquerade(tool(), WHO)
    assert table.restored[1] == [
        f":{CHAIN} - [0:0]",
        "-D" + jumps[0][2:],
        "-D" + jumps[1][2:],
        f"-X {CHAIN}",
    ]


def test_nothing_there_is_nothing_to_do(table: Table) -> None:
    iptables.remove_masquerade(tool(), WHO)
    iptables.remove_ports(tool(), WHO)
    iptables.remove_commented(tool(), "MESOS", "container_id: cid1")
    assert table.restored == []


def test_ports_beyond_multiport_take_another_jump(table: Table) -> None:
    forwards = tuple(("tcp", "", 1000 + n, 80) for n in range(16))
    wanted = Publication(parse_cidr("10.1.0.2/24"), forwards, True, False, 13, "", ("!", "-d", "192.0.2.9"))
    iptables.add_ports(tool(), WHO, wanted)
    (lines,) = table.restored
    jumps = [line for line in lines if line.startswith("-A CNI-HOSTPORT-DNAT")]
    assert [line.partition("--dports ")[2] for line in jumps] == [
        ",".join(str(1000 + n) for n in range(15)) + f" ! -d 192.0.2.9 -j {DNAT}",
        f"1015 ! -d 192.0.2.9 -j {DNAT}",
    ]
    assert "-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE" in lines
    assert f"-A {DNAT} -p tcp -m tcp --dport 1000 -j DNAT --to-destination 10.1.0.2:80" in lines


def test_only_that_containers_rules_of_the_port_mapper_go(table: Table) -> None:
    rule = "-A MESOS -p tcp -m tcp --dport 80 -m comment --comment {} -j DNAT --to-destination 10.1.0.2:80"
    table.saved = [rule.format(f'"container_id: {cid}"') for cid in ("cid1", "cid1.child", "xcid1", "cid11")]
    iptables.remove_commented(tool(), "MESOS", "container_id: cid1")
    assert table.restored == [["-D" + table.saved[0][2:]]]


def test_a_missing_program_is_named(mocker: MockerFixture) -> None:
    mocker.patch.object(iptables, "find", lambda name: None)
    with pytest.raises(CniError, match="needs ip6tables-save, which is not installed"):
        tool(6).save()
