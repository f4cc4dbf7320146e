"""Neighbours: which MAC address an address of a link's network has, and addresses answered for by proxy
(ip-neighbour(8), linux/neighbour.h).
"""

import errno
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import ip_address

from cni_plugins.kernel.netlink.codec import attributes, encode
from cni_plugins.kernel.netlink.layouts import NEIGHBOUR
from cni_plugins.kernel.netlink.route import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    RTM_NEWNEIGH,
    Message,
    Netlink,
)
from cni_plugins.spec.values import Ip

_AF_INET, _AF_INET6 = 2, 10
_DST, _LLADDR = 1, 2
_PROXY, _ROUTER = 0x08, 0x80
_NOBODY = frozenset((errno.ENOENT, errno.ENODEV))


class State(IntFlag):
    """What the kernel knows of an entry; NONE is that of an address answered for by proxy."""

    NONE = 0x00
    INCOMPLETE = 0x01
    REACHABLE = 0x02
    STALE = 0x04
    DELAY = 0x08
    PROBE = 0x10
    FAILED = 0x20
    NOARP = 0x40
    PERMANENT = 0x80


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of a link; `mac` is "" while it is not known. `router`: it advertised itself as one."""

    index: int
    address: Ip
    mac: str
    state: State
    router: bool = False


def _message(
    doing: str, kind: int, flags: int, entry: Neighbour, *, proxy: bool, allow: frozenset[int] = frozenset()
) -> Message:
    fields = {
        "family": _AF_INET if entry.address.version == 4 else _AF_INET6,
        "ifindex": entry.index,
        "state": int(entry.state),
        "flags": (_PROXY if proxy else 0) | (_ROUTER if entry.router else 0),
    }
    listed = [("NDA_DST", str(entry.address))]
    if entry.mac:
        listed.append(("NDA_LLADDR", entry.mac))
    return Message(doing, kind, flags, encode(NEIGHBOUR, fields, listed), allow)


def put(entry: Neighbour) -> Message:
    """Make or replace an entry."""
    doing = f"set the neighbour {entry.address}"
    return _message(doing, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, entry, proxy=False)


def delete(index: int, address: Ip) -> Message:
    """Take an entry away; that there is none is an answer."""
    entry = Neighbour(index, address, "", State.NONE)
    return _message(f"delete the neighbour {address}", RTM_DELNEIGH, 0, entry, proxy=False, allow=_NOBODY)


def answer_for(index: int, address: Ip) -> Message:
    """Answer on a link for an address that is elsewhere (proxy_arp, proxy_ndp have to be on)."""
    entry = Neighbour(index, address, "", State.NONE)
    return _message(f"answer for {address}", RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, entry, proxy=True)


def answer_no_more(index: int, address: Ip) -> Message:
    """Undo `answer_for`; that it is undone is an answer."""
    entry = Neighbour(index, address, "", State.NONE)
    return _message(f"stop answering for {address}", RTM_DELNEIGH, 0, entry, proxy=True, allow=_NOBODY)


def find(netlink: Netlink, index: int, address: Ip) -> Neighbour | None:
    """One entry, None if there is none. CniError 999."""
    entry = Neighbour(index, address, "", State.NONE)
    doing = f"look up the neighbour {address}"
    question = _message(doing, RTM_GETNEIGH, 0, entry, proxy=False, allow=_NOBODY)
    (answer,) = netlink.request(question)
    return parse(answer.packet) if answer.packet else None


def of_link(netlink: Netlink, index: int, version: int, *, proxied: bool = False) -> list[Neighbour]:
    """The entries of a link, or the addresses it answers for by proxy. CniError 999."""
    fields = {
        "family": _AF_INET if version == 4 else _AF_INET6,
        "flags": _PROXY if proxied else 0,
    }
    body = encode(NEIGHBOUR, fields, [("NDA_IFINDEX", index)])
    found = (parse(packet) for packet in netlink.dump("list neighbours", RTM_GETNEIGH, body))
    return [entry for entry in found if entry.index == index]


def every(netlink: Netlink, version: int) -> list[Neighbour]:
    """The entries of all links of a family. CniError 999."""
    body = encode(NEIGHBOUR, {"family": _AF_INET if version == 4 else _AF_INET6}, [])
    return [parse(packet) for packet in netlink.dump("list neighbours", RTM_GETNEIGH, body)]


def parse(packet: bytes) -> Neighbour:
    """The entry of an RTM_NEWNEIGH message."""
    _, index, state, flags, _ = NEIGHBOUR.header.unpack_from(packet, 16)
    found = attributes(packet, 16 + NEIGHBOUR.header.size)
    address, mac = ip_address(found[_DST]), found.get(_LLADDR, b"").hex(":")
    return Neighbour(index, address, mac, State(state), bool(flags & _ROUTER))
