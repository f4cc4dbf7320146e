"""Elements of sets and maps, and whether tables and chains exist: nf_tables netlink, without libnftables.

A key of several fields is their concatenation, each padded to four bytes, as the kernel's registers hold
them. The comment goes where nft puts it, so `nft list` shows it.
"""

import errno
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attribute, attributes, every_attribute, nested, string
from cni_plugins.kernel.netlink.netfilter import Message, Nfnetlink
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip

TABLE = "mesokit"
COMMENT_BYTES = 128

_GETCHAIN = 4
_GETSET, _NEWSETELEM, _GETSETELEM, _DELSETELEM = 10, 12, 13, 14
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_SET_TABLE, _SET_NAME = 1, 2
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEM = 1, 2, 3, 1
_KEY, _DATA, _USERDATA = 1, 2, 6
_VALUE, _VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 1, 2
_JUMP = struct.pack(">i", -3)
_UDATA_COMMENT = 0
#: A comment as owner.comment makes it, and its end.
_OWNED = re.compile(rb"([0-9a-f]{16}-[0-9a-f]{16}[^\0]*)\0")


@dataclass(frozen=True, slots=True)
class Element:
    """`key` and `data` as the kernel has them (see `key()`, `jump()`, `value()`); a set's element has no
    data.
    """

    family: int
    set: str
    key: bytes
    data: bytes = b""
    comment: str = ""


def key(*fields: bytes) -> bytes:
    return b"".join(item + bytes(-len(item) & 3) for item in fields)


def address(ip: Ip) -> bytes:
    return ip.packed


def port(number: int) -> bytes:
    return number.to_bytes(2, "big")


def interface(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def jump(chain: str) -> bytes:
    """The data of a verdict map's element."""
    return nested(_VERDICT, attribute(_VERDICT_CODE, _JUMP), string(_VERDICT_CHAIN, chain))


def value(*fields: bytes) -> bytes:
    """The data of an ordinary map's element."""
    return attribute(_VALUE, key(*fields))


def _message(number: int, flags: int, element: Element, *, bare: bool = False) -> Message:
    parts = [nested(_KEY, attribute(_VALUE, element.key))]
    if element.data and not bare:
        parts.append(nested(_DATA, element.data))
    if element.comment and not bare:
        comment = element.comment.encode()[:COMMENT_BYTES] + b"\0"
        parts.append(attribute(_USERDATA, bytes((_UDATA_COMMENT, len(comment))) + comment))
    body = (
        string(_LIST_TABLE, TABLE)
        + string(_LIST_SET, element.set)
        + nested(_LIST_ELEMENTS, nested(_LIST_ELEM, *parts))
    )
    return Message(nfnetlink.SUBSYS_NFTABLES, number, flags, element.family, body)


def change(
    socket: Nfnetlink, *, remove: Sequence[Element] = (), create: Sequence[Element] = ()
) -> dict[Element, int]:
    """One transaction. What could not be removed (ENOENT: it is not there) or created (EEXIST: the key is
    taken, ENOENT: the table, the set or the chain that is jumped to is missing) with its errno; empty
    when all is done.
    """
    messages = [_message(_DELSETELEM, 0, item, bare=True) for item in remove]
    messages += [
        _message(_NEWSETELEM, nfnetlink.NLM_F_CREATE | nfnetlink.NLM_F_EXCL, item) for item in create
    ]
    failed = socket.batch(messages)
    items = [*remove, *create]
    return {items[number]: code for number, code in failed.items()}


def comments(socket: Nfnetlink, wanted: Sequence[Element]) -> list[str | None]:
    """The comment of each element as it is in the kernel now; None where there is none."""
    answers = socket.request([_message(_GETSETELEM, 0, item, bare=True) for item in wanted])
    found: list[str | None] = []
    for answer in answers:
        listed = [entry for body in answer.bodies for entry in _entries(body)]
        found.append(listed[0][1] if listed and not answer.error else None)
    return found


def remove_own(socket: Nfnetlink, wanted: Sequence[Element]) -> None:
    """Remove the elements whose comment is still the one given; what is gone or somebody else's now is
    left alone.

    CniError 999 when the kernel refuses.
    """
    left = list(wanted)
    while left:
        held = comments(socket, left)
        left = [item for item, comment in zip(left, held, strict=True) if comment == item.comment]
        failed = change(socket, remove=left)
        gone = {item for item, code in failed.items() if code == errno.ENOENT}
        if not failed:
            return
        if not gone:
            raise nfnetlink.failure("remove elements of nf_tables", next(iter(failed.values())))


def listed(socket: Nfnetlink, family: int, set_name: str) -> list[Element]:
    """Every element of a set (keys and comments, not data); [] without the set."""
    return [
        Element(family, set_name, found, comment=comment)
        for body in _bodies(socket, family, set_name)
        for found, comment in _entries(body)
    ]


def _bodies(socket: Nfnetlink, family: int, set_name: str) -> list[bytes]:
    body = string(_LIST_TABLE, TABLE) + string(_LIST_SET, set_name)
    return socket.dump(Message(nfnetlink.SUBSYS_NFTABLES, _GETSETELEM, 0, family, body))


def tagged(socket: Nfnetlink, family: int, set_name: str, tag: str) -> int:
    """How many elements of a set have a comment that begins with `tag`. What holds none is not taken apart:
    a node's sets are large, and one attachment has a few of their elements.
    """
    wanted = tag.encode()
    return sum(
        comment.partition(",")[0] == tag
        for item in _bodies(socket, family, set_name)
        if wanted in item
        for _, comment in _entries(item)
    )


def any_listed(socket: Nfnetlink, family: int, set_name: str) -> bool:
    """Whether a set has an element; its size does not matter."""
    body = string(_LIST_TABLE, TABLE) + string(_LIST_SET, set_name)
    first = socket.first(Message(nfnetlink.SUBSYS_NFTABLES, _GETSETELEM, 0, family, body))
    return any(_entries(item) for item in first)


def sets(socket: Nfnetlink, family: int) -> list[str]:
    """The names of the sets and maps of our table; [] without the table."""
    body = string(_SET_TABLE, TABLE)
    return [
        payload.rstrip(b"\0").decode()
        for entry in socket.dump(Message(nfnetlink.SUBSYS_NFTABLES, _GETSET, 0, family, body))
        for kind, payload in every_attribute(entry)
        if kind == _SET_NAME
    ]


class Sets:
    """All sets and maps of our tables in a namespace with the comments of their elements that name an owner
    (owner.py), listed when they are first asked for. Nothing else of an element is taken apart.
    """

    __slots__ = ("_host", "_known")

    def __init__(self, host: Namespace) -> None:
        self._host = host
        self._known: dict[int, dict[str, list[str]]] = {}

    def comments(self, family: int) -> Mapping[str, Sequence[str]]:
        """Those of one family, by name. CniError 999 when the kernel refuses."""
        if family not in self._known:
            with Nfnetlink(self._host) as socket:
                self._known[family] = {
                    name: [
                        comment.decode("utf-8", "replace")
                        for body in _bodies(socket, family, name)
                        for comment in _OWNED.findall(body)
                    ]
                    for name in sets(socket, family)
                }
        return self._known[family]


def _entries(body: bytes) -> list[tuple[bytes, str]]:
    found = []
    for kind, payload in every_attribute(body):
        if kind != _LIST_ELEMENTS:
            continue
        for _, element in every_attribute(payload):
            fields = attributes(element)
            plain = attributes(fields.get(_KEY, b"")).get(_VALUE, b"")
            found.append((plain, _comment(fields.get(_USERDATA, b""))))
    return found


def _comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _UDATA_COMMENT:
            return userdata[offset + 2 : offset + 2 + length].rstrip(b"\0").decode("utf-8", "replace")
        offset += 2 + length
    return ""


def chain_message(family: int, table: str, chain: str) -> Message:
    """A look-up of a chain by name."""
    return Message(
        nfnetlink.SUBSYS_NFTABLES,
        _GETCHAIN,
        0,
        family,
        string(_CHAIN_TABLE, table) + string(_CHAIN_NAME, chain),
    )


def exist(socket: Nfnetlink, messages: Sequence[Message]) -> list[bool]:
    """Whether each chain is there: look-ups by name, whatever else the node's ruleset holds."""
    return [not answer.error for answer in socket.request(messages)]
