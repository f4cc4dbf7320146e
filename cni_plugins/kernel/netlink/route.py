"""Route netlink: links, addresses, routes, rules, neighbours and traffic control of a namespace.

Messages are bytes here; codec.py makes and reads them. A batch does not stop at an error: the kernel goes on
with the next message, which is why a batch holds only changes that each have their undo recorded already.
Source: rtnetlink(7), linux/rtnetlink.h.
"""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType

from cni_plugins.kernel.netlink.socket import (
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Reply,
    Request,
    Socket,
    failure,
    open_socket,
)
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

__all__ = [
    "NLM_F_APPEND",
    "NLM_F_CREATE",
    "NLM_F_EXCL",
    "NLM_F_REPLACE",
    "Answer",
    "Message",
    "Netlink",
    "answered",
]

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46

_GET = 2  # of the four kinds that the types of rtnetlink(7) come in
_MEANING = {
    errno.EXFULL: "the bridge has 1,023 ports, more it cannot have: attach to another bridge, or use ptp",
}


_GONE = frozenset((errno.ENODEV, errno.ENOENT))


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

    def unless_gone(self) -> "Message":
        """For who undoes: what it changes may go between its look-up and now (the far end of a pair whose
        namespace ends), and then there is nothing to undo.
        """
        return replace(self, allow=self.allow | _GONE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: 0 or the errno that was allowed, and what a question asked for (else empty)."""

    error: int
    packet: bytes = b""


class Netlink:
    """A route netlink socket in one namespace, for one thread at a time. `remembered` holds what was found,
    by the question, for who only looks and wants to `remember`; None for everybody else.
    """

    __slots__ = ("_deadline", "_socket", "namespace", "remembered")

    def __init__(self, namespace: Namespace, deadline: Deadline, *, remember: bool = False) -> None:
        self.namespace = namespace
        self.remembered: dict[object, object] | None = {} if remember else None
        self._deadline = deadline
        try:
            opened = open_socket(namespace, NETLINK_ROUTE)
        except OSError as error:
            raise CniError(Code.INTERNAL, "cannot open a route netlink socket", str(error)) from error
        self._socket = Socket(opened, deadline)

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
        replies = self._socket.exchange([_request(message) for message in messages])
        return [_answer(message, reply) for message, reply in zip(messages, replies, strict=True)]

    def request_apart(self, message: Message) -> Callable[[], bool]:
        """Have somebody else send a message that the kernel takes long to serve (see Socket.exchange_apart).
        What is returned tells whether there is an answer yet, and raises what `request` would.
        """
        reply = self._socket.exchange_apart(_request(message))

        def is_answered() -> bool:
            found = reply()
            return found is not None and bool(_answer(message, found))

        return is_answered

    def dump(self, doing: str, kind: int, body: bytes, nothing: frozenset[int] = frozenset()) -> list[bytes]:
        """Every object of a kind that `body` selects; errors in `nothing` say that there is none. CniError
        999.
        """
        reply = self._socket.dump(Request(kind, 0, body))
        if reply.error and reply.error not in nothing:
            raise failure(doing, reply.error, reply.text)
        return list(reply.packets)

    def another(self) -> "Netlink":
        """A second socket in the same namespace."""
        return Netlink(self.namespace, self._deadline)


def _request(message: Message) -> Request:
    wish = 0 if message.type % 4 == _GET else NLM_F_ACK
    return Request(message.type, message.flags | wish, message.body)


def _answer(message: Message, reply: Reply) -> Answer:
    if reply.error and reply.error not in message.allow:
        raise failure(message.doing, reply.error, reply.text or _MEANING.get(reply.error, ""))
    return Answer(reply.error, reply.packets[0] if reply.packets else b"")


def answered(answers: Sequence[Answer]) -> Answer:
    """The only answer of a batch of one."""
    (answer,) = answers
    return answer
