"""DHCPv6 messages: what comes back out of bytes, and that no bytes harm."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.dhcp.packet6 import (
    INFINITE,
    Kind,
    Message,
    Option,
    Status,
    association,
    association_of,
    decode,
    delegation,
    encode,
    pack,
    servers_of,
)

IAID = b"iaid"
ADDRESS = IPv6Address("fd00::5")
OPTIONS = st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=200)), max_size=12).map(tuple)


def ia(*inside: tuple[int, bytes], t1: int = 50, t2: int = 80, iaid: bytes = IAID) -> Message:
    body = iaid + struct.pack("!II", t1, t2) + pack(inside)
    return Message(Kind.REPLY, 1, ((int(Option.IA_NA), body),))


def address(
    ip: str = "fd00::5", preferred: int = 100, valid: int = 200, *inside: tuple[int, bytes]
) -> tuple[int, bytes]:
    body = IPv6Address(ip).packed + struct.pack("!II", preferred, valid) + pack(inside)
    return int(Option.ADDRESS), body


def status(code: int, said: bytes = b"") -> tuple[int, bytes]:
    return int(Option.STATUS), code.to_bytes(2, "big") + said


@given(st.sampled_from(Kind), st.integers(0, 2**24 - 1), OPTIONS)
def test_a_message_is_the_same_again(
    kind: Kind, transaction: int, options: tuple[tuple[int, bytes], ...]
) -> None:
    message = Message(kind, transaction, options)
    assert decode(encode(message)) == message


def test_the_bytes_of_a_solicit() -> None:
    """As Wireshark shows one (RFC 8415 sections 8, 21.2, 21.4, 21.9)."""
    duid = b"\0\x03\0\x01\x02\0\0\0\0\x01"
    options = (
        (int(Option.CLIENT_ID), duid),
        (int(Option.ELAPSED), b"\0\0"),
        (int(Option.RAPID_COMMIT), b""),
        association(IAID, ADDRESS),
    )
    assert encode(Message(Kind.SOLICIT, 0x123456, options)).hex() == (
        "01123456"
        "0001000a00030001020000000001"
        "000800020000"
        "000e0000"
        "00030028" + IAID.hex() + "0000000000000000"
        "00050018fd00000000000000000000000000000500000000" + "00000000"
    )  # fmt: skip


@given(st.binary(max_size=1500))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    for raw in (data, b"\x07\0\0\x01" + data, encode(ia())[:-4] + data):
        try:
            message = decode(raw)
        except ValueError:
            continue
        found = association_of(message, IAID)
        assert found is None or all(item.valid for item in found.addresses)
        assert message.status[1].isprintable()
        servers_of(dict(message.options))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_association_is_read_or_passed_over(inside: bytes, of_address: bytes) -> None:
    body = IAID + struct.pack("!II", 1, 2) + inside
    whole = Message(Kind.REPLY, 1, ((int(Option.IA_NA), body), (int(Option.IA_NA), IAID + of_address)))
    association_of(whole, IAID)
    association_of(ia((int(Option.ADDRESS), ADDRESS.packed + bytes(8) + of_address)), IAID)


@pytest.mark.parametrize(
    "ip", ["ff02::1", "::", "::1", "fe80::1", "::ffff:10.0.0.1", "ff0e::1"]
)  # fmt: skip
def test_what_no_host_can_have_is_left_out(ip: str) -> None:
    found = association_of(ia(address(ip), address()), IAID)
    assert found is not None
    assert [item.address for item in found.addresses] == [ADDRESS]


def prefix(first: str, length: int, preferred: int = 100, valid: int = 200) -> tuple[int, bytes]:
    body = struct.pack("!IIB", preferred, valid, length) + IPv6Address(first).packed
    return int(Option.PREFIX), body


def pd(*inside: tuple[int, bytes], iaid: bytes = IAID) -> tuple[int, bytes]:
    return int(Option.IA_PD), iaid + struct.pack("!II", 50, 80) + pack(inside)


def test_the_bytes_of_a_wish_for_a_prefix() -> None:
    """A hint has the length alone (RFC 8415 sections 18.2.1, 21.21, 21.22)."""
    number, value = delegation(IAID, IPv6Interface("::/56"))
    assert (number, value) == (25, IAID + bytes(8) + b"\0\x1a\0\x19" + bytes(8) + b"\x38" + bytes(16))


def test_a_prefix_of_several_associations_and_of_addresses() -> None:
    """Bits behind the length are nobody's; an IA_NA of the same number is another thing."""
    inside = (
        prefix("fd00:1::5", 60),
        prefix("fd00:2::", 60, 0, 0),
        prefix("fd00:3::", 0),
        prefix("fd00:3::", 129),
    )
    message = Message(
        Kind.REPLY,
        1,
        (
            *ia(address()).options,
            pd(prefix("fd00:9::", 60), iaid=b"else"),
            pd(*inside),
            pd(prefix("fd00:8::", 60)),
        ),
    )
    found = association_of(message, IAID, prefix=True)
    assert found is not None
    assert [str(item.interface) for item in found.addresses] == ["fd00:1::/60"]
    assert found.gone == {IPv6Address("fd00:2::")}
    assert association_of(ia(address()), IAID, prefix=True) is None


@pytest.mark.parametrize("first", ["ff02::", "::", "::1", "fe80::", "::ffff:0:0"])
def test_prefixes_of_no_host(first: str) -> None:
    found = association_of(Message(Kind.REPLY, 1, (pd(prefix(first, 64)),)), IAID, prefix=True)
    assert found is not None and found.addresses == ()


@given(st.binary(max_size=60))
def test_any_bytes_of_a_prefix(raw: bytes) -> None:
    found = association_of(Message(Kind.REPLY, 1, (pd((int(Option.PREFIX), raw)),)), IAID, prefix=True)
    assert found is not None
    assert all(0 < item.length <= 128 for item in found.addresses)


def test_lifetimes() -> None:
    found = association_of(
        ia(
            address("fd00::1", 300, 200),  # preferred for longer than valid: passed over
            address("fd00::2", 0, 0),
            address("fd00::3", INFINITE, INFINITE),
            address("fd00::4", 0, 5),
        ),
        IAID,
    )
    assert found is not None
    assert [(str(item.address), item.valid) for item in found.addresses] == [
        ("fd00::3", INFINITE),
        ("fd00::4", 5),
    ]
    assert found.gone == {IPv6Address("fd00::2")}


@pytest.mark.parametrize(
    ("t1", "t2", "there"), [(80, 50, False), (80, 0, True), (0, 50, True), (50, 50, True)]
)
def test_t1_after_t2_makes_an_association_void(t1: int, t2: int, there: bool) -> None:
    assert (association_of(ia(address(), t1=t1, t2=t2), IAID) is not None) is there


def test_of_somebody_else() -> None:
    assert association_of(ia(address(), iaid=b"else"), IAID) is None


@pytest.mark.parametrize(
    ("code", "meaning"),
    [(0, Status.SUCCESS), (2, Status.NO_ADDRESS), (3, Status.NO_BINDING), (99, Status.UNSPECIFIED)],
)
def test_statuses(code: int, meaning: Status) -> None:
    found = association_of(ia(status(code, "nö\x1b[2J".encode())), IAID)
    assert found is not None
    assert (found.status, found.said) == (meaning, "nö[2J")


def test_a_status_of_one_byte_is_nothing_good() -> None:
    found = association_of(ia((int(Option.STATUS), b"\0")), IAID)
    assert found is not None
    assert found.status is Status.UNSPECIFIED


def test_an_address_that_its_status_refuses() -> None:
    found = association_of(ia(address("fd00::5", 100, 200, status(4))), IAID)
    assert found is not None
    assert not found.addresses


def test_a_flood_of_options_is_refused() -> None:
    with pytest.raises(ValueError, match="more than anybody needs"):
        decode(b"\x07\0\0\x01" + bytes(4) * 300)


def test_name_servers() -> None:
    listed = [IPv6Address(item).packed for item in ("fd00::53", "fe80::1", "::", "fd00::53", "fd00::54")]
    assert servers_of({Option.NAME_SERVERS: b"".join(listed) + b"cut"}) == ("fd00::53", "fd00::54")
