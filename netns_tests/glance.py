"""A network namespace at a glance: its sysctls, and a digest of all that `ip`, `bridge` and `nft` would read.

Five programs that are started tell what snapshot.py wants to know and take twenty milliseconds of processor
time; the kernel gives the very messages that they read in a tenth of one. Where a digest is one that was seen
before, the programs would say what they said then, and need not be started.

So a digest covers every byte that they are given, but for what changes by itself, and what snapshot.py leaves
out too: counters, timers, ages. What is covered needlessly costs a start; what was left out wrongly would
hide a change. Formats: rtnetlink(7), linux/if_link.h, linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, cast

from netns_tests import node_init
from netns_tests.sysctls import Sysctls

Seen = TypeVar("Seen")

#: Attributes that are left out of a message, by number; where it is a mapping, those inside.
Mask = Mapping[int, "Mask | None"]


@dataclass(frozen=True, slots=True)
class Glance:
    """`digest` is None where the kernel was changing what it listed. `ruled`: nf_tables has a table."""

    digest: bytes | None
    ruled: bool
    sysctls: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A list of the kernel: which, of which family, bytes of its messages' head, what is left out."""

    kind: int
    family: int
    head: int
    mask: Mask
    more: bytes = b""


_IPV4, _IPV6, _BRIDGE = 2, 10, 7
_PORT_TIMERS: Mask = dict.fromkeys((21, 22, 23))  # IFLA_BRPORT_*: message age, forward delay, hold
_COUNTERS: Mask = {
    7: None, 23: None,  # IFLA_STATS, IFLA_STATS64
    26: {_IPV6: dict.fromkeys((3, 5, 6))},  # IFLA_AF_SPEC: statistics, stamps, statistics of ICMP
}  # fmt: skip
_BRIDGE_TIMERS: Mask = dict.fromkeys((16, 17, 18, 19, 48))  # IFLA_BR_*: four timers, how many were learned
#: IFLA_LINKINFO says what it is about: IFLA_INFO_KIND, IFLA_INFO_SLAVE_KIND.
_LINKINFO = 18
_IS_BRIDGE, _IS_PORT = b"\x0b\0\x01\0bridge\0", b"\x0b\0\x04\0bridge\0"

_ADDRESSES: Mask = {6: None}  # IFA_CACHEINFO
_NEIGHBOURS: Mask = {3: None}  # NDA_CACHEINFO
_CACHEINFO = 12  # of a route: users, last use, expiry, error, uses, then what only the kernel knows
_EXT_MASK = struct.pack("=HHI", 8, 29, 1 | 2)  # virtual functions, and the VLANs of ports

_LISTS = (
    _Asked(18, 0, 16, _COUNTERS, _EXT_MASK),  # RTM_GETLINK
    _Asked(18, _BRIDGE, 16, {**_COUNTERS, 12: _PORT_TIMERS}, _EXT_MASK),
    _Asked(22, _IPV4, 8, _ADDRESSES),  # RTM_GETADDR
    _Asked(22, _IPV6, 8, _ADDRESSES),
    _Asked(26, _IPV4, 12, {}),  # RTM_GETROUTE
    _Asked(26, _IPV6, 12, {}),
    _Asked(34, _IPV4, 12, {}),  # RTM_GETRULE
    _Asked(34, _IPV6, 12, {}),
    _Asked(30, _BRIDGE, 12, _NEIGHBOURS),  # RTM_GETNEIGH
)
_TABLES = _Asked(10 << 8 | 1, 0, 4, {})  # NFT_MSG_GETTABLE
_DONE, _ERROR, _ROUTE, _NETFILTER = 3, 2, 0, 12
_REQUEST, _INTERRUPTED = 0x301, 0x10


_READ = Sysctls()


def glance(netns: str) -> Glance:
    """Of the namespace that this file stands for."""

    def look(number: int) -> Glance:
        return Glance(_digest(), _ruled(), _READ.read(number))

    return _inside(netns, look)


def digest(netns: str) -> bytes | None:
    """As `glance` has it."""
    return _inside(netns, lambda _number: _digest())


def ruled(netns: str) -> bool:
    """Likewise."""
    return _inside(netns, lambda _number: _ruled())


def _inside(netns: str, look: Callable[[int], Seen]) -> Seen:
    """What it sees there, given the number of the namespace. A thread goes there: to this process nothing
    happens."""

    def there() -> Seen:
        handle = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            node_init.enter(handle)
            number = os.fstat(handle).st_ino
        finally:
            os.close(handle)
        return look(number)

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(there).result()


def _ruled() -> bool:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as channel:
        return any(kind != _ERROR for kind, _flags, _message in _messages(channel, _TABLES))


def _digest() -> bytes | None:
    whole = hashlib.sha256()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _ROUTE) as channel:
        for asked in _LISTS:
            for kind, flags, message in _messages(channel, asked):
                if flags & _INTERRUPTED or kind == _ERROR:
                    return None
                kept = b"".join(_kept(message, asked))
                whole.update(struct.pack("=HI", kind, len(kept)) + kept)
            whole.update(b"\0\0")
    return whole.digest()


def _messages(channel: socket.socket, asked: _Asked) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and content of each message of a list, with the last one, which says how it ended, where
    that was not well."""
    body = bytes([asked.family]).ljust(asked.head, b"\0") + asked.more
    channel.send(struct.pack("=IHHII", 16 + len(body), asked.kind, _REQUEST, 1, 0) + body)
    while True:
        data, at = channel.recv(1 << 20), 0
        while at < len(data):
            length, kind, flags = struct.unpack_from("=IHH", data, at)
            if kind == _DONE and not flags & _INTERRUPTED:
                return
            yield kind, flags, data[at + 16 : at + length]
            if kind in (_DONE, _ERROR):
                return
            at += (length + 3) & ~3


def _kept(message: bytes, asked: _Asked) -> Iterator[bytes]:
    yield message[: asked.head]
    for number, attribute in _attributes(message, asked.head):
        mask = asked.mask.get(number, {})
        if asked.kind == 18 and number == _LINKINFO:
            mask = {}
            if _IS_BRIDGE in attribute:
                mask[2] = _BRIDGE_TIMERS  # IFLA_INFO_DATA
            if _IS_PORT in attribute:
                mask[5] = _PORT_TIMERS  # IFLA_INFO_SLAVE_DATA
        if asked.kind == 26 and number == _CACHEINFO:
            yield attribute[:8] + attribute[16:20]
        else:
            yield from _without(attribute, mask)


def _without(attribute: bytes, mask: Mask | None) -> Iterator[bytes]:
    if mask is None:
        return
    if not mask:
        yield attribute
        return
    yield attribute[2:4]
    for number, inner in _attributes(attribute, 4):
        yield from _without(inner, mask.get(number, cast("Mask", {})))


def _attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= len(data):
        length, number = struct.unpack_from("=HH", data, at)
        yield number & 0x3FFF, data[at : at + length]
        at += (length + 3) & ~3
