"""portmap's keys and mappings: what is accepted, and the sentence for what is not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.kernel.nft.ports import Forward, Hide, Publication
from cni_plugins.plugins.meta import portmap
from cni_plugins.plugins.meta.portmap import PortmapConfig, parse_mappings
from cni_plugins.spec import config
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.values import parse_cidr, parse_ip
from cni_plugins.steps import registry
from cni_plugins.steps.ports import IptablesKeys, Ports

V4, V6 = parse_cidr("10.1.0.5/24"), parse_cidr("fd00::5/64")


def keys(**document: Any) -> IptablesKeys | None:
    return portmap._keys(config.decode(PortmapConfig, document))


def test_a_mapping_is_read_as_the_reference_reads_it() -> None:
    first, second, third = parse_mappings(
        [
            {"hostport": 8080, "ContainerPort": 80},
            {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0", "name": "dns"},
            {"hostPort": 1, "containerPort": 1, "protocol": "", "hostIP": "::ffff:10.0.0.1"},
        ]
    )
    assert (first.protocol, first.host_ip, first.family) == ("tcp", None, 0)
    assert (second.protocol, second.host_ip, second.family) == ("udp", None, 4)
    assert (third.protocol, third.host_ip, third.family) == ("tcp", parse_ip("10.0.0.1"), 4)
    assert parse_mappings(None) == []


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"containerPort": 80}, "portMappings[1].hostPort is None, which is not a port from 1 to 65535"),
        ({"hostPort": 65536, "containerPort": 80}, "portMappings[1].hostPort is 65536"),
        ({"hostPort": "80", "containerPort": 80}, "portMappings[1].hostPort is '80'"),
        ({"hostPort": True, "containerPort": 80}, "portMappings[1].hostPort is True"),
        ({"hostPort": 80, "containerPort": -1}, "portMappings[1].containerPort is -1"),
        (
            {"hostPort": 80, "containerPort": 80, "protocol": "dccp"},
            "is 'dccp', which is not one of tcp, udp, sctp",
        ),
        ({"hostPort": 80, "containerPort": 80, "hostIP": "10.0.0.1%eth0"}, "hostIP is '10.0.0.1%eth0'"),
        ({"hostPort": 80, "containerPort": 80, "hostIP": 7}, "hostIP is 7, which is not an IP address"),
        (
            {"hostPort": 80, "containerPort": 80, "hostIP": "::1"},
            "which the kernel cannot lead to a container",
        ),
        ({"hostPort": 80, "containerPort": 80, "hostIP": "224.0.0.1"}, "a multicast address"),
        ({"hostPort": 8080, "containerPort": 81}, "is 8080, which portMappings[0] maps already"),
        ("8080:80", "portMappings[1] is '8080:80', which is not an object"),
    ],
)
def test_a_bad_mapping_is_named(mapping: Any, sentence: str) -> None:
    with pytest.raises(CniError) as refused:
        parse_mappings([{"hostPort": 8080, "containerPort": 80}, mapping])
    assert sentence in str(refused.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_list_is_read_or_refused(listed: Any) -> None:
    try:
        parse_mappings(listed)
    except CniError as error:
        assert error.msg


def test_each_family_is_served_by_the_containers_address_of_it() -> None:
    mappings = parse_mappings([{"hostPort": 80, "containerPort": 8080}] * 2)
    assert portmap.forwards(mappings, {4: V4, 6: V6}) == (
        Forward("tcp", None, 80, V4, 8080),
        Forward("tcp", None, 80, V6, 8080),
    )
    (six,) = parse_mappings([{"hostPort": 80, "containerPort": 80, "hostIP": "::"}])
    assert portmap.forwards([six], {4: V4, 6: V6}) == (Forward("tcp", None, 80, V6, 80),)
    with pytest.raises(CniError, match="but the container has no IPv6 address"):
        portmap.forwards([six], {4: V4})
    with pytest.raises(CniError, match="but the container has no address"):
        portmap.forwards(mappings, {})


def test_a_record_gives_back_what_it_was_given() -> None:
    made = (Forward("udp", parse_ip("10.0.0.1"), 53, V4, 5353), Forward("sctp", None, 1, V6, 2))
    step = Ports(Publication(made, Hide.ALL, ("eth1",), ("ip saddr 10.0.0.1", "")), IptablesKeys(7, "X"))
    line = {"step": registry.kind_of(step).value, "args": registry.encode(step)}
    assert registry.decode(json.loads(json.dumps(line))) == step


def test_iptables_is_chosen_by_name_or_by_a_key_that_only_it_has() -> None:
    assert keys() is None
    assert keys(backend="nftables", snat=False, masqAll=True) is None
    assert keys(conditionsV4=["ip", "saddr", "192.0.2.0/24"]) is None
    assert keys(backend="iptables") == IptablesKeys()
    assert keys(markMasqBit=0) == IptablesKeys(mark_bit=0)
    assert keys(backend="auto", externalSetMarkChain="KUBE-MARK-MASQ") == IptablesKeys(
        external_chain="KUBE-MARK-MASQ"
    )
    assert keys(conditionsV4=["!", "-d", "192.0.2.0/24"]) == IptablesKeys(
        conditions_v4=("!", "-d", "192.0.2.0/24")
    )


@pytest.mark.parametrize(
    ("document", "code", "sentence"),
    [
        ({"backend": "nftables", "markMasqBit": 3}, 2, "markMasqBit is 3, which has no meaning"),
        (
            {"backend": "nftables", "conditionsV6": ["-d", "::"]},
            7,
            "which is not how nftables writes a match",
        ),
        ({"markMasqBit": 3, "externalSetMarkChain": "X"}, 7, "is 3 and externalSetMarkChain is 'X'"),
        ({"backend": "iptables", "conditionsV4": ["ip", "saddr", "10.0.0.1"]}, 7, "not how iptables writes"),
        ({"conditionsV4": ["ip", "saddr", "10.0.0.1"], "conditionsV6": ["-s", "::1"]}, 7, "iptables writes"),
        ({"conditionsV4": ["ip", "saddr", "1;"]}, 7, "each word of the match"),
        ({"conditionsV4": ["-d 10.0.0.1"]}, 7, "each word of the match is an item of its own"),
        ({"externalSetMarkChain": "a b"}, 7, "cannot be a chain's name"),
        ({"markMasqBit": 32}, 7, "markMasqBit is 32"),
        ({"backend": "nft"}, 7, "backend is 'nft'"),
        ({"masq_all": True}, 2, "is 'masqAll' meant?"),
    ],
)
def test_keys_that_cannot_be_meant(document: dict[str, Any], code: int, sentence: str) -> None:
    with pytest.raises(CniError) as refused:
        keys(**document)
    assert refused.value.code == code
    assert sentence in str(refused.value)
