"""Netfilter netlink: a socket in a namespace, requests and nf_tables batches, their answers.

The kernel serves a netfilter request inside sendmsg(2): when that returns, every answer already waits in the
receive queue, so that reading is never a wait, and no deadline is needed here. Only a dump is read in turns.

A batch (NFNL_MSG_BATCH_BEGIN … END) is one nf_tables transaction: the kernel tries every message, reports
each one that fails, and commits only when none does.
"""

import errno
import itertools
import os
import struct
from _socket import AF_NETLINK, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

NFPROTO_INET, NFPROTO_IPV4, NFPROTO_BRIDGE, NFPROTO_IPV6 = 1, 2, 7, 10
SUBSYS_CTNETLINK, SUBSYS_NFTABLES = 1, 10

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x001, 0x004, 0x300
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
_NLM_F_DUMP_INTR = 0x010
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NLA_F_NESTED, _NLA_TYPE = 0x8000, 0x3FFF
_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _QUEUE = 32, 33, 1 << 23

_HEADER = struct.Struct("=IHHII")
_FAMILY = struct.Struct(">BBH")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE = 1 << 18
_DUMP_TRIES = 5
_SPARES = 8
_TOGETHER = 64  # as many answers as a socket's receive queue holds with certainty

# Of this process's own namespace; (device, inode, process) tells whose and from which side of a fork.
# Each user of a kept socket numbers its requests elsewhere, so that an answer left unread is nobody's.
_SEQUENCES = 0x7FFF0000
_sequences = itertools.count(0, 1 << 16)
_spare: dict[tuple[int, int, int], list[socket]] = {}


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded."""
    length = 4 + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length & 3)


def nested(kind: int, *inside: bytes) -> bytes:
    return attribute(kind | _NLA_F_NESTED, b"".join(inside))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    """The attributes in `data`, in order; a malformed rest is left out."""
    found = []
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found.append((kind & _NLA_TYPE, data[offset + 4 : offset + length]))
        offset += (length + 3) & ~3
    return found


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


def failure(doing: str, code: int) -> CniError:
    name = errno.errorcode.get(code, str(code))
    return CniError(Code.INTERNAL, f"cannot {doing}: {os.strerror(code)} ({name})")


class Nfnetlink:
    """A netfilter netlink socket in one namespace, for one thread at a time.

    On a kernel without netfilter netlink nothing is found, so that whatever removes things is done at once,
    and changes are refused (CniError 999).
    """

    __slots__ = ("_place", "_sequence", "_socket", "_whole", "namespace")

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self._whole = True
        self._sequence = next(_sequences) & _SEQUENCES
        self._place = (namespace.device, namespace.inode, os.getpid())
        self._socket: socket | None
        try:
            self._socket = _spare[self._place].pop()
        except (KeyError, IndexError):
            self._socket = _open(namespace)

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
        if self._socket is None:
            return
        # Where an exchange broke off, the kernel may be in the middle of a dump, and would refuse the next.
        if self._whole and self._at_home():
            spares = _spare.setdefault(self._place, [])
            if len(spares) < _SPARES:
                spares.append(self._socket)
                return
        self._socket.close()

    def _at_home(self) -> bool:
        status = Path("/proc/self/ns/net").stat()
        return (status.st_dev, status.st_ino, os.getpid()) == self._place

    def request(self, messages: Sequence[Message]) -> list[Answer]:
        """Serve independent requests in order; an error of one is in its answer and stops none of the
        others.
        """
        return [
            answer
            for start in range(0, len(messages), _TOGETHER)
            for answer in self._request(messages[start : start + _TOGETHER])
        ]

    def _request(self, messages: Sequence[Message]) -> list[Answer]:
        if self._socket is None:
            return [Answer(errno.ENOENT)] * len(messages)
        first = self._sequence + 1
        self._sequence += len(messages)
        self._send(
            b"".join(
                _encode(item, item.flags | NLM_F_ACK, first + number) for number, item in enumerate(messages)
            )
        )
        errors = [0] * len(messages)
        bodies: list[list[bytes]] = [[] for _ in messages]
        for kind, _, sequence, packet in self._waiting():
            number = sequence - first
            if 0 <= number < len(messages):
                if kind == _NLMSG_ERROR:
                    errors[number] = _errno(packet)
                else:
                    bodies[number].append(packet[20:])
        return [Answer(error, tuple(found)) for error, found in zip(errors, bodies, strict=True)]

    def batch(self, messages: Sequence[Message]) -> dict[int, int]:
        """One nf_tables transaction: {index of a message: errno} of what failed, empty when all of it is
        done.

        CniError 999 when the kernel refused the transaction itself.
        """
        if not messages:
            return {}
        begin = self._sequence + 1
        self._sequence += len(messages) + 2
        last = len(messages) - 1
        datagram = [
            _HEADER.pack(20, _BATCH_BEGIN, NLM_F_REQUEST, begin, 0) + _FAMILY.pack(0, 0, SUBSYS_NFTABLES)
        ]
        for number, item in enumerate(messages):
            flags = item.flags | (NLM_F_ACK if number == last else 0)
            datagram.append(_encode(item, flags, begin + 1 + number))
        datagram.append(
            _HEADER.pack(20, _BATCH_END, NLM_F_REQUEST, begin + 1 + len(messages), 0)
            + _FAMILY.pack(0, 0, SUBSYS_NFTABLES)
        )
        self._send(b"".join(datagram))
        failed: dict[int, int] = {}
        for kind, _, sequence, packet in self._waiting():
            code = _errno(packet) if kind == _NLMSG_ERROR else 0
            if not code or sequence < begin:
                continue
            number = sequence - begin - 1
            if not 0 <= number <= last:
                raise failure("change nf_tables", code)
            failed[number] = code
        return failed

    def dump(self, message: Message) -> list[bytes]:
        """The bodies of every object that `message` selects; [] when it names nothing that exists.

        A dump that the kernel marks as interrupted is asked for again, then taken as it is. CniError 999.
        """
        bodies: list[bytes] = []
        if self._socket is None:
            return bodies
        for _ in range(_DUMP_TRIES):
            self._sequence += 1
            self._send(_encode(message, message.flags | NLM_F_DUMP, self._sequence))
            bodies, code, interrupted = self._dumped()
            if code in {errno.ENOENT, errno.EINVAL}:  # EINVAL: the kernel has no such subsystem
                return []
            if not interrupted and code != errno.EINTR:
                if code:
                    raise failure("list what netfilter holds", code)
                break
        return bodies

    def _dumped(self) -> tuple[list[bytes], int, bool]:
        bodies: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, packet in _packets(self._receive(0)):
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                if kind in {_NLMSG_DONE, _NLMSG_ERROR}:
                    self._whole = True
                    return bodies, _errno(packet), interrupted
                bodies.append(packet[20:])

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            raise CniError(
                Code.INTERNAL, "this kernel has no nf_tables", "load it, or do without what needs it"
            )
        self._whole = False
        try:
            if len(data) > 1 << 16:
                self._socket.setsockopt(SOL_SOCKET, _SO_SNDBUFFORCE, 4 * len(data))
            self._socket.send(data)
        except OSError as error:
            raise CniError(Code.INTERNAL, "cannot talk to netfilter over netlink", str(error)) from error

    def _receive(self, flags: int) -> bytes:
        assert self._socket is not None
        try:
            return self._socket.recv(_RECEIVE, flags)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise CniError(Code.INTERNAL, "cannot hear netfilter over netlink", str(error)) from error

    def _waiting(self) -> Iterable[tuple[int, int, int, bytes]]:
        while data := self._receive(MSG_DONTWAIT):
            yield from _packets(data)
        self._whole = True


def _open(namespace: Namespace) -> socket | None:
    try:
        with entered(namespace):
            opened = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, _NETLINK_NETFILTER)
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        opened.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE)
        opened.bind((0, 0))
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return None
        raise CniError(Code.INTERNAL, "cannot open a netfilter netlink socket", str(error)) from error
    return opened


def _encode(message: Message, flags: int, sequence: int) -> bytes:
    return (
        _HEADER.pack(
            20 + len(message.body),
            message.subsystem << 8 | message.number,
            flags | NLM_F_REQUEST,
            sequence,
            0,
        )
        + _FAMILY.pack(message.family, 0, 0)
        + message.body
    )


def _packets(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset : offset + length]
        offset += max(16, (length + 3) & ~3)


def _errno(packet: bytes) -> int:
    return -int(struct.unpack_from("=i", packet, 16)[0]) if len(packet) >= 20 else 0
