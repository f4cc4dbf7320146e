"""Routes."""

import errno
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from cni_plugins.kernel.netlink.codec import attributes, encode, number
from cni_plugins.kernel.netlink.layouts import ROUTE
from cni_plugins.kernel.netlink.route import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    Message,
    Netlink,
)
from cni_plugins.spec.result import Route
from cni_plugins.spec.values import Ip, IpInterface, IpNetwork, interface_of

_AF_INET, _AF_INET6 = 2, 10
_HEADER = struct.Struct("=BBBBBBBBI")
_NEXT_HOP = struct.Struct("=HBBi")
# linux/rtnetlink.h
MAIN_TABLE = 254
SCOPE_LINK, SCOPE_HOST = 253, 254
PROTOCOL_KERNEL, PROTOCOL_BOOT, PROTOCOL_ROUTER = 2, 3, 9  # router: of its advertisements
ROUTER_METRIC = 1024  # of IPv6 routes, unless somebody says otherwise (IP6_RT_PRIO_USER)
_UNICAST, _UNREACHABLE = 1, 7
#: RTN_* of routes that let nothing pass, as ip-route(8) calls them.
REFUSALS: Mapping[int, str] = {6: "blackhole", 7: "unreachable", 8: "prohibit"}
_CLONED = 0x200  # RTM_F_CLONED: a cached next hop
_FOR_EVER = 0xFFFFFFFF
_LAST = 0xFFFFFFFF  # the greatest metric
_RTA_SRC, _RTA_IIF = 2, 3
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS = 1, 4, 5, 6, 7, 8
_RTA_MULTIPATH, _RTA_TABLE = 9, 15
_READ = frozenset(
    (_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS, _RTA_MULTIPATH, _RTA_TABLE)
)  # a route has a dozen
_RTAX_MTU, _RTAX_ADVMSS = 2, 8
_LOOKUP_TABLE, _FIB_MATCH = 0x1000, 0x2000
_GONE = frozenset((errno.ESRCH, errno.ENODEV, errno.ENOENT, errno.ENETUNREACH))
_NO_TABLE = frozenset((errno.ENOENT,))
_NO_WAY = frozenset((errno.EXDEV, errno.EPERM))
_NO_ROUTE = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL))
# Addresses that are nobody's: reserved for future use, and for documentation (RFC 1112, 3849, 6666).
_NOBODY: Mapping[int, tuple[Ip, ...]] = {
    4: (IPv4Address("240.0.0.1"), IPv4Address("192.0.2.1")),
    6: (IPv6Address("100::1"), IPv6Address("2001:db8::1")),
}


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A unicast route as the kernel tells it; `index` is the link (of several next hops, the first one's),
    `source` its preferred source address.
    """

    route: Route
    index: int
    protocol: int
    source: Ip | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A route that lets nothing pass: `kind` is blackhole, unreachable or prohibit."""

    kind: str
    network: IpNetwork
    table: int


def _body(route: Route, index: int, source: Ip | None, protocol: int) -> bytes:
    table = MAIN_TABLE if route.table is None else route.table
    scope = route.scope
    if scope is None:
        scope = SCOPE_LINK if route.gw is None and route.dst.version == 4 else 0
    fields = {
        "family": _AF_INET if route.dst.version == 4 else _AF_INET6,
        "dst_len": route.dst.network.prefixlen,
        "table": table if table < 256 else 0,
        "proto": protocol,
        "scope": scope,
        "type": _UNICAST,
    }
    listed: list[tuple[str, object]] = [("RTA_OIF", index)] if index else []
    if route.dst.network.prefixlen:
        listed.append(("RTA_DST", str(route.dst.network.network_address)))
    if route.gw is not None:
        listed.append(("RTA_GATEWAY", str(route.gw)))
    if route.priority is not None:
        listed.append(("RTA_PRIORITY", route.priority))
    if source is not None:
        listed.append(("RTA_PREFSRC", str(source)))
    if table >= 256:
        listed.append(("RTA_TABLE", table))
    metrics = [("RTAX_MTU", route.mtu)] * bool(route.mtu) + [("RTAX_ADVMSS", route.advmss)] * bool(
        route.advmss
    )
    if metrics:
        listed.append(("RTA_METRICS", {"attrs": metrics}))
    return encode(ROUTE, fields, listed)


def add(route: Route, index: int, source: Ip | None = None, *, protocol: int = PROTOCOL_BOOT) -> Message:
    """Add a route by the link `index`; `protocol` is whose it is (RTPROT_*).

    Not exclusive, as the reference: a second route of the same prefix by another way stands before the first
    (IPv4) or shares with it (IPv6), so that two networks may both bring a default route. The very same route
    is there once.
    """
    what = f"add route to {route.dst}" + (f" by {route.gw}" if route.gw is not None else "")
    return Message(
        what, RTM_NEWROUTE, NLM_F_CREATE, _body(route, index, source, protocol), frozenset((errno.EEXIST,))
    )


def replace(route: Route, index: int) -> Message:
    """Put a route in the place of the one to the same destination with the same table and priority, or add
    it: no packet is without a route meanwhile.
    """
    what = f"replace the route to {route.dst}"
    return Message(what, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _body(route, index, None, PROTOCOL_BOOT))


def delete(route: Route, index: int, *, protocol: int = PROTOCOL_BOOT) -> Message:
    """Take a route of that protocol away; that it is gone already is an answer."""
    return Message(
        f"delete route to {route.dst}", RTM_DELROUTE, 0, _body(route, index, None, protocol), _GONE
    )


def _unreachable(destination: IpInterface, seconds: int | None, *, last: bool) -> bytes:
    network = destination.network
    fields = {
        "family": _AF_INET if destination.version == 4 else _AF_INET6,
        "dst_len": network.prefixlen,
        "table": MAIN_TABLE,
        "proto": PROTOCOL_BOOT,
        "type": _UNREACHABLE,
    }
    listed: list[tuple[str, object]] = [("RTA_DST", str(network.network_address))]
    if last:
        listed.append(("RTA_PRIORITY", _LAST))
    if seconds is not None:
        listed.append(("RTA_EXPIRES", seconds))
    return encode(ROUTE, fields, listed)


def unreachable(destination: IpInterface, seconds: int = _FOR_EVER, *, last: bool = False) -> Message:
    """Answer what goes to a network, and not to a narrower one that a link has, with an error: for so many
    seconds, or for ever. In the place of such a route that is there; `last`: behind any other route to the
    network.
    """
    body = _unreachable(destination, None if seconds == _FOR_EVER else seconds, last=last)
    what = f"make {destination.network} unreachable"
    return Message(what, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def reachable(destination: IpInterface, *, last: bool = False) -> Message:
    """Take the route of `unreachable` away; that it is gone already is an answer."""
    what = f"delete the unreachable route to {destination.network}"
    return Message(what, RTM_DELROUTE, 0, _unreachable(destination, None, last=last), _GONE)


def every(
    netlink: Netlink, version: int, *, table: int | None = None, protocol: int = 0, index: int = 0
) -> list[KernelRoute]:
    """The unicast routes of a family: of all tables or one, of every origin or one (RTPROT_*), by any link or
    one; the kernel picks. CniError 999.
    """
    fields = {"family": _AF_INET if version == 4 else _AF_INET6, "proto": protocol}
    listed: list[tuple[str, object]] = [] if table is None else [("RTA_TABLE", table)]
    if index:
        listed.append(("RTA_OIF", index))
    body = encode(ROUTE, fields, listed)
    found = [parse(packet) for packet in netlink.dump("list routes", RTM_GETROUTE, body, _NO_TABLE)]
    return [
        item
        for item in found
        if item is not None and table in {None, item.route.table} and protocol in {0, item.protocol}
    ]


def packets(netlink: Netlink) -> list[bytes]:
    """The kernel's messages of all routes of the main table and the others, of all families (see `way`).
    CniError 999.
    """
    return netlink.dump("list routes", RTM_GETROUTE, bytes(_HEADER.size))


def not_advertised(netlink: Netlink, listed: Sequence[Route], index: int) -> list[Route]:
    """Those of `listed` that no router's advertisement put there: adding one of these would make it stay when
    the router has gone. Such a one has a link-local gateway, so the kernel is hardly ever asked. CniError
    999.
    """
    if not any(route.gw is not None and route.gw.version == 6 and route.gw.is_link_local for route in listed):
        return list(listed)
    there = {
        (item.route.dst.network, item.route.gw)
        for item in every(netlink, 6, protocol=PROTOCOL_ROUTER)
        if item.index == index
    }
    return [route for route in listed if (route.dst.network, route.gw) not in there]


def default_link(netlink: Netlink, version: int) -> int:
    """The index of the link that the default route of the main table leaves by (the first one's, of several;
    the first next hop's), 0 without one. CniError 999.

    A dump would hold every route of a node, 20,000 of a router. So the kernel is asked which route leads to
    an address that hardly any other route covers; only if another one does, or another table's, it is a dump.
    """
    for probe in _NOBODY[version]:
        found = matched(netlink, probe)
        if found is not None and not found.route.dst.network.prefixlen and found.route.table == MAIN_TABLE:
            return found.index
    defaults = [
        item
        for item in every(netlink, version, table=MAIN_TABLE)
        if not item.route.dst.network.prefixlen and item.index
    ]
    return min(defaults, key=lambda item: item.route.priority or 0).index if defaults else 0


def _question(destination: bytes, flags: int = 0, *, source: bytes = b"") -> bytes:
    """What asks for the way to an address, from another one where that is given."""
    family = _AF_INET if len(destination) == 4 else _AF_INET6
    body = _HEADER.pack(family, 8 * len(destination), 8 * len(source), 0, 0, 0, 0, 0, flags)
    for kind, raw in ((_RTA_DST, destination), (_RTA_SRC, source)):
        if raw:
            body += struct.pack("=HH", 4 + len(raw), kind) + raw
    return body


def matched(netlink: Netlink, destination: Ip) -> KernelRoute | None:
    """The route as it stands in its table that leads to `destination`, None when there is none."""
    body = _question(destination.packed, _FIB_MATCH | (_LOOKUP_TABLE if destination.version == 4 else 0))
    doing = f"find the route to {destination}"
    (answer,) = netlink.request(Message(doing, RTM_GETROUTE, 0, body, _NO_ROUTE))
    return parse(answer.packet) if answer.packet else None


def is_routed(netlink: Netlink, destination: IpInterface) -> bool:
    """Whether what goes to a network has a route of that network or a narrower one, so that it takes no
    default route. CniError 999.
    """
    body = _question(destination.network.network_address.packed, _FIB_MATCH)
    doing = f"find the route to {destination.network}"
    (answer,) = netlink.request(Message(doing, RTM_GETROUTE, 0, body, _NO_ROUTE))
    if not answer.packet:  # an unreachable one answers so, and none at all otherwise
        return answer.error == errno.EHOSTUNREACH
    length: int = _HEADER.unpack_from(answer.packet, 16)[1]
    return length >= destination.network.prefixlen


def towards(netlink: Netlink, destination: Ip) -> int:
    """The index of the link that packets to `destination` leave by, 0 without a route. CniError 999."""
    body = _question(destination.packed)
    (answer,) = netlink.request(Message(f"find the way to {destination}", RTM_GETROUTE, 0, body, _NO_ROUTE))
    if not answer.packet:
        return 0
    return number(attributes(answer.packet, 16 + _HEADER.size), _RTA_OIF)


def version_of(packet: bytes) -> int:
    """4 or 6 for an RTM_NEWROUTE message, 0 for one of another family."""
    return {_AF_INET: 4, _AF_INET6: 6}.get(packet[16], 0)


def length_of(packet: bytes) -> int:
    """Of the prefix of an RTM_NEWROUTE message."""
    return packet[17]


def parse(packet: bytes) -> KernelRoute | None:
    """The route of an RTM_NEWROUTE message, None for what is no unicast route."""
    family, length, _, _, table, protocol, scope, kind, flags = _HEADER.unpack_from(packet, 16)
    if kind != _UNICAST or flags & _CLONED:
        return None
    found = attributes(packet, 16 + _HEADER.size, _READ)
    raw_metrics = found.get(_RTA_METRICS)
    metrics = attributes(raw_metrics) if raw_metrics else {}
    raw = found.get(_RTA_DST, bytes(4 if family == _AF_INET else 16))
    route = Route(
        dst=interface_of(raw, length),
        gw=_ip(found.get(_RTA_GATEWAY)),
        mtu=number(metrics, _RTAX_MTU) or None,
        advmss=number(metrics, _RTAX_ADVMSS) or None,
        priority=number(found, _RTA_PRIORITY) or None,
        table=number(found, _RTA_TABLE) or table,
        scope=scope,
    )
    index = number(found, _RTA_OIF)
    hops = found.get(_RTA_MULTIPATH, b"")
    if not index and len(hops) >= _NEXT_HOP.size:
        index = _NEXT_HOP.unpack_from(hops)[3]
    return KernelRoute(route, index, protocol, _ip(found.get(_RTA_PREFSRC)))


def refusal(packet: bytes) -> Refusal | None:
    """The route of an RTM_NEWROUTE message that lets nothing pass, None for another."""
    family, length, _, _, table, _, _, kind, _ = _HEADER.unpack_from(packet, 16)
    if kind not in REFUSALS or family not in {_AF_INET, _AF_INET6}:
        return None
    found = attributes(packet, 16 + _HEADER.size, _READ)
    raw = found.get(_RTA_DST, bytes(4 if family == _AF_INET else 16))
    return Refusal(REFUSALS[kind], interface_of(raw, length).network, number(found, _RTA_TABLE) or table)


def forwarded(netlink: Netlink, source: Ip, destination: Ip, incoming: int) -> int:
    """0, or the errno with which the kernel would refuse to forward a packet that comes in by the link
    `incoming`: its rules and routes, and whether it believes the source (rp_filter). CniError 999.
    """
    body = _question(destination.packed, source=source.packed) + struct.pack("=HHI", 8, _RTA_IIF, incoming)
    doing = f"find the way from {source} to {destination}"
    (answer,) = netlink.request(Message(doing, RTM_GETROUTE, 0, body, _NO_ROUTE | _NO_WAY))
    if answer.packet and _HEADER.unpack_from(answer.packet, 16)[7] in REFUSALS:
        return errno.EINVAL
    return answer.error


def way(packet: bytes) -> tuple[bytes, int, bytes | None, int] | None:
    """Of a unicast route's RTM_NEWROUTE message the destination as packed bytes, the length of its prefix,
    the gateway and the link: for who compares many. None for another route.
    """
    family, length, _, _, _, _, _, kind, flags = _HEADER.unpack_from(packet, 16)
    if kind != _UNICAST or flags & _CLONED:
        return None
    found = attributes(packet, 16 + _HEADER.size, _READ)
    to = found.get(_RTA_DST, bytes(4 if family == _AF_INET else 16))
    return to, length, found.get(_RTA_GATEWAY), number(found, _RTA_OIF)


@lru_cache(maxsize=512)
def _ip(raw: bytes | None) -> Ip | None:
    if raw is None:
        return None
    return IPv4Address(raw) if len(raw) == 4 else IPv6Address(raw)
