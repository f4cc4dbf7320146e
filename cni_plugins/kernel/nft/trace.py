"""Where in the ruleset packets between two addresses end: `meta nftrace` in a table that goes with us.

The table has the flag `owner`: it is gone with the socket that made it, even if the process is killed (Linux
5.12). Its chains stand before all others (priority -350) of the bridge family and of the addresses' family;
nothing else is changed, and packets of others are not traced. Source: linux/netfilter/nf_tables.h, nft(8).
"""

import struct
from _socket import socket
from collections.abc import Iterator
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
from cni_plugins.kernel.netlink.socket import NETLINK_NETFILTER, open_socket
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip

_NEWTABLE, _NEWCHAIN, _NEWRULE, _TRACE = 0, 3, 6, 17
_OWNER = struct.pack(">I", 2)
_PRIORITY = struct.pack(">i", -350)
_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTRACE = 270, 1, 9
_META_NFTRACE, _NETWORK_HEADER = 12, 1
_T_TABLE, _T_CHAIN, _T_HANDLE, _T_TYPE, _T_VERDICT, _T_NFPROTO, _T_POLICY = 1, 2, 3, 4, 5, 15, 16
_BY_POLICY, _BY_RULE = 1, 3
_DROP = 0
_FAMILIES = {NFPROTO_INET: "inet", NFPROTO_IPV4: "ip", NFPROTO_IPV6: "ip6", NFPROTO_BRIDGE: "bridge"}
_HEADER = 20  # netlink's and netfilter's


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


def _equals(offset: int, value: bytes) -> list[bytes]:
    return [
        _expression(
            "payload",
            attribute(1, _u32(1)),
            attribute(2, _u32(_NETWORK_HEADER)),
            attribute(3, _u32(offset)),
            attribute(4, _u32(len(value))),
        ),
        _expression("cmp", attribute(1, _u32(1)), attribute(2, _u32(0)), nested(3, attribute(1, value))),
    ]


class Trace:
    """Traces what goes between two addresses, both ways, while the block runs. CniError 999 when the kernel
    does not.
    """

    __slots__ = ("_heard", "_owner")

    def __init__(self, namespace: Namespace, one: Ip, other: Ip) -> None:
        self._owner = Nfnetlink(namespace)
        self._heard: socket = open_socket(namespace, NETLINK_NETFILTER, 1 << 20)
        try:
            self._heard.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NFTRACE)
            for family in (NFPROTO_IPV4 if one.version == 4 else NFPROTO_IPV6, NFPROTO_BRIDGE):
                self._place(family, one, other)
        except (CniError, OSError):
            self.close()
            raise

    def _place(self, family: int, one: Ip, other: Ip) -> None:
        name = "mesokit-trace"
        hook = nested(4, attribute(1, _u32(0)), attribute(2, _PRIORITY))
        table = string(1, name) + attribute(2, _OWNER)
        chain = string(1, name) + string(3, "trace") + hook + string(7, "filter")
        offset = 12 if one.version == 4 else 8
        size = len(one.packed)
        mark = [
            _expression("immediate", attribute(1, _u32(1)), nested(2, attribute(1, b"\1"))),
            _expression("meta", attribute(2, _u32(_META_NFTRACE)), attribute(3, _u32(1))),
        ]
        messages = [(_NEWTABLE, table), (_NEWCHAIN, chain)]
        for source, target in ((one, other), (other, one)):
            parts = [*_equals(offset, source.packed), *_equals(offset + size, target.packed), *mark]
            messages.append((_NEWRULE, string(1, name) + string(2, "trace") + nested(4, *parts)))
        flags = nfnetlink.NLM_F_CREATE
        failed = self._owner.batch(
            [Message(nfnetlink.SUBSYS_NFTABLES, number, flags, family, body) for number, body in messages]
        )
        if failed:
            raise nfnetlink.failure("trace packets", next(iter(failed.values())))

    def __enter__(self) -> "Trace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._heard.close()
        self._owner.abandon()

    def drops(self) -> list[Drop]:
        """Where packets were dropped so far, each place once."""
        return list(dict.fromkeys(self._drops()))

    def _drops(self) -> Iterator[Drop]:
        self._heard.setblocking(False)
        with suppress(BlockingIOError):
            while data := self._heard.recv(1 << 16):
                size, kind = struct.unpack_from("=IH", data)
                if kind & 0xFF != _TRACE:
                    continue
                fields = attributes(data[:size], _HEADER)
                how = int.from_bytes(fields.get(_T_TYPE, b""), "big")
                verdict = attributes(fields.get(_T_VERDICT, b"")).get(1)
                policy = fields.get(_T_POLICY)
                by_rule = how == _BY_RULE and verdict is not None and int.from_bytes(verdict, "big") == _DROP
                by_policy = (
                    how == _BY_POLICY and policy is not None and int.from_bytes(policy, "big") == _DROP
                )
                if by_rule or by_policy:
                    handle = int.from_bytes(fields.get(_T_HANDLE, b""), "big") if by_rule else 0
                    yield Drop(
                        _FAMILIES.get(data[16], str(data[16])),
                        fields.get(_T_TABLE, b"").rstrip(b"\0").decode(),
                        fields.get(_T_CHAIN, b"").rstrip(b"\0").decode(),
                        handle,
                    )
