"""Addresses of links."""

import errno
import struct
from _socket import inet_ntoa
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv6Interface

from cni_plugins.kernel.netlink.codec import attributes, encode, number
from cni_plugins.kernel.netlink.layouts import ADDRESS
from cni_plugins.kernel.netlink.route import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    Message,
    Netlink,
)
from cni_plugins.spec.values import IpInterface, interface_of

_AF_INET, _AF_INET6 = 2, 10
_HEADER = struct.Struct("=BBBBI")
# linux/if_addr.h
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_READ = frozenset((_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS))
NODAD, OPTIMISTIC, DADFAILED, TENTATIVE = 0x02, 0x04, 0x08, 0x40
PERMANENT, NOPREFIXROUTE = 0x80, 0x200
GLOBAL, LINK = 0, 253


_WITHOUT_IPV6 = frozenset((errno.EACCES, errno.EOPNOTSUPP, errno.ENODEV))


@dataclass(frozen=True, slots=True)
class LinkAddress:
    index: int
    address: IpInterface
    flags: int
    scope: int
    broadcast: bool = False


def _body(
    index: int,
    address: IpInterface,
    flags: int = 0,
    lifetimes: tuple[int, int] | None = None,
    *,
    broadcast: bool = True,
) -> bytes:
    plain, length = str(address).partition("/")[0], address.network.prefixlen
    fields = {
        "family": _AF_INET if address.version == 4 else _AF_INET6,
        "prefixlen": length,
        "index": index,
        "flags": flags & 0xFF,
    }
    listed: list[tuple[str, object]] = [("IFA_LOCAL", plain), ("IFA_ADDRESS", plain)]
    if flags > 0xFF:
        listed.append(("IFA_FLAGS", flags))
    if broadcast and isinstance(address, IPv4Interface) and length < 31:
        last = int(address) | (1 << 32 - length) - 1
        listed.append(("IFA_BROADCAST", inet_ntoa(last.to_bytes(4, "big"))))
    if lifetimes is not None:
        preferred, valid = lifetimes
        listed.append(("IFA_CACHEINFO", {"ifa_preferred": preferred, "ifa_valid": valid}))
    return encode(ADDRESS, fields, listed)


def is_advertised(item: LinkAddress) -> bool:
    """Whether the kernel made an IPv6 address of a prefix that a router advertised: such a one is not there
    for ever, and duplicates were looked for.
    """
    return item.address.version == 6 and item.scope == GLOBAL and not item.flags & (PERMANENT | NODAD)


def hold(index: int, address: IpInterface, seconds: int, preferred: int | None = None) -> Message:
    """Let a link have an address for so many seconds, 0xffffffff for ever; then the kernel takes it away.
    After `preferred` seconds (default as many) new connections take another one. It is added if it is not
    there, without detection of duplicates.
    """
    flags = NODAD if address.version == 6 else 0
    lasts = seconds if preferred is None else min(preferred, seconds)
    body = _body(index, address, flags, (lasts, seconds))
    return Message(f"hold address {address}", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def add(
    index: int,
    address: IpInterface,
    *,
    dad: bool = True,
    prefix_route: bool = True,
    optimistic: bool = False,
    broadcast: bool = True,
) -> Message:
    """Give a link an address; without `dad` an IPv6 address is used at once, with `optimistic` too, while the
    kernel looks for a duplicate (the link's sysctl optimistic_dad has to be 1; RFC 4429). Without
    `prefix_route` the kernel makes no route to its subnet, without `broadcast` it has no such address. EEXIST
    is an answer.
    """
    flags = 0 if prefix_route else NOPREFIXROUTE
    if address.version == 6:
        flags |= (0 if dad else NODAD) | (OPTIMISTIC if optimistic else 0)
    body = _body(index, address, flags, broadcast=broadcast)
    create = NLM_F_CREATE | NLM_F_EXCL
    return Message(f"add address {address}", RTM_NEWADDR, create, body, frozenset((errno.EEXIST,)))


def own(index: int, mac: str) -> Message:
    """Give a link of the host its link-local address (EUI-64, RFC 4291 appendix A) before the kernel does.

    The kernel looks for a duplicate of what it makes itself. Until that is over, after two seconds, the host
    has no source to ask a neighbour from, and the first packet that it forwards to a container waits. On a
    link that was made for containers, with a MAC address of our choice, nobody else has it.
    A link without IPv6 stays without.
    """
    octets = bytes.fromhex(mac.replace(":", ""))
    tail = bytes((octets[0] ^ 2,)) + octets[1:3] + b"\xff\xfe" + octets[3:]
    made = add(index, IPv6Interface((b"\xfe\x80" + bytes(6) + tail, 64)), dad=False)
    return replace(made, allow=made.allow | _WITHOUT_IPV6)


def delete(index: int, address: IpInterface) -> Message:
    """Take an address from a link; that it is gone already is an answer."""
    gone = frozenset((errno.EADDRNOTAVAIL, errno.ENODEV))
    return Message(f"delete address {address}", RTM_DELADDR, 0, _body(index, address), gone)


def of_link(netlink: Netlink, index: int) -> list[LinkAddress]:
    """The addresses of one link. CniError 999."""
    if netlink.remembered is not None:
        return _remembered(netlink).get(index, [])
    body = encode(ADDRESS, {"index": index}, [])
    found = (parse(packet) for packet in netlink.dump("list addresses", RTM_GETADDR, body))
    return [item for item in found if item.index == index]


def _remembered(netlink: Netlink) -> dict[int, list[LinkAddress]]:
    """The addresses of all links, by the link: listed once by a socket that remembers."""
    assert netlink.remembered is not None
    there = netlink.remembered.get("addresses")
    if isinstance(there, dict):
        return there
    found: dict[int, list[LinkAddress]] = {}
    for item in every(netlink):
        found.setdefault(item.index, []).append(item)
    netlink.remembered["addresses"] = found
    return found


def every(netlink: Netlink) -> list[LinkAddress]:
    """The addresses of all links. CniError 999."""
    body = encode(ADDRESS, {}, [])
    return [parse(packet) for packet in netlink.dump("list addresses", RTM_GETADDR, body)]


def parse(packet: bytes) -> LinkAddress:
    """An address of an RTM_NEWADDR message."""
    _, length, flags, scope, index = _HEADER.unpack_from(packet, 16)
    found = attributes(packet, 24, _READ)
    raw = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return LinkAddress(
        index, interface_of(raw, length), number(found, _IFA_FLAGS) or flags, scope, _IFA_BROADCAST in found
    )


def version_of(packet: bytes) -> int:
    """4 or 6 for an RTM_NEWADDR message."""
    return 4 if packet[16] == _AF_INET else 6


def given(packet: bytes) -> tuple[bytes, int, int]:
    """Of an RTM_NEWADDR message the address as packed bytes, the length of its prefix, and its flags: for who
    compares many.
    """
    found = attributes(packet, 24, _READ)
    return found.get(_IFA_LOCAL) or found[_IFA_ADDRESS], packet[17], number(found, _IFA_FLAGS) or packet[18]
