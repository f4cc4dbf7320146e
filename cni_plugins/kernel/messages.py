"""Route netlink messages.

They are made by pyroute2's message classes. Reading goes through `attributes`, which cuts a message into its
attributes without decoding those nobody asks for: a link has sixty, and decoding all of them costs more than
the system call. `decode` is for the messages off the fast path.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from cni_plugins.kernel import lean

_ifinfmsg, _ifaddrmsg, _rtmsg = lean.load(
    "netlink.rtnl.ifinfmsg", "netlink.rtnl.ifaddrmsg", "netlink.rtnl.rtmsg"
)

# Attributes that this version of pyroute2 does not know yet (linux/if_link.h).
_macvlan = _ifinfmsg.macvx_data
_macvlan.nla_map += (("IFLA_MACVLAN_BC_QUEUE_LEN", "uint32"),)

LINK = _ifinfmsg.ifinfmsg
ADDRESS = _ifaddrmsg.ifaddrmsg
ROUTE = _rtmsg.rtmsg


def encode(kind: Any, fields: Mapping[str, Any], attributes: Iterable[tuple[str, Any]]) -> bytes:
    """The body (without the netlink header) of a message of one of pyroute2's classes."""
    message = kind()
    for key, value in fields.items():
        message[key] = value
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data[16:])


def decode(kind: Any, packet: bytes) -> Any:
    """A message of one of pyroute2's classes from a whole packet; `get_attr(name)` reads an attribute."""
    message = kind(packet)
    message.decode()
    return message


_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=I")


def attributes(data: bytes, offset: int) -> dict[int, bytes]:
    """The payloads of the attributes from `offset` on, by number."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        size, number = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            break
        found[number & 0x3FFF] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


def number(found: Mapping[int, bytes], attribute: int) -> int:
    """A 32-bit number, 0 when it is absent."""
    payload = found.get(attribute)
    return int(_NUMBER.unpack_from(payload)[0]) if payload else 0


def text(found: Mapping[int, bytes], attribute: int) -> str:
    """A NUL-terminated string, "" when it is absent."""
    return found.get(attribute, b"").rstrip(b"\0").decode("utf-8", "replace")
