"""Links: looked up, made, changed and deleted."""

import errno
from dataclasses import dataclass
from typing import Any

from cni_plugins.kernel.messages import LINK, decode, encode
from cni_plugins.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_DELLINK,
    RTM_GETLINK,
    RTM_NEWLINK,
    RTM_SETLINK,
    Message,
    Netlink,
    answered,
)

IFF_UP, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x100, 0x200
_NO_LINK = frozenset((errno.ENODEV,))
_SKIP_STATS = ("IFLA_EXT_MASK", 8)


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel tells it; `peer` is IFLA_LINK (a veth's other end, a macvlan's master), 0 for
    none.
    """

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    flags: int
    master: int
    peer: int
    operstate: str
    alias: str
    queue: int
    port: Any = None
    data: Any = None

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


def _link(packet: bytes) -> Link:
    message = decode(LINK, packet)
    info = message.get_attr("IFLA_LINKINFO")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        kind=(info.get_attr("IFLA_INFO_KIND") or "") if info else "",
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        flags=message["flags"],
        master=message.get_attr("IFLA_MASTER") or 0,
        peer=message.get_attr("IFLA_LINK") or 0,
        operstate=message.get_attr("IFLA_OPERSTATE") or "UNKNOWN",
        alias=message.get_attr("IFLA_IFALIAS") or "",
        queue=message.get_attr("IFLA_TXQLEN") or 0,
        port=info.get_attr("IFLA_INFO_SLAVE_DATA") if info else None,
        data=info.get_attr("IFLA_INFO_DATA") if info else None,
    )


def find(netlink: Netlink, name: str) -> Link | None:
    """The link called `name`, None if there is none. CniError 999."""
    body = encode(LINK, {}, [("IFLA_IFNAME", name), _SKIP_STATS])
    answer = answered(netlink.request(Message(f"look up {name}", RTM_GETLINK, 0, body, _NO_LINK)))
    return _link(answer.messages[0]) if answer.messages else None


def find_index(netlink: Netlink, index: int) -> Link | None:
    """The link with this index, None if there is none. CniError 999."""
    body = encode(LINK, {"index": index}, [_SKIP_STATS])
    answer = answered(netlink.request(Message(f"look up link {index}", RTM_GETLINK, 0, body, _NO_LINK)))
    return _link(answer.messages[0]) if answer.messages else None


def every(netlink: Netlink, *, master: int = 0) -> list[Link]:
    """All links, or the ports of one master. CniError 999."""
    filters = [("IFLA_MASTER", master)] if master else []
    return [
        _link(message)
        for message in netlink.dump("list links", RTM_GETLINK, encode(LINK, {}, [*filters, _SKIP_STATS]))
    ]


def change(name: str, index: int, *, set_flags: int = 0, clear_flags: int = 0, **attributes: Any) -> Message:
    """Change flags and attributes of a link; `attributes` are named as IFLA_* without the prefix, in lower
    case.

    Used as `netlink.request(change("eth0", 7, set_flags=IFF_UP, mtu=1400))`.
    """
    fields = {"index": index, "flags": set_flags, "change": set_flags | clear_flags}
    listed = [(f"IFLA_{key.upper()}", value) for key, value in attributes.items()]
    return Message(f"change {name}", RTM_SETLINK, 0, encode(LINK, fields, listed))


def create(name: str, kind: str, data: list[tuple[str, Any]] | None = None, **attributes: Any) -> Message:
    """Make a link; `data` is its IFLA_INFO_DATA. Attributes as for `change`; `allow` EEXIST with
    `dataclasses.replace`.
    """
    info: list[tuple[str, Any]] = [("IFLA_INFO_KIND", kind)]
    if data is not None:
        info.append(("IFLA_INFO_DATA", {"attrs": data}))
    flags = attributes.pop("flags", 0)
    listed = [("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": info})]
    listed += [(f"IFLA_{key.upper()}", value) for key, value in attributes.items()]
    body = encode(LINK, {"flags": flags, "change": flags}, listed)
    return Message(f"create {kind} {name}", RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def delete(name: str) -> Message:
    """Delete a link by name; that it is gone already is an answer (Answer.error is ENODEV)."""
    return Message(f"delete {name}", RTM_DELLINK, 0, encode(LINK, {}, [("IFLA_IFNAME", name)]), _NO_LINK)
