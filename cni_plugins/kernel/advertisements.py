"""What routers advertise on a link, as the kernel tells it (RFC 4861, RFC 8106).

The kernel takes addresses and routes from an advertisement by itself (`accept_ra`). What it has no use for,
name servers and search domains, it passes on over netlink; whether DHCPv6 has more (M, O) stands with the
link.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface

from cni_plugins.kernel import addresses, routes
from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink.codec import attributes, encode, number
from cni_plugins.kernel.netlink.layouts import LINK
from cni_plugins.kernel.netlink.route import RTM_GETLINK, Message, Netlink
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.result import Route

# linux/if_link.h, net/if_inet6.h, linux/rtnetlink.h
_AF_SPEC, _AF_INET6, _INET6_FLAGS = 26, 10, 1
_RECEIVED, _MANAGED, _OTHER = 0x20, 0x40, 0x80
_RTM_NEWNDUSEROPT, _GROUP = 68, 20
_LINK_HEADER = struct.Struct("=BxHiII")
_HEADER = struct.Struct("=IHHII")
_OPTION_HEADER = struct.Struct("=BxHiBBHI")
_LIFETIME = struct.Struct("!BBHI")
_SERVERS, _DOMAINS = 25, 31  # RFC 8106 sections 5.1, 5.2
_LARGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Advertised:
    """Whether a router was heard at all, what it says of DHCPv6, and what the kernel made of it: addresses
    that can be used, whether some are not settled yet, default routes.
    """

    received: bool
    managed: bool
    other: bool
    addresses: tuple[IPv6Interface, ...]
    unsettled: bool
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class Names:
    """Name servers, and search domains as in DNS messages, of one option; 0 seconds make them void."""

    servers: tuple[IPv6Address, ...] = ()
    domains: bytes = b""
    seconds: int = 0


def seen(netlink: Netlink, index: int) -> Advertised:
    """CniError 999."""
    body = encode(LINK, {"index": index}, [("IFLA_EXT_MASK", 8)])
    (answer,) = netlink.request(Message("find a link's flags", RTM_GETLINK, 0, body))
    family = attributes(attributes(answer.packet, 16 + _LINK_HEADER.size).get(_AF_SPEC, b"")).get(_AF_INET6)
    flags = number(attributes(family or b""), _INET6_FLAGS)
    found = [item for item in addresses.of_link(netlink, index) if addresses.is_advertised(item)]
    usable = [item for item in found if not item.flags & (addresses.TENTATIVE | addresses.DADFAILED)]
    defaults = [
        item.route
        for item in routes.every(netlink, 6, table=routes.MAIN_TABLE, protocol=routes.PROTOCOL_ROUTER)
        if item.index == index and not item.route.dst.network.prefixlen
    ]
    return Advertised(
        bool(flags & _RECEIVED),
        bool(flags & _MANAGED),
        bool(flags & _OTHER),
        tuple(item.address for item in usable if isinstance(item.address, IPv6Interface)),
        any(item.flags & addresses.TENTATIVE and not item.flags & addresses.DADFAILED for item in found),
        tuple(defaults),
    )


def listen(namespace: Namespace) -> socket.socket:
    """A socket that hears the options of advertisements in a namespace; it does not block. CniError 999."""
    with entered(namespace):
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            try:
                sock.bind((0, 1 << (_GROUP - 1)))
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise CniError(
                Code.INTERNAL, f"cannot listen for router advertisements in {namespace.path}", str(error)
            ) from error
    return sock


def heard(sock: socket.socket, index: int) -> Iterator[Names]:
    """The options that came in on a link since the last look."""
    while True:
        try:
            data, sender = sock.recvfrom(_LARGEST)
        except BlockingIOError:
            return
        except OSError:  # more came than there was room for
            continue
        if sender[0] != 0:  # not the kernel
            continue
        yield from parse(data, index)


def parse(data: bytes, index: int) -> Iterator[Names]:
    """Netlink messages as the kernel sends them; what is of another link or kind is passed over."""
    at = 0
    while at + _HEADER.size + _OPTION_HEADER.size <= len(data):
        size, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size or at + size > len(data):
            return
        if kind == _RTM_NEWNDUSEROPT and size >= _HEADER.size + _OPTION_HEADER.size:
            _, length, link, _, _, _, _ = _OPTION_HEADER.unpack_from(data, at + _HEADER.size)
            start = at + _HEADER.size + _OPTION_HEADER.size
            if link == index and start + length <= at + size:
                yield from _options(data[start : start + length])
        at += (size + 3) & ~3


def _options(data: bytes) -> Iterator[Names]:
    at = 0
    while at + _LIFETIME.size <= len(data):
        kind, units, _, seconds = _LIFETIME.unpack_from(data, at)
        end = at + units * 8
        if not units or end > len(data):
            return
        body = data[at + _LIFETIME.size : end]
        if kind == _SERVERS:
            listed = tuple(IPv6Address(body[start : start + 16]) for start in range(0, len(body) - 15, 16))
            yield Names(servers=listed, seconds=seconds)
        elif kind == _DOMAINS:
            yield Names(domains=body, seconds=seconds)
        at = end
