"""Who changes nf_tables: notifications, which come to a multicast group without being asked for.

The kernel tells every change of any ruleset of the namespace, transaction by transaction; the last message of
one says which process made it. Sources: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h,
nf_tables_gen_notify in the kernel.
"""

import errno
import struct
from _socket import AF_NETLINK, SO_RCVBUF, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket
from collections.abc import Iterator

from cni_plugins.kernel.netlink.codec import attributes
from cni_plugins.kernel.netlink.socket import NETLINK_NETFILTER
from cni_plugins.kernel.nft.elements import TABLE

_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP = 270, 1, 7
_SUBSYSTEM, _NEWGEN = 10, 15
_REMOVALS = frozenset((2, 5, 8, 11, 14))  # of a table, chain, rule, set, element
_TABLE_NAME, _GEN_PROCESS = 1, 2
_HEADER = struct.Struct("=IHHII")
_BODY = _HEADER.size + 4
_OURS = TABLE.encode() + b"\0"
_RECEIVE, _QUEUE = 1 << 16, 1 << 20


class Changes:
    """What is removed from our tables in this process's namespace, from now on."""

    __slots__ = ("_harmed", "_socket")

    def __init__(self, opened: socket) -> None:
        self._socket = opened
        self._harmed = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def removals(self) -> Iterator[int]:
        """The processes that removed something of ours since the last call, as the kernel numbers them in the
        first pid namespace; 0 for news that were lost. Never waits.
        """
        while True:
            try:
                data = self._socket.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return
                yield 0
                continue
            for kind, body in _messages(data):
                if kind in _REMOVALS:
                    self._harmed = self._harmed or attributes(body).get(_TABLE_NAME) == _OURS
                elif kind == _NEWGEN:
                    if self._harmed:
                        yield int.from_bytes(attributes(body).get(_GEN_PROCESS, b""), "big")
                    self._harmed = False


def watch() -> Changes | None:
    """Begin to hear; None where the kernel has no nf_tables."""
    opened = subscribed(_QUEUE)
    return None if opened is None else Changes(opened)


def subscribed(queue: int, *options: int) -> socket | None:
    """A socket to which changes of nf_tables are told, and which never waits. `queue`: bytes of news that may
    wait in it; `options` of netlink(7) to set. None where the kernel cannot tell.
    """
    try:
        opened = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError:
        return None
    try:
        opened.setsockopt(SOL_SOCKET, SO_RCVBUF, queue)
        opened.bind((0, 0))
        for option in options:
            opened.setsockopt(_SOL_NETLINK, option, 1)
        opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
        opened.setblocking(False)
    except OSError:
        opened.close()
        return None
    return opened


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The nf_tables messages of a datagram: number and attributes."""
    offset = 0
    while offset + _BODY <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _BODY:
            return
        if kind >> 8 == _SUBSYSTEM:
            yield kind & 0xFF, data[offset + _BODY : offset + length]
        offset += (length + 3) & ~3
