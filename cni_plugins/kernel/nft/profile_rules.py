"""The sets and chains of a policy's profile, as messages of nf_tables' netlink. How packets go through them
is told in policy.py, what the sets hold in policy/profile.py.

A change of policy makes new profiles while packets flow, so it is worth doing without libnftables: that
compiles a profile in 15 to 20 ms, most of which it spends on listing what the node's ruleset holds.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Protocol

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attribute, nested, string
from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET, Message
from cni_plugins.kernel.netlink.socket import NLM_F_APPEND
from cni_plugins.kernel.nft import expressions
from cni_plugins.kernel.nft.elements import TABLE

AUDIT = "mesokit audit "
GROUP, RATE, BURST = 5, 50, 100  # of the log

_NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWSET, _DELSET = 3, 5, 6, 8, 9, 11
_CHAIN_NAME, _RULE_CHAIN, _RULE_EXPRESSIONS = 3, 2, 4
_SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LENGTH, _SET_DESCRIPTION = 2, 3, 4, 5, 9
_SET_ID, _SET_USERDATA = 10, 13
_INTERVAL, _CONCATENATION = 0x4, 0x80

#: nft's numbers of data types, and how many bytes one has.
_V4, _V6, _PROTOCOL, _PORT, _TYPE4, _TYPE6 = (7, 4), (8, 16), (12, 1), (13, 2), (14, 1), (29, 1)
_TYPE_BITS = 6
#: Of a profile's sets, by how often they are what lets a packet pass, and what they cost.
_ORDER = "phaircn"
#: What nft notes for itself: the byte order of a key, that it is an expression of several fields.
_NOTE_ONE, _NOTE_SEVERAL = bytes.fromhex("000402000000"), bytes.fromhex("000400000000030800040d0000000100")


class ProfileLike(Protocol):
    """A chain per family: see policy.profile.Profile."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def sets(self) -> frozenset[str]: ...
    @property
    def then(self) -> str: ...
    @property
    def request(self) -> tuple[str, frozenset[str]]: ...
    @property
    def answer(self) -> tuple[str, frozenset[str]]: ...


def _fields(each: str, version: int) -> tuple[tuple[int, int], ...]:
    """The fields of a set's key."""
    address, kind = (_V4, _TYPE4) if version == 4 else (_V6, _TYPE6)
    return {
        "p": (address, _PROTOCOL, _PORT),
        "r": (address, _PROTOCOL, _PORT),
        "c": (address, _PROTOCOL, _PORT),
        "a": (address, _PROTOCOL),
        "h": (address,),
        "i": (address, kind),
        "n": (address, kind),
        "w": (_PROTOCOL, _PORT),
        "s": (_PROTOCOL, _PORT),
        "t": (kind,),
    }[each]


def _word(kind: int, value: int) -> bytes:
    return attribute(kind, value.to_bytes(4, "big"))


@lru_cache(32)
def _definition(each: str, version: int) -> bytes:
    """What a set is, without its name."""
    fields = _fields(each, version)
    number = 0
    for kind, _ in fields:
        number = number << _TYPE_BITS | kind
    flags = _INTERVAL | _CONCATENATION if each in "rcnws" else 0
    size = fields[0][1] if len(fields) == 1 else sum(size + (-size & 3) for _, size in fields)
    parts = [_word(_SET_FLAGS, flags), _word(_SET_KEY_TYPE, number), _word(_SET_KEY_LENGTH, size)]
    if flags:
        parts.append(nested(_SET_DESCRIPTION, nested(2, *(nested(1, _word(1, size)) for _, size in fields))))
    parts.append(attribute(_SET_USERDATA, _NOTE_ONE if len(fields) == 1 else _NOTE_SEVERAL))
    return b"".join(parts)


def _message(family: int, number: int, flags: int, *parts: bytes) -> Message:
    body = string(1, TABLE) + b"".join(parts)
    return Message(nfnetlink.SUBSYS_NFTABLES, number, flags, family, body)


def of_family(profiles: Iterable[ProfileLike], family: int) -> list[ProfileLike]:
    """Those that a table of a family has: what is between the ports of a bridge is never the host's own."""
    return [item for item in profiles if family != NFPROTO_BRIDGE or item.kind not in ("host", "from")]


def rules(profile: ProfileLike, version: int, family: int = NFPROTO_INET) -> tuple[bytes, ...]:
    """The expressions of each rule of a profile's chain of a version of IP, in the table of a family."""
    if profile.kind in ("host", "from"):
        return _of_host(profile, version)
    if profile.kind in ("send", "take"):
        return tuple(_of_untracked(profile, version, family))
    return (*_matching(profile, version, family), *_missed(profile, version))


def _of_host(profile: ProfileLike, version: int) -> tuple[bytes, ...]:
    name, kind = profile.name, profile.kind
    deny = expressions.goto("policy_deny")
    end = expressions.verdict(expressions.RETURN) if kind == "host" else deny
    made = [
        expressions.ports() + expressions.look_up(f"{name}_w{version}") + end,
        expressions.icmp_type(version) + expressions.look_up(f"{name}_t{version}") + end,
    ]
    if "s" in profile.sets:
        answer = expressions.untracked() + expressions.ports("sport")
        made.append(answer + expressions.look_up(f"{name}_s{version}") + end)
    return (*made, deny) if kind == "host" else tuple(made)


def _of_untracked(profile: ProfileLike, version: int, family: int) -> Iterator[bytes]:
    """The peer is the other end of the packet; its port is of the end that would have been asked."""
    v, take = version, profile.kind == "take"
    side = "saddr" if take else "daddr"
    then = expressions.verdict(expressions.ACCEPT) if take else expressions.goto(f"policy_taken{v}")
    start = expressions.family(v, bridged=family == NFPROTO_BRIDGE)
    unknown = expressions.peer(v, side) + expressions.look_up(f"policy_known{v}", inverted=True)
    for (name, sets), port in ((profile.request, "dport"), (profile.answer, "sport")):
        keys = {
            "p": expressions.peer(v, side, "ports", port=port),
            "h": expressions.peer(v, side),
            "a": expressions.peer(v, side, "protocol"),
            "i": expressions.peer(v, side, "icmp"),
            "r": expressions.peer(v, side, "ports", port=port),
            "c": unknown + expressions.peer(v, side, "ports", port=port),
            "n": unknown + expressions.peer(v, side, "icmp"),
        }
        for each in _ORDER:
            if each in sets:
                yield start + keys[each] + expressions.look_up(f"{name}_{each}{v}") + then
    yield expressions.goto("policy_deny_untracked")


def _onward(profile: ProfileLike, version: int) -> bytes:
    """Where a packet goes that the profile allows."""
    if profile.then not in ("", "-"):
        return expressions.goto(f"{profile.then}_{version}")
    into = profile.kind == "in"
    return expressions.verdict(expressions.ACCEPT) if into else expressions.goto(f"policy_to{version}")


def _matching(profile: ProfileLike, version: int, family: int) -> Iterator[bytes]:
    """The peer alone is taken from the flow, once for both directions; nft has no such word for a port that
    can stand in a key of several fields.
    """
    then, name, v = _onward(profile, version), profile.name, version
    into = profile.kind == "in"
    flow = "original" if into else "reply"
    keys = {"a": expressions.end(v, flow, protocol=True), "h": expressions.end(v, flow)}
    listed: list[tuple[str, bytes]] = []
    for way in ("original", "reply"):
        side = "saddr" if into == (way == "original") else "daddr"
        start = expressions.direction(way) + expressions.family(v, bridged=family == NFPROTO_BRIDGE)
        unknown = expressions.peer(v, side) + expressions.look_up(f"policy_known{v}", inverted=True)
        port = "dport" if way == "original" else "sport"
        listed += (
            ("p", start + expressions.peer(v, side, "ports", port=port)),
            ("i", start + expressions.peer(v, side, "icmp")),
            ("r", start + expressions.peer(v, side, "ports", port=port)),
            ("c", start + unknown + expressions.peer(v, side, "ports", port=port)),
            ("n", start + unknown + expressions.peer(v, side, "icmp")),
        )
    for each, key in sorted((*keys.items(), *listed), key=lambda item: _ORDER.index(item[0])):
        if each in profile.sets:
            yield key + expressions.look_up(f"{name}_{each}{v}") + then


def _missed(profile: ProfileLike, version: int) -> Iterator[bytes]:
    if not profile.then:
        yield expressions.goto("policy_deny")
        return
    # An auditing profile: what it finds and what it misses goes the same way; only the latter is told.
    yield expressions.limited_log(AUDIT, GROUP, RATE, BURST)
    yield expressions.counter()
    yield _onward(profile, version)


def ordered(profiles: Iterable[ProfileLike]) -> list[ProfileLike]:
    """As they can be made one after another: what others go on to is first."""
    return sorted(profiles, key=lambda item: item.then not in ("", "-") or item.kind in ("send", "take"))


def definition(listed: Sequence[ProfileLike], families: Sequence[int] = (NFPROTO_INET,)) -> list[Message]:
    """Messages that make the sets and chains of `ordered` profiles, or make again what of them is harmed."""
    identifiers = itertools.count(1)
    made: list[Message] = []
    create, append = nfnetlink.NLM_F_CREATE, nfnetlink.NLM_F_CREATE | NLM_F_APPEND
    placed = [(family, profile) for family in families for profile in of_family(listed, family)]
    for (family, profile), version in itertools.product(placed, (4, 6)):
        for each in sorted(profile.sets):
            parts = (_definition(each, version), _word(_SET_ID, next(identifiers)))
            name = string(_SET_NAME, f"{profile.name}_{each}{version}")
            made.append(_message(family, _NEWSET, create, name, *parts))
    for (family, profile), version in itertools.product(placed, (4, 6)):
        chain = f"{profile.name}_{version}"
        made.append(_message(family, _NEWCHAIN, create, string(_CHAIN_NAME, chain)))
        made.append(_message(family, _DELRULE, 0, string(_RULE_CHAIN, chain)))
        for rule in rules(profile, version, family):
            parts = (string(_RULE_CHAIN, chain), nested(_RULE_EXPRESSIONS, rule))
            made.append(_message(family, _NEWRULE, append, *parts))
    return made


def removal(family: int, chains: Collection[str], sets: Collection[str]) -> list[Message]:
    """Messages that delete chains with their rules, and sets with their elements."""
    listed = sorted(chains)
    made = [_message(family, _DELRULE, 0, string(_RULE_CHAIN, name)) for name in listed]
    made += [_message(family, _DELCHAIN, 0, string(_CHAIN_NAME, name)) for name in listed]
    return made + [_message(family, _DELSET, 0, string(_SET_NAME, name)) for name in sorted(sets)]
