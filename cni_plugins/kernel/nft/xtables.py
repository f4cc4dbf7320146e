"""Rules that iptables made in nf_tables, removed without iptables.

iptables works over nf_tables on every distribution of today; its chains are chains of the tables `ip nat` and
`ip6 nat`, its jumps are verdicts and its matches of addresses are comparisons, whatever else of a rule is an
extension of x_tables. So a container's chain and the jumps to it are found and deleted here when the program
is not installed any more, or does not work.
"""

import errno
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attribute, attributes, every_attribute, string
from cni_plugins.kernel.netlink.netfilter import Message, Nfnetlink
from cni_plugins.spec.namespace import Namespace

_NAT = "nat"
_DELCHAIN, _GETRULE, _DELRULE = 5, 7, 8
# linux/netfilter/nf_tables.h
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS = 1, 2, 3, 4
_NAME, _DATA = 1, 2
_IMMEDIATE_DATA, _CMP_DATA, _VALUE, _VERDICT, _VERDICT_CHAIN = 2, 3, 1, 2, 2
_MATCH_NAME, _MATCH_INFO = 1, 3
_TRIES = 5


@dataclass(frozen=True, slots=True)
class _Rule:
    """Where it is, the chains that it leads to, the values that it compares with, its comments."""

    table: str
    chain: str
    handle: bytes
    targets: frozenset[str]
    values: frozenset[bytes]
    comments: frozenset[str]


def remove_chain(host: Namespace, family: int, chain: str, sources: Collection[bytes] | None = None) -> None:
    """Delete the jumps to `chain` from the packed addresses `sources` (None: all), and the chain with its
    last jump. Idempotent; where nothing is, nothing is done. CniError 999.
    """

    def doomed(rules: list[_Rule]) -> list[Message]:
        jumps = [rule for rule in rules if chain in rule.targets and rule.chain != chain]
        gone = [rule for rule in jumps if sources is None or rule.values.intersection(sources)]
        messages = [_delete(family, rule) for rule in gone]
        if len(gone) == len(jumps) and (jumps or any(rule.chain == chain for rule in rules)):
            place = string(_RULE_TABLE, _NAT) + string(_RULE_CHAIN, chain)
            messages.append(Message(nfnetlink.SUBSYS_NFTABLES, _DELRULE, 0, family, place))
            place = string(_CHAIN_TABLE, _NAT) + string(_CHAIN_NAME, chain)
            messages.append(Message(nfnetlink.SUBSYS_NFTABLES, _DELCHAIN, 0, family, place))
        return messages

    _change(host, family, doomed)


def remove_commented(host: Namespace, family: int, chain: str, comment: str) -> None:
    """Delete the rules of `chain` that carry exactly `comment`. Idempotent. CniError 999."""

    def doomed(rules: list[_Rule]) -> list[Message]:
        return [_delete(family, rule) for rule in rules if rule.chain == chain and comment in rule.comments]

    _change(host, family, doomed)


def remove_about(host: Namespace, family: int, chain: str, values: Collection[bytes], table: str) -> None:
    """Delete the rules of `chain` in `table` that compare with one of `values`: packed addresses, or names of
    interfaces without the NUL that ends them. Idempotent. CniError 999.
    """

    def doomed(rules: list[_Rule]) -> list[Message]:
        gone = [
            rule
            for rule in rules
            if rule.chain == chain
            and any(item in values or item.rstrip(b"\0") in values for item in rule.values)
        ]
        return [_delete(family, rule) for rule in gone]

    _change(host, family, doomed, table)


def _change(
    host: Namespace, family: int, doomed: Callable[[list[_Rule]], list[Message]], table: str = _NAT
) -> None:
    """Somebody else may take rules away between the look and the change: then it is looked at again."""
    with Nfnetlink(host) as socket:
        for attempt in range(_TRIES):
            failed = socket.batch(doomed(_rules(socket, family, table)))
            if not failed:
                return
            code = next(iter(failed.values()))
            if code not in {errno.ENOENT, errno.EBUSY} or attempt == _TRIES - 1:
                raise nfnetlink.failure("remove rules of iptables", code)


def _delete(family: int, rule: _Rule) -> Message:
    place = (
        string(_RULE_TABLE, rule.table)
        + string(_RULE_CHAIN, rule.chain)
        + attribute(_RULE_HANDLE, rule.handle)
    )
    return Message(nfnetlink.SUBSYS_NFTABLES, _DELRULE, 0, family, place)


def _rules(socket: Nfnetlink, family: int, table: str) -> list[_Rule]:
    question = Message(nfnetlink.SUBSYS_NFTABLES, _GETRULE, 0, family, string(_RULE_TABLE, table))
    return [parse(body) for body in socket.dump(question)]


def parse(body: bytes) -> _Rule:
    """A rule as the kernel lists it."""
    fields = attributes(body)
    targets, values, comments = set(), set(), set()
    for _, expression in every_attribute(fields.get(_RULE_EXPRESSIONS, b"")):
        named = attributes(expression)
        inside = attributes(named.get(_DATA, b""))
        kind = named.get(_NAME, b"")
        if kind == b"immediate\0":
            verdict = attributes(inside.get(_IMMEDIATE_DATA, b"")).get(_VERDICT, b"")
            targets.add(_string(attributes(verdict).get(_VERDICT_CHAIN, b"")))
        elif kind == b"cmp\0":
            values.add(attributes(inside.get(_CMP_DATA, b"")).get(_VALUE, b""))
        elif kind == b"match\0" and inside.get(_MATCH_NAME) == b"comment\0":
            comments.add(_string(inside.get(_MATCH_INFO, b"")))
    return _Rule(
        _string(fields.get(_RULE_TABLE, b"")),
        _string(fields.get(_RULE_CHAIN, b"")),
        fields.get(_RULE_HANDLE, struct.pack(">Q", 0)),
        frozenset(targets),
        frozenset(values),
        frozenset(comments),
    )


def _string(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")
