"""Typed configurations."""

from dataclasses import dataclass
from typing import Any

import pytest

from cni_plugins.spec.config import (
    ANY,
    BOOL,
    INTERFACE_NAME,
    IP,
    MAC_ADDRESS,
    TEXT,
    decode,
    integer,
    keys_of,
    list_of,
    map_of,
    nested,
    one_of,
    option,
)
from cni_plugins.spec.errors import CniError


@dataclass(frozen=True)
class Inner:
    number: int = option("number", integer(1, 9), 1, "a number")


@dataclass(frozen=True)
class Sample:
    gateway: bool = option("isGateway", BOOL, False, "a flag")
    name: str = option("bridge", INTERFACE_NAME, "cni0", "a name")
    size: int = option("mtu", integer(0, 9000), 0, "a number")
    mode: str = option("mode", one_of("a", "b"), "a", "a choice")
    mac: str | None = option("mac", MAC_ADDRESS, None, "an address")
    inner: tuple[Inner, ...] = option("inner", list_of(nested(Inner)), (), "objects")
    texts: dict[str, str] | None = option("texts", map_of(TEXT), None, "texts")
    address: Any = option("address", IP, None, "an address")
    rest: Any = option("rest", ANY, None, "anything")


def test_defaults_and_null() -> None:
    assert decode(Sample, {}) == Sample()
    assert decode(Sample, {"mtu": None, "isGateway": None, "inner": None}) == Sample()


def test_case_is_folded_and_the_last_spelling_wins() -> None:
    assert decode(Sample, {"ISGATEWAY": True}).gateway
    assert decode(Sample, {"MTU": 1, "mtu": 2}).size == 2
    assert decode(Sample, {"mtu": 2, "MTU": None}).size == 0


def test_values() -> None:
    made = decode(
        Sample, {"mac": "02:AB:00:00:00:01", "inner": [{"number": 3}, {}], "texts": {"a": "b"}, "mode": "b"}
    )
    assert (made.mac, made.inner, made.texts, made.mode) == (
        "02:ab:00:00:00:01",
        (Inner(3), Inner()),
        {"a": "b"},
        "b",
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("isGateway", "true"),
        ("isGateway", 1),
        ("mtu", True),
        ("mtu", "1500"),
        ("mtu", 1500.0),
        ("mtu", 9001),
        ("bridge", "sixteen-letters-"),
        ("bridge", ".."),
        ("bridge", "a b"),
        ("bridge", "a\0"),
        ("mode", "c"),
        ("mode", ["a"]),
        ("mac", "01:00:00:00:00:01"),
        ("mac", "02:00:00:00:00"),
        ("inner", [{"number": 0}]),
        ("inner", {}),
        ("texts", {"a": 1}),
        ("address", "10.0.0.256"),
        ("address", 7),
    ],
)
def test_a_wrong_value_is_named_with_its_key(key: str, value: Any) -> None:
    with pytest.raises(CniError) as caught:
        decode(Sample, {key: value})
    assert key in caught.value.msg
    assert decode(Sample, {key: value}, lenient=True) == Sample()


@pytest.mark.parametrize(
    "slip", ["isgatway", "is_gateway", "is-gateway", "isGatewy", "isGatewaay", "isGaetway", "brigde"]
)
def test_a_slip_of_the_pen_is_refused(slip: str) -> None:
    with pytest.raises(CniError) as caught:
        decode(Sample, {slip: True})
    assert (caught.value.code, slip in caught.value.msg) == (2, True)
    assert decode(Sample, {slip: True}, lenient=True) == Sample()


@pytest.mark.parametrize(
    "other", ["vlan", "isDefaultGateway", "cniVersion", "cni.dev/x", "mut", "capabilities"]
)
def test_other_keys_belong_to_others(other: str) -> None:
    assert decode(Sample, {other: 1}) == Sample()


def test_metadata_for_the_manual() -> None:
    first = keys_of(Sample)[0]
    assert (first.key, first.kind.name, first.default, first.about) == (
        "isGateway",
        "boolean",
        False,
        "a flag",
    )
