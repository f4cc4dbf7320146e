"""Network policy in nf_tables: the fixed chains, a chain and its sets per profile, differences of elements.

A packet is judged at the forward hook, whether or not its flow is established: for the direction that opened
the flow the peer is where the packet comes from (or goes to), for the other it is the other way round; the
flow knows both ends. That takes conntrack, which therefore tracks from the first attachment of a network with
policy on; a flow that it saw only from the middle would have the wrong opener.

    policy_forward -> by state and family -> the opener's egress profile -> the other end's ingress profile

An address is in a `policy_shut_*` set as long as it has a profile: whoever misses the map but is in there is
denied, so that a map element that is replaced, or that somebody removed, is never an open door. A profile's
chain is immutable, and what its sets hold are permissions. What is to hold is filled in before anything leads
to it or what it replaces goes, one transaction of differences switches, and what nothing refers to any more
goes after that. The kernel looks through the table for loops at a transaction with rules, or with elements
that lead to chains: three fifths of what a new profile costs. So where one profile takes another's place it
has that one's chain (policy/successors.py), and there is nothing to be looked through.

Our accept ends this base chain only; an administrator's own chains still decide.

The hook of IP sees no packet that goes from port to port of a bridge. Where the kernel tracks connections in
the bridge family (nf_conntrack_bridge, Linux 5.3), the same chains, profiles and sets stand in our table of
that family as well, and judge there; one transaction changes both. A refusal is silent there: the kernel
rejects nothing at that hook. Elsewhere br_netfilter leads those packets through the hook of IP
(kernel/bridge_filter.py).
"""

import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attribute, attributes, every_attribute, nested, string
from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET, Message, Nfnetlink
from cni_plugins.kernel.nft import elements, policy_rules, profile_rules, sections
from cni_plugins.kernel.nft.elements import TABLE
from cni_plugins.spec.errors import CniError

#: Before the name of a set of the bridge family that there is in the table of IP too.
BRIDGE = "bridge "
IP = (NFPROTO_INET,)  #: the families that have policy without bridge conntrack; and with it
IP_AND_BRIDGE = (NFPROTO_INET, NFPROTO_BRIDGE)
A_MESSAGE = 400  # elements
A_MAKING = 40  # profiles of a transaction
A_FILLING = 40  # messages of a transaction that nothing refers to yet

_DELTABLE, _GETCHAIN, _NEWSETELEM, _GETSETELEM, _DELSETELEM = 2, 4, 12, 13, 14
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEM = 1, 2, 3, 1
_KEY, _DATA, _FLAGS, _KEY_END = 1, 2, 3, 10
_VALUE, _VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 1, 2
_GOTO = struct.pack(">i", -4)


def place(name: str) -> tuple[int, str]:
    """The family of our table that a set is in, and what it is called there; see BRIDGE."""
    if name.startswith(BRIDGE):
        return NFPROTO_BRIDGE, name.removeprefix(BRIDGE)
    return NFPROTO_BRIDGE if name.startswith("port_") else NFPROTO_INET, name


def _element(entry: policy_rules.EntryLike, *, bare: bool) -> bytes:
    parts = [nested(_KEY, attribute(_VALUE, entry.key))]
    if entry.end:
        parts.append(nested(_KEY_END, attribute(_VALUE, entry.end)))
    if entry.chain and not bare:
        verdict = nested(_VERDICT, attribute(_VERDICT_CODE, _GOTO), string(_VERDICT_CHAIN, entry.chain))
        parts.append(nested(_DATA, verdict))
    if entry.flags:
        parts.append(attribute(_FLAGS, entry.flags.to_bytes(4, "big")))
    return nested(_LIST_ELEM, *parts)


def _messages(entries: Iterable[policy_rules.EntryLike], *, remove: bool = False) -> list[Message]:
    by_set: dict[str, list[policy_rules.EntryLike]] = {}
    for entry in entries:
        by_set.setdefault(entry.set, []).append(entry)
    number = _DELSETELEM if remove else _NEWSETELEM
    flags = 0 if remove else nfnetlink.NLM_F_CREATE | nfnetlink.NLM_F_EXCL
    made: list[Message] = []
    for name, listed in sorted(by_set.items()):
        # An interval's end comes before its beginning when it is added to what is there already.
        listed.sort(key=lambda entry: (entry.key, -entry.flags))
        for start in range(0, len(listed), A_MESSAGE):
            packed = [_element(entry, bare=remove) for entry in listed[start : start + A_MESSAGE]]
            family, plain = place(name)
            body = string(_LIST_TABLE, TABLE) + string(_LIST_SET, plain) + nested(_LIST_ELEMENTS, *packed)
            made.append(Message(nfnetlink.SUBSYS_NFTABLES, number, flags, family, body))
    return made


class Mismatch(Exception):
    """The kernel does not hold what was taken for granted; what it holds has to be looked at."""


def _batch(socket: Nfnetlink, messages: Sequence[Message]) -> int:
    failed = socket.batch(messages) if messages else {}
    if failed:
        raise Mismatch(f"errno {next(iter(failed.values()))}")
    return 1 if messages else 0


def ensure(socket: Nfnetlink, fixed: Iterable[sections.Section]) -> bool:
    """The fixed chains; whether some were not there, or of another release. CniError 999."""
    written = [sections.ensure(socket, section) for section in fixed]
    return any(written)


def bridge_tracks(socket: Nfnetlink) -> str:
    """Make the chains that judge between the ports of a bridge, with connection tracking there; "" when they
    are there, else what the kernel has against them (before Linux 5.3, or without nf_conntrack_bridge).
    """
    try:
        sections.ensure(socket, policy_rules.BRIDGED)
    except CniError as error:
        return error.details or str(error)
    return ""


def apply(
    socket: Nfnetlink,
    *,
    new: Sequence[profile_rules.ProfileLike],
    fill: Collection[policy_rules.EntryLike],
    remove: Collection[policy_rules.EntryLike],
    add: Collection[policy_rules.EntryLike],
    families: Sequence[int] = IP,
) -> int:
    """One change; the fixed chains are there. The number of transactions that it was. What is given up stays
    until it is discarded. `families`: whose tables have the profiles. Mismatch when an element that is to go
    is not there, or one that is to come is; CniError 999.
    """
    # A packet that is under way when a transaction ends may meet old rules and new elements: what is new is
    # whole before anything leads to it.
    listed = profile_rules.ordered(new)
    making = [
        profile_rules.definition(listed[start : start + A_MAKING], families)
        for start in range(0, len(listed), A_MAKING)
    ]
    filling = _messages(fill)
    making += [filling[start : start + A_FILLING] for start in range(0, len(filling), A_FILLING)]
    if len(listed) <= A_MAKING and len(filling) <= A_FILLING:
        making = [[message for part in making for message in part]]
    count = sum(_batch(socket, messages) for messages in making)
    return count + _batch(socket, [*_messages(remove, remove=True), *_messages(add)])


def forget(socket: Nfnetlink, dead: Sequence[profile_rules.ProfileLike], families: Sequence[int] = IP) -> int:
    """Make profiles go that nothing leads to any more; the number of transactions. Mismatch when something
    does, or one is not as it was made.
    """
    messages: list[Message] = []
    for family in families:
        listed = profile_rules.of_family(dead, family)
        chains = [f"{profile.name}_{version}" for profile in listed for version in (4, 6)]
        names = [
            f"{item.name}_{each}{version}" for item in listed for version in (4, 6) for each in item.sets
        ]
        messages += profile_rules.removal(family, chains, names)
    return _batch(socket, messages)


def discard(socket: Nfnetlink, profiles: Collection[str]) -> int:
    """Make the chains and sets of these profiles go that are there; the number of transactions. Mismatch when
    they are in use.
    """
    if not profiles:
        return 0
    messages: list[Message] = []
    for family in (NFPROTO_INET, NFPROTO_BRIDGE):
        chains = {name for name in chain_names(socket, family) if name.rpartition("_")[0] in profiles}
        names = [name for name in elements.sets(socket, family) if name.rpartition("_")[0] in profiles]
        messages += profile_rules.removal(family, chains, names)
    return _batch(socket, messages)


def remove_table(socket: Nfnetlink) -> None:
    """Take away our table of a container's own namespace, with all that is in it; idempotent."""
    socket.batch(
        [Message(nfnetlink.SUBSYS_NFTABLES, _DELTABLE, 0, NFPROTO_INET, string(_CHAIN_TABLE, TABLE))]
    )


def chain_names(socket: Nfnetlink, family: int = NFPROTO_INET) -> list[str]:
    """The chains of our table of a family. CniError 999."""
    request = Message(nfnetlink.SUBSYS_NFTABLES, _GETCHAIN, 0, family, string(_CHAIN_TABLE, TABLE))
    found = (attributes(body) for body in socket.dump(request))
    ours = (fields for fields in found if fields.get(_CHAIN_TABLE, b"").rstrip(b"\0") == TABLE.encode())
    return [fields.get(_CHAIN_NAME, b"").rstrip(b"\0").decode() for fields in ours]


def present(socket: Nfnetlink, entries: Sequence[policy_rules.EntryLike]) -> list[bool]:
    """Whether each element of hash sets is there. CniError 999."""
    wanted = [elements.Element(*place(entry.set), entry.key) for entry in entries]
    return [comment is not None for comment in elements.comments(socket, wanted)]


def destination(socket: Nfnetlink, name: str, key: bytes) -> str:
    """The chain that a verdict map leads a key to, "" for none."""
    family, plain = place(name)
    body = string(_LIST_TABLE, TABLE) + string(_LIST_SET, plain)
    body += nested(_LIST_ELEMENTS, nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, key))))
    (answer,) = socket.request([Message(nfnetlink.SUBSYS_NFTABLES, _GETSETELEM, 0, family, body)])
    return next((chain for body in answer.bodies for _, _, chain, _ in _entries(body)), "")


def set_names(socket: Nfnetlink) -> list[str]:
    """The sets of ours that policy is made of, those of profiles included."""
    mine = ("policy_", "inside_", "in_", "out_", "host_", "from_")
    names = [name for name in elements.sets(socket, NFPROTO_INET) if name.startswith(mine)]
    for name in elements.sets(socket, NFPROTO_BRIDGE):
        if name.startswith("port_"):
            names.append(name)
        elif name.startswith(mine):
            names.append(BRIDGE + name)
    return names


def read(socket: Nfnetlink, name: str) -> list[tuple[bytes, bytes, str, int]]:
    """What a set holds: key, end, chain and flags of each element. CniError 999."""
    family, plain = place(name)
    body = string(_LIST_TABLE, TABLE) + string(_LIST_SET, plain)
    request = Message(nfnetlink.SUBSYS_NFTABLES, _GETSETELEM, 0, family, body)
    return [entry for body in socket.dump(request) for entry in _entries(body)]


def _entries(body: bytes) -> Iterable[tuple[bytes, bytes, str, int]]:
    for kind, payload in every_attribute(body):
        if kind != _LIST_ELEMENTS:
            continue
        for _, element in every_attribute(payload):
            fields: dict[int, Any] = attributes(element)
            key = attributes(fields.get(_KEY, b"")).get(_VALUE, b"")
            end = attributes(fields.get(_KEY_END, b"")).get(_VALUE, b"")
            verdict = attributes(attributes(fields.get(_DATA, b"")).get(_VERDICT, b""))
            chain = verdict.get(_VERDICT_CHAIN, b"").rstrip(b"\0").decode()
            yield key, end, chain, int.from_bytes(fields.get(_FLAGS, b""), "big")
