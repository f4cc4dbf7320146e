"""Netlink messages: made from tables, read by numbers.

pyroute2's message classes know every attribute of every message, and cost for it: 25 ms to import, 0.4 ms to
make a message. What the plugins make stands in layouts.py as tables, and `encode` packs what the tables hold
in some 10 µs; a message with any other attribute is left to pyroute2. The tests make each message both ways
and compare the bytes, so that pyroute2 stays the authority. What has no names worth a table (elements of
sets, rules) is put together from `attribute`, `nested` and `string`.

Reading goes through `attributes`, which cuts a message into its attributes without decoding those nobody asks
for; `decode` is pyroute2's.
"""

import struct
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cni_plugins.kernel.netlink import pyroute

_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_NLA_F_NESTED, _NLA_TYPE = 0x8000, 0x3FFF

Attributes = Iterable[tuple[str, Any]]
Table = Mapping[str, tuple[int, Callable[[Any], bytes]]]


class Unknown(Exception):
    """An attribute that the tables do not hold."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A kind of message: its class in pyroute2, its header, and the attributes that are packed here."""

    module: str
    name: str
    header: struct.Struct
    fields: tuple[str, ...]
    table: Table


def pack(table: Table, listed: Attributes) -> bytes:
    """Attributes in order. Unknown for one that the table does not hold."""
    packed = bytearray()
    for name, value in listed:
        known = table.get(name)
        if known is None:
            raise Unknown(name)
        payload = known[1](value)
        packed += _ATTRIBUTE.pack(4 + len(payload), known[0]) + payload + bytes(-len(payload) % 4)
    return bytes(packed)


def encode(kind: Any, fields: Mapping[str, Any], listed: Attributes) -> bytes:
    """The body (without the netlink header) of a message: a Layout's, or one of pyroute2's classes."""
    listed = list(listed)
    if not isinstance(kind, Layout):
        return _encode_by_class(kind, fields, listed)
    try:
        header = kind.header.pack(*[fields.get(name, 0) for name in kind.fields])
        return header + pack(kind.table, listed)
    except Unknown:
        return _encode_by_class(_class_of(kind), fields, listed)


def load(*kinds: Layout) -> None:
    """Import pyroute2's classes now, for a process that may not find them later."""
    for kind in kinds:
        _class_of(kind)


def _class_of(kind: Layout) -> Any:
    (module,) = pyroute.load(kind.module)
    return getattr(module, kind.name)


def _encode_by_class(cls: Any, fields: Mapping[str, Any], listed: Attributes) -> bytes:
    message = cls()
    for key, value in fields.items():
        message[key] = value
    message["attrs"] = listed
    message.encode()
    return bytes(message.data[16:])


def decode(kind: Any, packet: bytes) -> Any:
    """A whole packet as a message of pyroute2; `get_attr(name)` reads an attribute."""
    message = (_class_of(kind) if isinstance(kind, Layout) else kind)(packet)
    message.decode()
    return message


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length & 3)


def nested(kind: int, *inside: bytes) -> bytes:
    """An attribute made of attributes, marked so (netfilter wants that, route netlink does without)."""
    return attribute(kind | _NLA_F_NESTED, b"".join(inside))


def string(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def every_attribute(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """The attributes from `offset` on, in order, for where several have one number; a malformed rest is left
    out.
    """
    found = []
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found.append((kind & _NLA_TYPE, data[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found


def attributes(data: bytes, offset: int = 0, wanted: Container[int] = range(1 << 14)) -> dict[int, bytes]:
    """The payloads of the attributes from `offset` on, by number; of those that are wanted."""
    found: dict[int, bytes] = {}
    end = len(data) - 4
    cut = _ATTRIBUTE.unpack_from
    while offset <= end:
        size, number = cut(data, offset)
        if size < 4:
            break
        number &= _NLA_TYPE
        if number in wanted:
            found[number] = data[offset + 4 : offset + size]
        offset += size + 3 & ~3
    return found


def number(found: Mapping[int, bytes], attribute: int) -> int:
    """A 32-bit number, 0 when it is absent."""
    payload = found.get(attribute)
    return int(_NUMBER.unpack_from(payload)[0]) if payload else 0


def text(found: Mapping[int, bytes], attribute: int) -> str:
    """A NUL-terminated string, "" when it is absent."""
    return found.get(attribute, b"").rstrip(b"\0").decode("utf-8", "replace")
