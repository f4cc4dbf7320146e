"""What options mean: the examples of the RFCs, and that no bytes of a server do any harm."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.dhcp import options
from cni_plugins.dhcp.packet import Option


def packed(*texts: str) -> bytes:
    return b"".join(IPv4Address(text).packed for text in texts)


def told(values: dict[int, bytes], priority: int | None = None) -> list[tuple[str, str | None]]:
    return [
        (str(route.dst), None if route.gw is None else str(route.gw))
        for route in options.routes_of(values, priority)
    ]


def test_classless_routes_stand_alone() -> None:
    values: dict[int, bytes] = {
        Option.ROUTERS: packed("10.0.0.1"),
        Option.STATIC_ROUTES: packed("10.9.0.0", "10.0.0.2"),
        Option.CLASSLESS_ROUTES: bytes((0,))
        + packed("10.0.0.3")
        + bytes((25, 10, 1, 2, 128))
        + packed("10.0.0.4")
        + bytes((16, 10, 5))
        + packed("0.0.0.0"),
    }
    assert told(values) == [("0.0.0.0/0", "10.0.0.3"), ("10.1.2.128/25", "10.0.0.4"), ("10.5.0.0/16", None)]
    assert options.routes_of(values, 7)[2].scope == 253
    assert {route.priority for route in options.routes_of(values, 7)} == {7}


def test_static_routes_have_classes_and_the_router_is_the_default() -> None:
    values: dict[int, bytes] = {
        Option.ROUTERS: packed("10.0.0.1", "10.0.0.2"),
        Option.STATIC_ROUTES: packed(
            "172.16.0.0", "10.0.0.2", "192.0.2.9", "10.0.0.3", "0.0.0.0", "10.0.0.4"
        ),
    }
    assert told(values) == [
        ("172.16.0.0/16", "10.0.0.2"),
        ("192.0.2.9/32", "10.0.0.3"),
        ("0.0.0.0/0", "10.0.0.1"),
    ]
    assert options.gateway_of(values) == IPv4Address("10.0.0.1")


@pytest.mark.parametrize(
    ("address", "mask", "expected"),
    [
        ("10.1.2.3", packed("255.255.252.0"), "10.1.2.3/22"),
        ("10.1.2.3", packed("255.255.255.255"), "10.1.2.3/32"),
        ("10.1.2.3", b"", "10.1.2.3/8"),
        ("172.16.2.3", packed("255.0.255.0"), "172.16.2.3/16"),
        ("192.0.2.3", b"\xff", "192.0.2.3/24"),
        ("192.0.2.3", packed("0.0.0.0"), "192.0.2.3/32"),
    ],
)
def test_a_subnet_mask(address: str, mask: bytes, expected: str) -> None:
    values: dict[int, bytes] = {Option.SUBNET_MASK: mask} if mask else {}
    assert options.interface_of(IPv4Address(address), values) == ip_interface(expected)


def test_search_domains_of_rfc_3397() -> None:
    """Section 2: eng.apple.com and marketing.apple.com, the second with a pointer to the first."""
    value = b"\3eng\5apple\3com\0" + b"\x09marketing\xc0\x04"
    assert options.search_of(value) == ["eng.apple.com", "marketing.apple.com"]


@pytest.mark.parametrize(
    "value",
    [b"\xc0\x00", b"\3abc\xc0\x00", b"\3a\n\0", b"\4abc", b"\3abc", b"\xc0", b"\x80abc\0", b"\3a;b\0"],
)
def test_search_domains_that_are_none(value: bytes) -> None:
    assert options.search_of(value) == []


def test_a_domain_is_fit_for_a_resolv_conf() -> None:
    assert options.dns_of({Option.DOMAIN: b"example.net\0"}).domain == "example.net"
    assert options.dns_of({Option.DOMAIN: b"x\nnameserver 192.0.2.66"}).domain == ""


def test_an_mtu() -> None:
    assert options.mtu_of({Option.MTU: b"\x05\x78"}) == 1400
    assert options.mtu_of({Option.MTU: b"\x00\x10"}) is None
    assert options.mtu_of({Option.MTU: b"\x05"}) is None


@given(st.dictionaries(st.integers(0, 255), st.binary(max_size=600), max_size=8), st.binary(max_size=600))
def test_no_bytes_do_harm(values: dict[int, bytes], raw: bytes) -> None:
    for number in (
        Option.SUBNET_MASK, Option.ROUTERS, Option.STATIC_ROUTES, Option.CLASSLESS_ROUTES, Option.DOMAIN,
        Option.NAME_SERVERS, Option.SEARCH, Option.MTU,
    ):  # fmt: skip
        listed = values | {int(number): raw}
        for route in options.routes_of(listed):
            assert route.dst.version == 4
            assert route.dst.ip == route.dst.network.network_address
        dns = options.dns_of(listed)
        for text in (dns.domain, *dns.search):
            assert not set(text) & set(" \n\t;#\0")
        options.interface_of(IPv4Address("10.0.0.1"), listed)
        options.mtu_of(listed)
        options.gateway_of(listed)


@pytest.mark.parametrize(("name", "number"), [("routers", 3), ("host-name", 12), ("42", 42), ("254", 254)])
def test_an_option_by_name_or_number(name: str, number: int) -> None:
    assert options.number_of(name) == number


@pytest.mark.parametrize("name", ["", "0", "255", "256", "-1", "router", "\u0664", "0x3"])
def test_what_names_no_option(name: str) -> None:
    with pytest.raises(ValueError, match="a number from 1 to 254"):
        options.number_of(name)
