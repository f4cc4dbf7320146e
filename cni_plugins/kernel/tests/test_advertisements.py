"""Options of router advertisements, as the kernel passes them on."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.kernel.advertisements import Names, parse

SERVER = IPv6Address("fd00::53")
RDNSS = struct.pack("!BBHI", 25, 3, 0, 60) + SERVER.packed
DNSSL = struct.pack("!BBHI", 31, 2, 0, 60) + b"\x03net\0\0\0\0"


def message(options: bytes, index: int = 7, kind: int = 68) -> bytes:
    body = struct.pack("=BxHiBBHI", 10, len(options), index, 134, 0, 0, 0) + options
    body += struct.pack("=HH", 20, 1) + bytes(16)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def test_names() -> None:
    assert list(parse(message(RDNSS) + message(DNSSL), 7)) == [
        Names(servers=(SERVER,), seconds=60),
        Names(domains=b"\x03net\0\0\0\0", seconds=60),
    ]


def test_of_another_link_or_kind() -> None:
    assert list(parse(message(RDNSS, index=8) + message(RDNSS, kind=16), 7)) == []


@given(st.binary(max_size=200), st.integers(0, 255))
def test_any_bytes_are_read_or_passed_over(data: bytes, units: int) -> None:
    list(parse(data, 7))
    list(parse(message(data), 7))
    list(parse(message(RDNSS)[:30] + data, 7))
    list(parse(message(bytes((25, units)) + data), 7))
