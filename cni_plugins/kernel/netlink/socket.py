"""A netlink socket: requests and their answers, dumps, transactions. Both families go through it.

The kernel serves a request inside send(2): when that returns, the answers wait in the receive queue, and they
are taken from there without waiting. One datagram holds up to 64 requests (the queue has no room for many
more answers: ENOBUFS), so that a dozen changes cost two system calls. A request that asks for an
acknowledgement is over when that comes, a question that asks for none with what it asked for, or an error.

A dump comes in turns, each of which the kernel makes when the one before is read. One that the kernel marks
as interrupted is asked for again (up to `_DUMP_TRIES` times), then taken as it is. While it lasts the kernel
refuses another on the same socket, so a socket whose exchange broke off (`whole` is False) is of no more use.

Source: netlink(7), linux/netlink.h.
"""

import errno
import os
import struct
from _socket import AF_NETLINK, MSG_DONTWAIT, MSG_PEEK, SO_RCVBUF, SOCK_CLOEXEC, SOCK_RAW, SOL_SOCKET, socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink import apart
from cni_plugins.kernel.netlink.codec import attributes
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x001, 0x004, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_NLM_F_DUMP_INTR, _NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x010, 0x100, 0x200
#: net/core/rtnetlink.c
_NO_SUCH_KIND = "Unknown device type"
_NLMSG_ERROR, _NLMSG_DONE, _NLMSGERR_ATTR_MSG = 2, 3, 1
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT_CHECK = 270, 10, 11, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

HEADER = struct.Struct("=IHHII")
_ERRNO = struct.Struct("=i")
_RECEIVE = 1 << 16  # the kernel makes no message, and no turn of a dump, larger than 32 KiB
_SEND = 1 << 16  # what fits into a send buffer of the usual size
_DUMP_TRIES = 5
_TOGETHER = 64
#: A message: type, flags, sequence number, and all of it.
_Heard = tuple[int, int, int, bytes]


@dataclass(frozen=True, slots=True)
class Request:
    """A message: its type, its flags besides NLM_F_REQUEST, and what follows the netlink header."""

    type: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """0 or an errno with the kernel's own sentence about it, and what the kernel sent besides: whole
    messages, headers included.
    """

    error: int
    packets: tuple[bytes, ...] = ()
    text: str = ""


def open_socket(namespace: Namespace, protocol: int, queue: int = 0) -> socket:
    """A socket in `namespace`; `queue` is the size of its receive queue in bytes, 0 for the usual one.
    OSError; CniError 8.
    """
    with entered(namespace):
        opened = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
    return _prepared(opened, protocol, queue)


def open_here(protocol: int) -> socket:
    """A socket in the namespace that this thread is in. OSError."""
    return _prepared(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol), protocol, 0)


def _prepared(opened: socket, protocol: int, queue: int) -> socket:
    try:
        for option in (_CAP_ACK, _EXT_ACK, *((_STRICT_CHECK,) if protocol == NETLINK_ROUTE else ())):
            opened.setsockopt(_SOL_NETLINK, option, 1)
        if queue:
            opened.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, queue)
        opened.bind((0, 0))
    except OSError:
        opened.close()
        raise
    return opened


class Socket:
    """Requests on an open socket, for one thread at a time. `sequence` is the number before the first one's;
    without a deadline nothing but the kernel's own pace bounds a wait.
    """

    __slots__ = ("_deadline", "_sequence", "channel", "whole")

    def __init__(self, channel: socket, deadline: Deadline | None = None, sequence: int = 0) -> None:
        self.channel = channel
        self.whole = True
        self._deadline = deadline
        self._sequence = sequence

    def close(self) -> None:
        self.channel.close()

    def exchange(self, requests: Sequence[Request]) -> list[Reply]:
        """Send any number of independent requests, in order; a reply for each. An error of one stops none of
        the others. CniError 11 past the deadline, 999 when the socket fails.
        """
        if 0 < len(requests) <= _TOGETHER:
            return self._exchange(requests)
        starts = range(0, len(requests), _TOGETHER)
        return [item for start in starts for item in self._exchange(requests[start : start + _TOGETHER])]

    def _exchange(self, requests: Sequence[Request]) -> list[Reply]:
        first = self._numbers(len(requests))
        self._send(b"".join(_encode(item, first + number) for number, item in enumerate(requests)))
        replies: list[Reply | None] = [None] * len(requests)
        packets: dict[int, list[bytes]] = {}
        left = len(requests)
        while left:
            for kind, _, sequence, packet in self._received():
                number = sequence - first
                if not 0 <= number < len(requests) or replies[number] is not None:
                    continue
                if kind == _NLMSG_ERROR:
                    replies[number] = _reply(packet, packets.get(number, ()))
                elif requests[number].flags & NLM_F_ACK:
                    packets.setdefault(number, []).append(packet)
                    continue
                else:
                    replies[number] = Reply(0, (packet,))
                left -= 1
        self.whole = True
        return [reply for reply in replies if reply is not None]

    def exchange_apart(self, request: Request) -> Callable[[], Reply | None]:
        """Have somebody else send a request that the kernel takes long to serve (see apart.py); what is
        returned gives its reply, None while there is none, and never waits. CniError 11 past the deadline.

        The socket is for this alone from then on; it may be closed before the answer comes.
        """
        self._require()
        first = self._numbers(1)
        apart.send(self.channel, _encode(request, first))

        def reply() -> Reply | None:
            for kind, _, sequence, packet in self._waiting():
                if sequence == first:
                    return _reply(packet, ()) if kind == _NLMSG_ERROR else Reply(0, (packet,))
            self._require()
            return None

        return reply

    def transaction(self, requests: Sequence[Request], queue: int) -> dict[int, Reply]:
        """Send all requests in one datagram; the replies that came, by the number of the request. `queue` is
        what the replies may need, in bytes. CniError 999 when the socket fails.
        """
        first = self._numbers(len(requests))
        data = b"".join(_encode(item, first + number) for number, item in enumerate(requests))
        try:
            if len(data) > _SEND:
                self.channel.setsockopt(SOL_SOCKET, _SO_SNDBUFFORCE, 4 * len(data))
            if queue > self.channel.getsockopt(SOL_SOCKET, SO_RCVBUF):
                self.channel.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, queue)
        except OSError as error:
            raise _unheard(error) from error
        self._send(data)
        found: dict[int, Reply] = {}
        while packets := self._waiting():
            for kind, _, sequence, packet in packets:
                if kind == _NLMSG_ERROR and 0 <= sequence - first < len(requests):
                    found[sequence - first] = _reply(packet, ())
        self.whole = True
        return found

    def dump(self, request: Request) -> Reply:
        """Every object that a request selects, or the errno of its refusal. CniError 11 or 999."""
        reply, interrupted = self._dump_once(request)
        for _ in range(_DUMP_TRIES - 1):
            if not interrupted and reply.error != errno.EINTR:
                break
            reply, interrupted = self._dump_once(request)
        return reply

    def begin_dump(self, request: Request) -> list[bytes]:
        """The first of the objects that a request selects: as many as one datagram holds, whatever their
        number. The socket is to be closed then. CniError 11 or 999.
        """
        wanted = self._numbers(1)
        self._send(_encode(Request(request.type, request.flags | NLM_F_DUMP, request.body), wanted))
        while True:
            heard = [item for item in self._received() if item[2] == wanted]
            if heard:
                return [packet for kind, _, _, packet in heard if kind not in {_NLMSG_DONE, _NLMSG_ERROR}]

    def _dump_once(self, request: Request) -> tuple[Reply, bool]:
        wanted = self._numbers(1)
        self._send(_encode(Request(request.type, request.flags | NLM_F_DUMP, request.body), wanted))
        found: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, packet in self._received():
                if sequence != wanted:
                    continue
                interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                if kind in {_NLMSG_DONE, _NLMSG_ERROR}:
                    self.whole = True
                    return _reply(packet, found), interrupted
                found.append(packet)

    def _numbers(self, count: int) -> int:
        """The first of so many new sequence numbers."""
        first = self._sequence + 1
        self._sequence += count
        return first

    def _require(self) -> float | None:
        return None if self._deadline is None else self._deadline.require("the kernel's netlink")

    def _send(self, data: bytes) -> None:
        self._require()
        self.whole = False
        try:
            self.channel.send(data)
        except OSError as error:
            raise CniError(Code.INTERNAL, "cannot talk to the kernel over netlink", str(error)) from error

    def _received(self) -> list[_Heard]:
        """The messages of the next datagram; none after a wait for it."""
        found = self._waiting()
        if not found:
            self._wait()
        return found

    def _waiting(self) -> list[_Heard]:
        """The messages of the next datagram, none when there is none."""
        try:
            data = self.channel.recv(_RECEIVE, MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError as error:
            raise _unheard(error) from error
        found, offset, last, cut = [], 0, len(data) - HEADER.size, HEADER.unpack_from
        while offset <= last:
            length, kind, flags, sequence, _ = cut(data, offset)
            found.append((kind, flags, sequence, data[offset : offset + length]))
            offset += max(HEADER.size, (length + 3) & ~3)
        return found

    def _wait(self) -> None:
        """Until there is something to read, though nothing is known that would need it. CniError 11."""
        try:
            self.channel.settimeout(self._require())
            self.channel.recv(1, MSG_PEEK)
        except TimeoutError:
            self._require()
        except OSError as error:
            raise _unheard(error) from error
        finally:
            with suppress(OSError):
                self.channel.settimeout(None)


def failure(doing: str, code: int, text: str = "") -> CniError:
    """What the kernel refused to do, and why."""
    if text == _NO_SUCH_KIND:
        details = f"{text}: load its module (modprobe), or ask for a kernel that has it"
        return CniError(Code.INTERNAL, f"cannot {doing}: this kernel makes no such links", details)
    name = errno.errorcode.get(code, str(code))
    return CniError(Code.INTERNAL, f"cannot {doing}: {os.strerror(code)} ({name})", text)


def _unheard(error: OSError) -> CniError:
    return CniError(Code.INTERNAL, "cannot hear the kernel over netlink", str(error))


def _encode(request: Request, sequence: int) -> bytes:
    length = HEADER.size + len(request.body)
    return HEADER.pack(length, request.type, request.flags | NLM_F_REQUEST, sequence, 0) + request.body


def _reply(packet: bytes, packets: Sequence[bytes]) -> Reply:
    """What an NLMSG_ERROR or NLMSG_DONE says: an errno, and perhaps a sentence (extended acknowledgement)."""
    if len(packet) < HEADER.size + _ERRNO.size:
        return Reply(0, tuple(packets))
    code = -int(_ERRNO.unpack_from(packet, HEADER.size)[0])
    return Reply(code, tuple(packets), _sentence(packet) if code else "")


def _sentence(packet: bytes) -> str:
    _, kind, flags, _, _ = HEADER.unpack_from(packet)
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    offset = HEADER.size + _ERRNO.size
    if kind == _NLMSG_ERROR:  # the header of what was refused, and all of it unless it was cut off
        (echoed,) = struct.unpack_from("=I", packet, offset)
        offset += HEADER.size if flags & _NLM_F_CAPPED else (echoed + 3) & ~3
    raw = attributes(packet, offset).get(_NLMSGERR_ATTR_MSG, b"")
    return raw.rstrip(b"\0").decode("utf-8", "replace")
