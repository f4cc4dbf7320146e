"""What of our tables is there, and what nothing refers to any more.

A chain's use count (its rules, and the jumps and elements that lead to it) tells whether somebody flushed a
base chain, and whether the chain of a subnet has lost its last element. Where elements lead to a chain its
rules have to be counted themselves.
"""

import errno
import os
from collections.abc import Mapping, Sequence

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attributes, string
from cni_plugins.kernel.netlink.netfilter import Message, Nfnetlink
from cni_plugins.kernel.nft import elements
from cni_plugins.kernel.nft.elements import TABLE, Element
from cni_plugins.spec.namespace import Namespace

_DELTABLE, _DELCHAIN, _GETRULE = 2, 5, 7
_TABLE_NAME, _CHAIN_TABLE, _CHAIN_NAME, _CHAIN_USE, _RULE_TABLE, _RULE_CHAIN = 1, 1, 3, 6, 1, 2
_DROP_TRIES = 5
_FEW = 32  # elements that are asked for one by one before whole sets are listed


def uses(socket: Nfnetlink, family: int, chains: Sequence[str]) -> list[int | None]:
    """The use count of each chain of our table, None for one that is not there."""
    answers = socket.request([elements.chain_message(family, TABLE, name) for name in chains])
    found = [attributes(answer.bodies[0]) if answer.bodies else {} for answer in answers]
    return [int.from_bytes(item[_CHAIN_USE], "big") if _CHAIN_USE in item else None for item in found]


def rule_counts(socket: Nfnetlink, family: int, only: str = "") -> dict[str, int]:
    """The number of rules of each chain of our table that has any; or of the chain `only`. CniError 999.

    While others commit all the time, a list of more than one datagram may lack rules that were there before
    and after: what it says is missing is to be asked for by `only`.
    """
    counts: dict[str, int] = {}
    named = string(_RULE_TABLE, TABLE) + (string(_RULE_CHAIN, only) if only else b"")
    for body in socket.dump(Message(nfnetlink.SUBSYS_NFTABLES, _GETRULE, 0, family, named)):
        fields = attributes(body)
        if fields.get(_RULE_TABLE, b"").rstrip(b"\0").decode() == TABLE:
            chain = fields.get(_RULE_CHAIN, b"").rstrip(b"\0").decode()
            counts[chain] = counts.get(chain, 0) + 1
    return counts


class Counts:
    """What `uses`, `rule_counts` and lists of elements said, remembered: for whoever looks at many
    attachments in one go, and changes nothing.
    """

    __slots__ = ("_asked", "_comments", "_rules", "_there")

    def __init__(self) -> None:
        self._asked = 0
        self._comments: dict[tuple[int, str], dict[bytes, str]] = {}
        self._rules: dict[int, dict[str, int]] = {}
        self._there: dict[tuple[int, str], bool] = {}

    def comments(self, socket: Nfnetlink, wanted: Sequence[Element]) -> list[str | None]:
        """As `elements.comments`, once there are many from one list of each set; the kernel is asked again
        for what is not as wanted, since a list may lack what others move meanwhile.
        """
        self._asked += len(wanted)
        if self._asked <= _FEW:
            return elements.comments(socket, wanted)
        found: list[str | None] = []
        for item in wanted:
            place = item.family, item.set
            if place not in self._comments:
                self._comments[place] = {
                    each.key: each.comment for each in elements.listed(socket, item.family, item.set)
                }
            found.append(self._comments[place].get(item.key))
        if found != [item.comment for item in wanted]:
            return elements.comments(socket, wanted)
        return found

    def harmed(self, socket: Nfnetlink, family: int, chains: Mapping[str, int]) -> list[str]:
        """The chains, given with the number of their rules, that are not there or have not all of them.
        CniError 999.
        """
        if family not in self._rules:
            self._rules[family] = rule_counts(socket, family)
        new = [name for name in chains if (family, name) not in self._there]
        for name, use in zip(new, uses(socket, family, new), strict=True):
            self._there[family, name] = use is not None
        rules = self._rules[family]
        for name, count in chains.items():
            if self._there[family, name] and rules.get(name, 0) != count:
                rules[name] = rule_counts(socket, family, name).get(name, 0)
        return [
            name
            for name, count in chains.items()
            if not self._there[family, name] or rules.get(name, 0) != count
        ]


def prune(socket: Nfnetlink, family: int, chains: Mapping[str, int]) -> bool:
    """Delete each chain, given with its number of rules, that no element refers to any more; whether there
    was one.

    The kernel would refuse to delete a chain in use, but a refused transaction costs 10 ms of waiting for
    other processors: the chain's use count tells beforehand, and the kernel's refusal settles races.
    """
    deleted = False
    counts = uses(socket, family, list(chains))
    for (name, rules), count in zip(chains.items(), counts, strict=True):
        if count is not None and count <= rules:
            body = string(_CHAIN_TABLE, TABLE) + string(_CHAIN_NAME, name)
            socket.batch([Message(nfnetlink.SUBSYS_NFTABLES, _DELCHAIN, 0, family, body)])
            deleted = True
    return deleted


def drop_unused(socket: Nfnetlink, family: int) -> bool:
    """Delete our table of a family if none of its sets has an element; whether it is gone.

    Nobody's element is lost: the kernel does it only if the ruleset is still the one that was looked at
    (NFNL_BATCH_GENID). Where it changes all the time the table stays until the next one tries.
    """
    for _ in range(_DROP_TRIES):
        generation = socket.generation()
        sets = elements.sets(socket, family)
        if not sets:
            return True
        if any(elements.any_listed(socket, family, name) for name in sets):
            return False
        body = string(_TABLE_NAME, TABLE)
        failed = socket.batch([Message(nfnetlink.SUBSYS_NFTABLES, _DELTABLE, 0, family, body)], generation)
        if not failed or errno.ENOENT in failed.values():
            return True
        if errno.ERESTART not in failed.values():
            return False
    return False


class Unused:
    """`drop_unused`, for when there is time: making a table and taking it away costs as much as a whole call,
    and where one container goes another may come. Holds the namespace open until it is called or forgotten.
    """

    __slots__ = ("_namespace", "family")

    def __init__(self, host: Namespace, family: int) -> None:
        self.family = family
        self._namespace = Namespace(os.dup(host.fd), host.path, host.device, host.inode)

    def __del__(self) -> None:
        os.close(self._namespace.fd)

    @property
    def key(self) -> tuple[int, int, int]:
        """What is the same for the same table."""
        return self.family, self._namespace.device, self._namespace.inode

    def __call__(self) -> None:
        with Nfnetlink(self._namespace) as socket:
            drop_unused(socket, self.family)
