"""Where packets go in the ruleset: `meta nftrace`, set for some by a table that goes with us.

The table has the flag `owner`: it is gone with the socket that made it, even if the process is killed (Linux
5.12), and it has a name that nobody else has, so that any number of traces run at once. Its first chains (a
priority before all others) mark packets where they come in, where this host sends its own, and before they
are forwarded, where destinations are translated already; a limit says how many. Its last chains have no rule:
that packets come by them tells how far they got. Nothing is changed but the mark.

The kernel tells of every base chain that a marked packet comes to the end of, of every rule of any chain that
matches it, and of every jump's return; who listens hears of the packets of others, too. Source:
linux/netfilter/nf_tables.h, net/netfilter/nf_tables_trace.c, nft(8).
"""

import errno
import os
import struct
from _socket import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attribute, attributes, nested, string
from cni_plugins.kernel.netlink.netfilter import (
    NFPROTO_BRIDGE,
    NFPROTO_INET,
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    Message,
    Nfnetlink,
)
from cni_plugins.kernel.netlink.socket import NETLINK_NETFILTER, NLM_F_APPEND, open_socket
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip

PREFIX = "mesokit-trace-"  # of every trace's table

_NEWTABLE, _NEWCHAIN, _NEWRULE, _TRACE = 0, 3, 6, 17
_OWNER = struct.pack(">I", 2)
_FIRST, _LAST = -350, 1000
_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTRACE = 270, 1, 9
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_META_PROTOCOL, _META_NFTRACE, _META_L4PROTO, _META_PKTTYPE = 1, 12, 16, 19
_EQUAL, _OTHER = 0, 1
_BROADCAST, _MULTICAST = b"\1", b"\2"  # linux/if_packet.h
_ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")  # NF_INET_*
_MARKING = ("prerouting", "forward", "output")
_SEEING = ("input", "forward", "postrouting")
(_T_TABLE, _T_CHAIN, _T_HANDLE, _T_TYPE, _T_VERDICT, _T_ID) = range(1, 7)
_T_NETWORK, _T_TRANSPORT, _T_IIF, _T_OIF, _T_POLICY = 8, 9, 10, 12, 16
_KINDS = {1: "policy", 2: "return", 3: "rule"}
_VERDICTS = {
    0: "drop",
    1: "accept",
    2: "stolen",
    3: "queue",
    -1: "continue",
    -2: "break",
    -3: "jump",
    -4: "goto",
    -5: "return",
}
_FAMILIES = {NFPROTO_INET: "inet", NFPROTO_IPV4: "ip", NFPROTO_IPV6: "ip6", NFPROTO_BRIDGE: "bridge"}
_HEADER = 20  # netlink's and netfilter's


@dataclass(frozen=True, slots=True)
class Match:
    """Packets from or to `one`; `other`, if given, is at the other end. `protocol` is an IP protocol number,
    0 for all; `port` that of either end, 0 for all.
    """

    one: Ip
    other: Ip | None = None
    protocol: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """A packet came by a chain. `packet` numbers it (until the kernel uses the number again). `kind` is
    policy, return or rule; `handle` that of the rule, 0 for none; `verdict` drop, accept, continue, jump,
    goto, return, … and `target` the chain of a jump. `iif` and `oif` are indices of links, 0 for none.
    Headers, as bytes, come with the first event of a packet in each base chain.
    """

    packet: int
    family: str
    table: str
    chain: str
    kind: str
    handle: int
    verdict: str
    target: str
    iif: int
    oif: int
    network: bytes
    transport: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """`handle` is that of the rule, 0 for the chain's policy."""

    family: str
    table: str
    chain: str
    handle: int


def _u32(number: int) -> bytes:
    return struct.pack(">I", number)


def _expression(name: str, *fields: bytes) -> bytes:
    return nested(1, string(1, name), nested(2, *fields))


def _compared(value: bytes, how: int = _EQUAL) -> bytes:
    return _expression("cmp", attribute(1, _u32(1)), attribute(2, _u32(how)), nested(3, attribute(1, value)))


def _equals(base: int, offset: int, value: bytes) -> list[bytes]:
    numbers = (1, base, offset, len(value))
    fields = [attribute(kind, _u32(number)) for kind, number in enumerate(numbers, start=1)]
    return [_expression("payload", *fields), _compared(value)]


def _meta(key: int, *values: bytes, how: int = _EQUAL) -> list[bytes]:
    loaded = _expression("meta", attribute(2, _u32(key)), attribute(1, _u32(1)))
    return [loaded, *(_compared(value, how) for value in values)]


def _mark(rate: int) -> Iterator[bytes]:
    if rate:
        numbers = struct.pack(">Q", rate), struct.pack(">Q", 1), _u32(rate), _u32(0), _u32(0)
        yield _expression("limit", *(attribute(kind, raw) for kind, raw in enumerate(numbers, start=1)))
    yield _expression("immediate", attribute(1, _u32(1)), nested(2, attribute(1, b"\1")))
    yield _expression("meta", attribute(2, _u32(_META_NFTRACE)), attribute(3, _u32(1)))


def _rules(match: Match) -> Iterator[list[bytes]]:
    """What to look at, for each direction and end that the port may be of."""
    version = match.one.version
    offset, size = (12, 4) if version == 4 else (8, 16)
    for first, second in ((0, size), (size, 0)):
        parts = _meta(_META_PROTOCOL, _ETHERTYPES[version])
        # A bridge copies these for each of its ports, and neighbours look for each other all the time.
        parts += _meta(_META_PKTTYPE, _BROADCAST, _MULTICAST, how=_OTHER)
        parts += _equals(_NETWORK_HEADER, offset + first, match.one.packed)
        if match.other is not None:
            parts += _equals(_NETWORK_HEADER, offset + second, match.other.packed)
        if match.protocol:
            parts += _meta(_META_L4PROTO, bytes((match.protocol,)))
        for place in (0, 2) if match.port else ():
            yield [*parts, *_equals(_TRANSPORT_HEADER, place, match.port.to_bytes(2, "big"))]
        if not match.port:
            yield parts


class Trace:
    """Traces what matches, while the block runs: at most `rate` packets a second in each direction and
    chain, any number for 0. CniError 999 when the kernel does not.
    """

    __slots__ = ("_heard", "_owner", "lost", "table")

    def __init__(self, namespace: Namespace, matches: Sequence[Match], rate: int = 0) -> None:
        self.table = f"{PREFIX}{os.urandom(4).hex()}"
        self.lost = 0  # times that the kernel had more to tell than there was room for
        try:
            self._owner = Nfnetlink(namespace)
            self._heard: socket = open_socket(namespace, NETLINK_NETFILTER, 1 << 21)
        except (CniError, OSError) as error:
            if os.strerror(errno.EPERM) in str(error):
                raise _refused(errno.EPERM) from error
            raise
        try:
            self._heard.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTRACE)
            self._heard.setblocking(False)
            for version in sorted({item.one.version for item in matches}):
                of_version = [item for item in matches if item.one.version == version]
                self._place(NFPROTO_IPV4 if version == 4 else NFPROTO_IPV6, of_version, rate)
            self._place(NFPROTO_BRIDGE, matches, rate)
        except (CniError, OSError):
            self.close()
            raise

    def _place(self, family: int, matches: Sequence[Match], rate: int) -> None:
        flags = nfnetlink.NLM_F_CREATE
        messages = [(_NEWTABLE, string(1, self.table) + attribute(2, _OWNER))]
        for hooks, priority in ((_MARKING, _FIRST), (_SEEING, _LAST)):
            for hook in hooks:
                name = hook if priority == _LAST else f"mark-{hook}"
                where = nested(
                    4, attribute(1, _u32(_HOOKS.index(hook))), attribute(2, struct.pack(">i", priority))
                )
                chain = string(1, self.table) + string(3, name) + where + string(7, "filter")
                messages.append((_NEWCHAIN, chain))
        for hook in _MARKING:
            for match in matches:
                for parts in _rules(match):
                    body = string(1, self.table) + string(2, f"mark-{hook}")
                    messages.append((_NEWRULE, body + nested(4, *parts, *_mark(rate))))
        failed = self._owner.batch(
            [
                Message(
                    nfnetlink.SUBSYS_NFTABLES,
                    number,
                    flags | (NLM_F_APPEND if number == _NEWRULE else 0),
                    family,
                    body,
                )
                for number, body in messages
            ]
        )
        if failed:
            raise _refused(next(iter(failed.values())))

    def __enter__(self) -> "Trace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The kernel takes the table away."""
        self._heard.close()
        self._owner.abandon()

    def fileno(self) -> int:
        """Readable when there are events, for select(2)."""
        return self._heard.fileno()

    def events(self) -> Iterator[Event]:
        """What is there to hear, of this trace and of others. Never waits."""
        while True:
            try:
                data = self._heard.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            offset = 0
            while offset + _HEADER <= len(data):
                size, kind = struct.unpack_from("=IH", data, offset)
                if kind & 0xFF == _TRACE:
                    yield _event(data[offset : offset + size])
                offset += max(_HEADER, (size + 3) & ~3)

    def drops(self) -> list[Drop]:
        """Where packets were dropped so far, each place once."""
        return list(
            dict.fromkeys(
                Drop(item.family, item.table, item.chain, item.handle)
                for item in self.events()
                if item.verdict == "drop"
            )
        )


def _refused(code: int) -> CniError:
    if code in {errno.EPERM, errno.EACCES}:
        return CniError(Code.INTERNAL, "tracing packets needs root (CAP_NET_ADMIN)")
    found = nfnetlink.failure("trace packets", code)
    return CniError(found.code, found.msg, "it needs nf_tables with tables that have an owner: Linux 5.12")


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _event(message: bytes) -> Event:
    fields = attributes(message, _HEADER)
    kind = _KINDS.get(_number(fields.get(_T_TYPE, b"")), "")
    verdict = attributes(fields.get(_T_VERDICT, b""))
    code = verdict.get(1, fields.get(_T_POLICY, b"") if kind == "policy" else b"")
    named = int.from_bytes(code, "big", signed=True) if code else -1
    text = ""
    with suppress(UnicodeDecodeError):
        text = verdict.get(2, b"").rstrip(b"\0").decode()
    return Event(
        packet=_number(fields.get(_T_ID, b"")),
        family=_FAMILIES.get(message[16], str(message[16])),
        table=fields.get(_T_TABLE, b"").rstrip(b"\0").decode(errors="replace"),
        chain=fields.get(_T_CHAIN, b"").rstrip(b"\0").decode(errors="replace"),
        kind=kind,
        handle=_number(fields.get(_T_HANDLE, b"")) if kind == "rule" else 0,
        verdict=_VERDICTS.get(named, f"verdict {named}"),
        target=text,
        iif=_number(fields.get(_T_IIF, b"")),
        oif=_number(fields.get(_T_OIF, b"")),
        network=fields.get(_T_NETWORK, b""),
        transport=fields.get(_T_TRANSPORT, b""),
    )
