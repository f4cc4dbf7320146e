"""Netfilter netlink: nf_tables and connection tracking of a namespace.

The kernel serves a netfilter request inside sendmsg(2), so that reading is never a wait, and no deadline is
needed here.

A batch (NFNL_MSG_BATCH_BEGIN … END) is one nf_tables transaction: the kernel tries every message, reports
each one that fails, and commits only when none does. Source: linux/netfilter/nfnetlink.h.
"""

import errno
import itertools
import os
import struct
from _socket import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cni_plugins.kernel.netlink.codec import attribute, attributes
from cni_plugins.kernel.netlink.socket import (
    HEADER,
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Request,
    Socket,
    failure,
    open_socket,
)
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

__all__ = ["NLM_F_CREATE", "NLM_F_EXCL", "Answer", "Message", "Nfnetlink", "failure"]

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_BRIDGE, NFPROTO_IPV6 = 1, 2, 7, 10
SUBSYS_CTNETLINK, SUBSYS_NFTABLES = 1, 10

_BATCH_BEGIN, _BATCH_END, _BATCH_GENID = 0x10, 0x11, 1
_GETGEN, _GEN_ID = 16, 1
_QUEUE, _ANSWER = 1 << 23, 1 << 10
_FAMILY = struct.Struct(">BBH")
_BODY = HEADER.size + _FAMILY.size
_SPARES = 8

# Of this process's own namespace; (device, inode, process) tells whose and from which side of a fork.
# Each user of a kept socket numbers its requests elsewhere, so that an answer left unread is nobody's.
_SEQUENCES = 0x7FFF0000
_sequences = itertools.count(0, 1 << 16)
_spare: dict[tuple[int, int, int], list[socket]] = {}


@dataclass(frozen=True, slots=True)
class Message:
    """A request: subsystem and message number, flags besides NLM_F_REQUEST, family, attributes."""

    subsystem: int
    number: int
    flags: int
    family: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """0 or an errno, and the bodies (after nfgenmsg) of what the kernel sent."""

    error: int
    bodies: tuple[bytes, ...] = ()


class Nfnetlink:
    """A netfilter netlink socket in one namespace, for one thread at a time.

    On a kernel without netfilter netlink nothing is found, so that whatever removes things is done at once,
    and changes are refused (CniError 999).
    """

    __slots__ = ("_place", "_socket", "namespace")

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self._place = (namespace.device, namespace.inode, os.getpid())
        channel: socket | None
        try:
            channel = _spare[self._place].pop()
        except (KeyError, IndexError):
            channel = _open(namespace)
        first = next(_sequences) & _SEQUENCES
        self._socket = None if channel is None else Socket(channel, sequence=first)

    def __enter__(self) -> "Nfnetlink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def supported(self) -> bool:
        """Whether this kernel has netfilter netlink."""
        return self._socket is not None

    def close(self) -> None:
        """The socket is kept for the next one, unless an exchange broke off on it: the kernel may be in the
        middle of a dump then, and would refuse the next.
        """
        if self._socket is None:
            return
        if self._socket.whole and self._at_home():
            spares = _spare.setdefault(self._place, [])
            if len(spares) < _SPARES:
                spares.append(self._socket.channel)
                return
        self._socket.close()

    def abandon(self) -> None:
        """Close the socket for good: what it owns in the kernel goes with it."""
        if self._socket is not None:
            self._socket.close()

    def _at_home(self) -> bool:
        status = Path("/proc/self/ns/net").stat()
        return (status.st_dev, status.st_ino, os.getpid()) == self._place

    def request(self, messages: Sequence[Message]) -> list[Answer]:
        """Serve independent requests in order; an error of one is in its answer and stops none of the
        others.
        """
        if self._socket is None:
            return [Answer(errno.ENOENT)] * len(messages)
        replies = self._socket.exchange([_request(item, NLM_F_ACK) for item in messages])
        return [Answer(item.error, tuple(packet[_BODY:] for packet in item.packets)) for item in replies]

    def generation(self) -> int:
        """The number of the ruleset: it changes with every transaction of anybody. 0 without nf_tables."""
        (answer,) = self.request([Message(SUBSYS_NFTABLES, _GETGEN, 0, 0, b"")])
        found = attributes(answer.bodies[0]) if answer.bodies else {}
        return int.from_bytes(found.get(_GEN_ID, b""), "big")

    def first(self, message: Message) -> list[bytes]:
        """The bodies of the first objects that `message` selects; costs the same for one and for thousands.
        CniError 999.
        """
        opened = _open(self.namespace)
        if opened is None:
            return []
        try:
            return [packet[_BODY:] for packet in Socket(opened).begin_dump(_request(message))]
        finally:
            opened.close()

    def batch(self, messages: Sequence[Message], generation: int | None = None) -> dict[int, int]:
        """One nf_tables transaction: {index of a message: errno} of what failed, empty when all of it is
        done. With `generation` it is only done while the ruleset has that number; else {-1: ERESTART}.

        CniError 999 when the kernel refused the transaction itself.
        """
        if not messages:
            return {}
        if self._socket is None:
            raise CniError(
                Code.INTERNAL, "this kernel has no nf_tables", "load it, or do without what needs it"
            )
        limit = _FAMILY.pack(0, 0, SUBSYS_NFTABLES)
        begin = limit
        if generation is not None:
            begin += attribute(_BATCH_GENID, generation.to_bytes(4, "big"))
        *most, last = messages
        replies = self._socket.transaction(
            [
                Request(_BATCH_BEGIN, 0, begin),
                *(_request(item) for item in most),
                _request(last, NLM_F_ACK),
                Request(_BATCH_END, 0, limit),
            ],
            len(messages) * _ANSWER,
        )
        failed = {number - 1: reply for number, reply in replies.items() if reply.error}
        for number, reply in failed.items():
            if generation is not None and reply.error == errno.ERESTART:
                return {-1: reply.error}
            if not 0 <= number < len(messages):
                raise failure("change nf_tables", reply.error, reply.text)
        return {number: reply.error for number, reply in failed.items()}

    def dump(self, message: Message) -> list[bytes]:
        """The bodies of every object that `message` selects; [] when it names nothing that exists. CniError
        999.
        """
        if self._socket is None:
            return []
        reply = self._socket.dump(_request(message))
        if reply.error in {errno.ENOENT, errno.EINVAL}:  # EINVAL: the kernel has no such subsystem
            return []
        if reply.error not in {0, errno.EINTR}:
            raise failure("list what netfilter holds", reply.error, reply.text)
        return [packet[_BODY:] for packet in reply.packets]


def _request(message: Message, flags: int = 0) -> Request:
    body = _FAMILY.pack(message.family, 0, 0) + message.body
    return Request(message.subsystem << 8 | message.number, message.flags | flags, body)


def _open(namespace: Namespace) -> socket | None:
    try:
        return open_socket(namespace, NETLINK_NETFILTER, _QUEUE)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return None
        raise CniError(Code.INTERNAL, "cannot open a netfilter netlink socket", str(error)) from error
