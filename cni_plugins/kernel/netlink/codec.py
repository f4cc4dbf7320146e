"""Route netlink messages.

pyroute2's message classes know every attribute of every message, and cost for it: 25 ms to import, 0.1 ms to
make a message. The fast path needs three kinds of message and two dozen attributes. Their layout stands here
as tables, and `encode` packs what the tables hold; a message with any other attribute is left to pyroute2.
The tests make each message both ways and compare the bytes, so that pyroute2 stays the authority. Reading
goes through `attributes`, which cuts a message into its attributes without decoding those nobody asks for;
`decode` is pyroute2's.
"""

import struct
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from cni_plugins.kernel.netlink import pyroute as lean

_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")
_NLA_F_NESTED, _NLA_TYPE = 0x8000, 0x3FFF

Attributes = Iterable[tuple[str, Any]]
Table = Mapping[str, tuple[int, Callable[[Any], bytes]]]


class _Unknown(Exception):
    """An attribute that the tables do not hold."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A kind of message: its class in pyroute2, its header, and the attributes that are packed here."""

    module: str
    name: str
    header: struct.Struct
    fields: tuple[str, ...]
    table: Table


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _ip(value: str) -> bytes:
    return ip_address(value).packed


def _metrics(value: Mapping[str, Any]) -> bytes:
    return _pack(_METRICS, value["attrs"])


def _info(value: Mapping[str, Any]) -> bytes:
    """IFLA_LINKINFO of kinds whose data is empty or a veth's peer."""
    listed = list(value["attrs"])
    kind = next((item for name, item in listed if name == "IFLA_INFO_KIND"), "")
    return _pack(_VETH_INFO if kind == "veth" else _PLAIN_INFO, listed)


def _empty(value: Mapping[str, Any]) -> bytes:
    if list(value["attrs"]):
        raise _Unknown
    return b""


def _peer(value: Mapping[str, Any]) -> bytes:
    return LINK.header.pack(0, 0, 0, 0, 0) + _pack(LINK.table, value["attrs"])


def _veth(value: Mapping[str, Any]) -> bytes:
    return _pack({"VETH_INFO_PEER": (1, _peer)}, value["attrs"])


def _pack(table: Table, listed: Attributes) -> bytes:
    packed = bytearray()
    for name, value in listed:
        known = table.get(name)
        if known is None:
            raise _Unknown
        payload = known[1](value)
        packed += _ATTRIBUTE.pack(4 + len(payload), known[0]) + payload + bytes(-len(payload) % 4)
    return bytes(packed)


_PLAIN_INFO: Table = {"IFLA_INFO_KIND": (1, _text), "IFLA_INFO_DATA": (2, _empty)}
_VETH_INFO: Table = {"IFLA_INFO_KIND": (1, _text), "IFLA_INFO_DATA": (2, _veth)}
_METRICS: Table = {"RTAX_MTU": (2, _NUMBER.pack), "RTAX_ADVMSS": (8, _NUMBER.pack)}

# linux/if_link.h
LINK = Layout(
    "netlink.rtnl.ifinfmsg",
    "ifinfmsg",
    struct.Struct("=BxHiII"),
    ("family", "ifi_type", "index", "flags", "change"),
    {
        "IFLA_ADDRESS": (1, _mac),
        "IFLA_IFNAME": (3, _text),
        "IFLA_MTU": (4, _NUMBER.pack),
        "IFLA_MASTER": (10, _NUMBER.pack),
        "IFLA_TXQLEN": (13, _NUMBER.pack),
        "IFLA_LINKINFO": (18, _info),
        "IFLA_IFALIAS": (20, _text),
        "IFLA_NET_NS_FD": (28, _NUMBER.pack),
        "IFLA_EXT_MASK": (29, _NUMBER.pack),
    },
)
# linux/if_addr.h
ADDRESS = Layout(
    "netlink.rtnl.ifaddrmsg",
    "ifaddrmsg",
    struct.Struct("=BBBBI"),
    ("family", "prefixlen", "flags", "scope", "index"),
    {
        "IFA_ADDRESS": (1, _ip),
        "IFA_LOCAL": (2, _ip),
        "IFA_BROADCAST": (4, _ip),
        "IFA_FLAGS": (8, _NUMBER.pack),
    },
)
# linux/rtnetlink.h
ROUTE = Layout(
    "netlink.rtnl.rtmsg",
    "rtmsg",
    struct.Struct("=BBBBBBBBI"),
    ("family", "dst_len", "src_len", "tos", "table", "proto", "scope", "type", "flags"),
    {
        "RTA_DST": (1, _ip),
        "RTA_OIF": (4, _NUMBER.pack),
        "RTA_GATEWAY": (5, _ip),
        "RTA_PRIORITY": (6, _NUMBER.pack),
        "RTA_PREFSRC": (7, _ip),
        "RTA_METRICS": (8, _metrics),
        "RTA_TABLE": (15, _NUMBER.pack),
    },
)


def encode(kind: Any, fields: Mapping[str, Any], listed: Attributes) -> bytes:
    """The body (without the netlink header) of a message: a Layout's, or one of pyroute2's classes."""
    listed = list(listed)
    if not isinstance(kind, Layout):
        return _encode_by_class(kind, fields, listed)
    try:
        header = kind.header.pack(*(fields.get(name, 0) for name in kind.fields))
        return header + _pack(kind.table, listed)
    except _Unknown:
        return _encode_by_class(_class_of(kind), fields, listed)


def load() -> None:
    """Import pyroute2's classes now, for a process that may not find them later."""
    for kind in (LINK, ADDRESS, ROUTE):
        _class_of(kind)


def _class_of(kind: Layout) -> Any:
    (module,) = lean.load(kind.module)
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
