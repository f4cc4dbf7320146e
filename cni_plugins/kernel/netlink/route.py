"""Route netlink: a socket in a namespace, batches of requests, their answers.

Messages are bytes here; codec.py makes and reads them. One datagram holds up to 64 of a batch (the receive
queue has no room for many more answers: ENOBUFS), the kernel serves it in order and answers each message, so
that a dozen changes cost two system calls. A batch does not stop at an error: the kernel goes on with the
next message, which is why a batch holds only changes that each have their undo recorded already.

The kernel serves a request inside send(2): when that returns, the answers wait in the receive queue, and they
are taken from there without waiting. A change is answered by an acknowledgement; a question that asks for
none is answered by what it asked for, or by an error.

A dump that the kernel marks as interrupted is asked for again (up to `_DUMP_TRIES` times), then taken as it
is.
"""

import errno
import os
import struct
from _socket import AF_NETLINK, MSG_DONTWAIT, MSG_PEEK, SOCK_CLOEXEC, SOCK_RAW, socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink import apart
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x001, 0x004, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_NLM_F_DUMP_INTR = 0x010
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SOL_NETLINK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 11, 12
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_HEADER = struct.Struct("=IHHII")
_DUMP_TRIES = 5
_GET = 2  # of the four kinds that the types of rtnetlink(7) come in
_RECEIVE = 1 << 16  # the kernel's largest message has 32 KiB
_TOGETHER = 64  # as many answers as a socket's receive queue holds with certainty
_MEANING = {
    errno.EXFULL: "the bridge has 1,023 ports, more it cannot have: attach to another bridge, or use ptp",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One request: `doing` is how an error speaks of it; errors whose errno is in `allow` are answers, not
    failures.
    """

    doing: str
    type: int
    flags: int
    body: bytes
    allow: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: 0 or the errno that was allowed, and what a question asked for (else empty)."""

    error: int
    packet: bytes = b""


class Netlink:
    """A route netlink socket in one namespace, for one thread at a time."""

    __slots__ = ("_deadline", "_sequence", "_socket", "namespace")

    def __init__(self, namespace: Namespace, deadline: Deadline) -> None:
        self.namespace = namespace
        self._deadline = deadline
        self._sequence = 0
        with entered(namespace):
            self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)
        for flag in (_NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, flag, 1)

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, *messages: Message) -> list[Answer]:
        """Send a batch of any size and return an answer for each message, in order.

        The first error that its message does not allow is raised when all are answered: CniError 999 with
        errno's text.
        """
        answers: list[Answer] = []
        failure: CniError | None = None
        for start in range(0, len(messages), _TOGETHER):
            some, failed = self._request(messages[start : start + _TOGETHER])
            answers += some
            failure = failure or failed
        if failure is not None:
            raise failure
        return answers

    def _request(self, messages: Sequence[Message]) -> tuple[list[Answer], CniError | None]:
        first = self._sequence + 1
        self._sequence += len(messages)
        self._send(b"".join(_encode(item, first + number) for number, item in enumerate(messages)))
        answers: list[Answer | None] = [None] * len(messages)
        failure: CniError | None = None
        left = len(messages)
        while left:
            for kind, _, sequence, packet in self._receive():
                number = sequence - first
                if not 0 <= number < len(messages) or answers[number] is not None:
                    continue
                left -= 1
                if kind != _NLMSG_ERROR:
                    answers[number] = Answer(0, packet)
                    continue
                code = -int(struct.unpack_from("=i", packet, 16)[0])
                if code and code not in messages[number].allow and failure is None:
                    failure = _failure(messages[number].doing, code, packet)
                answers[number] = Answer(code)
        return [answer for answer in answers if answer is not None], failure

    def request_apart(self, message: Message) -> Callable[[], bool]:
        """Have somebody else send a message that the kernel takes long to serve (see apart.py); what is
        returned tells, without waiting, whether there is an answer yet, and raises the CniError that
        `request` would raise.

        The socket is for this alone from then on; it may be closed before the answer comes.
        """
        self._deadline.require("the kernel's netlink")
        self._sequence += 1
        apart.send(self._socket, _encode(message, self._sequence))

        def answered() -> bool:
            for kind, _, _, packet in self._waiting():
                code = -int(struct.unpack_from("=i", packet, 16)[0]) if kind == _NLMSG_ERROR else 0
                if code and code not in message.allow:
                    raise _failure(message.doing, code, packet)
                return True
            self._deadline.require("the kernel's netlink")
            return False

        return answered

    def dump(self, doing: str, kind: int, body: bytes, nothing: frozenset[int] = frozenset()) -> list[bytes]:
        """Every object of a kind that `body` selects; errors in `nothing` say that there is none. CniError
        999.
        """
        found: list[bytes] = []
        for _ in range(_DUMP_TRIES):
            found, interrupted = self._dump_once(doing, kind, body, nothing)
            if not interrupted:
                break
        return found

    def another(self) -> "Netlink":
        """A second socket in the same namespace."""
        return Netlink(self.namespace, self._deadline)

    def _dump_once(
        self, doing: str, kind: int, body: bytes, nothing: frozenset[int]
    ) -> tuple[list[bytes], bool]:
        self._sequence += 1
        wanted = self._sequence
        self._send(_HEADER.pack(16 + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, wanted, 0) + body)
        found: list[bytes] = []
        interrupted = False
        while True:
            for reply, flags, sequence, packet in self._receive():
                if sequence != wanted:
                    continue
                interrupted = interrupted or bool(flags & _NLM_F_DUMP_INTR)
                if reply in {_NLMSG_DONE, _NLMSG_ERROR}:
                    code = -int(struct.unpack_from("=i", packet, 16)[0])
                    if code and code not in nothing:
                        raise _failure(doing, code, packet)
                    return found, interrupted
                found.append(packet)

    def _send(self, data: bytes) -> None:
        self._deadline.require("the kernel's netlink")
        try:
            self._socket.send(data)
        except OSError as error:
            raise CniError(Code.INTERNAL, "cannot talk to the kernel over netlink", str(error)) from error

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        heard = False
        for packet in self._waiting():
            heard = True
            yield packet
        if not heard:
            self._wait()

    def _waiting(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The messages of the next datagram, none when there is none."""
        try:
            data = self._socket.recv(_RECEIVE, MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            raise CniError(Code.INTERNAL, "cannot hear the kernel over netlink", str(error)) from error
        offset = 0
        while offset + 16 <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset : offset + length]
            offset += max(16, (length + 3) & ~3)

    def _wait(self) -> None:
        """Until there is something to read, though nothing is known that would need it. CniError 11."""
        try:
            self._socket.settimeout(self._deadline.require("the kernel's netlink"))
            self._socket.recv(1, MSG_PEEK)
        except TimeoutError:
            self._deadline.require("the kernel's netlink")
        except OSError as error:
            raise CniError(Code.INTERNAL, "cannot hear the kernel over netlink", str(error)) from error
        finally:
            self._socket.settimeout(None)


def _encode(message: Message, sequence: int) -> bytes:
    wish = NLM_F_REQUEST if message.type % 4 == _GET else NLM_F_REQUEST | NLM_F_ACK
    return (
        _HEADER.pack(16 + len(message.body), message.type, message.flags | wish, sequence, 0) + message.body
    )


def _failure(doing: str, code: int, packet: bytes) -> CniError:
    text = _extended(packet) or _MEANING.get(code, "")
    name = errno.errorcode.get(code, str(code))
    return CniError(Code.INTERNAL, f"cannot {doing}: {os.strerror(code)} ({name})", text)


def _extended(packet: bytes) -> str:
    """The sentence that the kernel adds to an error, if it does (netlink extended acknowledgement)."""
    length, _, flags, _, _ = _HEADER.unpack_from(packet)
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    offset = 20 + 16
    if not flags & _NLM_F_CAPPED:
        (echoed,) = struct.unpack_from("=I", packet, 20)
        offset = 20 + ((echoed + 3) & ~3)
    while offset + 4 <= length:
        size, kind = struct.unpack_from("=HH", packet, offset)
        if kind & 0x3FFF == _NLMSGERR_ATTR_MSG:
            return packet[offset + 4 : offset + size].rstrip(b"\0").decode("utf-8", "replace")
        offset += max(4, (size + 3) & ~3)
    return ""


def answered(answers: Sequence[Answer]) -> Answer:
    """The only answer of a batch of one."""
    (answer,) = answers
    return answer
