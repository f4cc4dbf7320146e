"""Route netlink messages, made and read by pyroute2's message classes."""

from collections.abc import Iterable, Mapping
from typing import Any

from cni_plugins.kernel import lean

_ifinfmsg, _ifaddrmsg, _rtmsg = lean.load(
    "netlink.rtnl.ifinfmsg", "netlink.rtnl.ifaddrmsg", "netlink.rtnl.rtmsg"
)

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
