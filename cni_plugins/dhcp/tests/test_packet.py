"""Messages: our bytes against pyroute2's, what we read of any bytes, and long and overloaded options."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.dhcp.dhcp4msg import dhcp4msg
from pyroute2.dhcp.enums.dhcp import MessageType

from cni_plugins.dhcp.packet import Kind, Message, Option, decode, encode

MAC = bytes.fromhex("020000000001")

numbers = st.integers(1, 254).filter(lambda number: number not in {Option.KIND, Option.OVERLOAD})
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
messages = st.builds(
    Message,
    st.sampled_from(Kind),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=6, max_size=6),
    st.dictionaries(numbers, st.binary(max_size=700), max_size=12),
    addresses,
    addresses,
    addresses,
    st.integers(0, 0xFFFF),
    st.booleans(),
)


@given(messages, st.booleans())
def test_what_was_encoded_is_decoded(message: Message, reply: bool) -> None:
    assert decode(encode(message, reply=reply), reply=reply) == message


def test_the_bytes_are_those_of_pyroute2() -> None:
    ours = Message(
        Kind.REQUEST,
        0x12345678,
        MAC,
        {
            Option.REQUESTED_ADDRESS: IPv4Address("10.0.0.5").packed,
            Option.SERVER: IPv4Address("10.0.0.1").packed,
            Option.PARAMETERS: bytes((1, 3, 6)),
            Option.HOST_NAME: b"web",
            Option.CLIENT_ID: b"\0c1/net/eth0",
        },
        broadcast=True,
        seconds=3,
    )
    theirs = dhcp4msg(
        {
            "xid": 0x12345678,
            "secs": 3,
            "flags": 0x8000,
            "chaddr": "02:00:00:00:00:01",
            "options": {
                "message_type": MessageType.REQUEST,
                "requested_ip": "10.0.0.5",
                "server_id": "10.0.0.1",
                "parameter_list": [1, 3, 6],
                "host_name": "web",
                "client_id": {"type": 0, "key": b"c1/net/eth0"},
            },
        }
    )
    assert encode(ours).rstrip(b"\0") == bytes(theirs.encode().buf)


@given(st.binary(max_size=1500))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    for raw in (data, encode(Message(Kind.ACK, 1, MAC), reply=True)[:240] + data):
        try:
            decode(raw)
        except ValueError:
            continue


@given(messages, st.data())
def test_a_message_that_is_cut_off_is_none_or_whole(message: Message, data: st.DataObject) -> None:
    raw = encode(message, reply=True)
    short = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        found = decode(short)
    except ValueError:
        return
    assert found.transaction == message.transaction
    assert set(found.options) <= set(message.options)


def test_options_in_the_fields_of_names_are_read() -> None:
    raw = bytearray(encode(Message(Kind.ACK, 7, MAC, {Option.OVERLOAD: b"\3"}), reply=True))
    raw[44:47] = bytes((Option.MTU, 2, 5))  # sname
    raw[47:49] = bytes((0xDC, Option.END))
    raw[108:115] = bytes((Option.ROUTERS, 4, 10, 0, 0, 1, Option.END))  # file
    found = decode(bytes(raw))
    assert found.options[Option.ROUTERS] == IPv4Address("10.0.0.1").packed
    assert found.options[Option.MTU] == b"\x05\xdc"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw[:100], "at least"),
        (lambda raw: raw[:236] + b"nope" + raw[240:], "cookie"),
        (lambda raw: b"\1" + raw[1:], "request"),
        (lambda raw: raw[:1] + b"\6" + raw[2:], "Ethernet"),
        (lambda raw: raw[:240] + b"\xff", "option 53"),
        (lambda raw: raw[:240] + bytes((53, 1, 99, 255)), "99"),
        (lambda raw: raw[:240] + bytes((53, 9, 5)), "past the end"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(change: object, reason: str) -> None:
    assert callable(change)
    with pytest.raises(ValueError, match=reason):
        decode(change(encode(Message(Kind.ACK, 7, MAC), reply=True)))
