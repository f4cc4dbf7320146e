"""The mapping of RFC 6296: its own example, the sum that stays, the way back, and what is refused."""

from ipaddress import IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.nptv6 import PrefixPair, external_of, parse
from cni_plugins.spec.values import Ip, parse_cidr, parse_ip


def pair(internal: str, external: str) -> PrefixPair:
    return PrefixPair(parse_cidr(internal), parse_cidr(external))


def total(address: Ip) -> int:
    return sum(int.from_bytes(address.packed[at : at + 2], "big") for at in range(0, 16, 2)) % 0xFFFF


@pytest.mark.parametrize(
    ("internal", "external", "address", "expected"),
    [
        ("fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:1::1234", "2001:db8:1:d550::1234"),
        ("fd00:88::/64", "2001:db8:88::/64", "fd00:88::2", "2001:db8:88:0:cf47::2"),
        ("fd00:88::/64", "2001:db8:88::/64", "fd00:88::ffff:0:0:2", "2001:db8:88:0:ffff:cf47:0:2"),
        ("fd00:88::/64", "2001:db8:88::/64", "fd00:88:0:0:ffff:ffff:ffff:ffff", None),
        ("fd01:203:405::/48", "2001:db8:1::/48", "fd01:203:405:ffff::1", None),
        ("fd00:88::/64", "2001:db8:88::/64", "fd00:89::2", None),
        ("fd00:88::/64", "2001:db8:88::/64", "10.0.0.1", None),
    ],
)
def test_an_address(internal: str, external: str, address: str, expected: str | None) -> None:
    found = external_of((pair(internal, external),), parse_ip(address))
    assert found == (None if expected is None else parse_ip(expected))


def words(address: Ip) -> set[int]:
    return {int.from_bytes(address.packed[at : at + 2], "big") for at in range(0, 16, 2)}


@given(
    length=st.integers(8, 64),
    one=st.integers(0, 2**56 - 1),
    other=st.integers(0, 2**56 - 1),
    host=st.integers(0, 2**64 - 1),
)
def test_the_sum_stays_and_the_way_leads_back(length: int, one: int, other: int, host: int) -> None:
    """A word of all ones and one of zeros are the same to a sum, so those do not come back."""
    ends = [
        parse_cidr(str(IPv6Network((first << 120 | rest << 64, length), strict=False)))
        for first, rest in ((0xFD, one), (0x20, other))
    ]
    there, back = PrefixPair(*ends), PrefixPair(*reversed(ends))
    address = there.internal.network.network_address + host
    external = there.external_of(address)
    if external is not None:
        assert external in there.external.network and total(external) == total(address)
        assert back.external_of(external) == address or {0, 0xFFFF} & (words(address) | words(external))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("fd00::/64", ["nptv6 is 'fd00::/64'", "not an object"]),
        ({"fd00:88::/64": "2001:db8::/48"}, ["nptv6['fd00:88::/64']", "lengths"]),
        ({"fd00:88::1/64": "2001:db8::/64"}, ["a key of nptv6", "write fd00:88::/64"]),
        ({"fd00:88::/80": "2001:db8::/80"}, ["a key of nptv6", "1 to 64"]),
        ({"10.0.0.0/24": "2001:db8::/64"}, ["a key of nptv6", "not an IPv6 prefix"]),
        ({"fd00:88::/64": 5}, ["nptv6['fd00:88::/64'] is 5", "not an IPv6 prefix"]),
        ({"fd00:88::/64": "fe80::/64"}, ["'fe80::/64'", "routed"]),
        ({"ff02::/64": "2001:db8::/64"}, ["routed"]),
        ({"::/64": "2001:db8::/64"}, ["routed"]),
        ({"fd00::/32": "2001:db8::/32", "fd00:0:1::/48": "2001:db9::/48"}, ["overlap", "fd00:0:1::/48"]),
        ({"fd00::/64": "fd00::/64"}, ["overlap"]),
    ],
)
def test_what_is_refused_names_the_key_and_the_value(value: Any, words: list[str]) -> None:
    with pytest.raises(CniError) as caught:
        parse(value, "nptv6")
    assert caught.value.code == Code.INVALID_CONFIG
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_none_is_none() -> None:
    assert parse({}, "nptv6") == ()
