"""Network policy in nf_tables: the fixed chains, a chain and its sets per profile, differences of elements.

A packet is judged at the forward hook, whether or not its flow is established: for the direction that opened
the flow the peer is where the packet comes from (or goes to), for the other it is the other way round. That
takes conntrack, which therefore tracks from the first attachment of a network with policy on; a flow that it
saw only from the middle would have the wrong opener.

    policy_forward -> by state and family -> the opener's egress profile -> the other end's ingress profile

An address is in a `policy_shut_*` set as long as it has a profile: whoever misses the map but is in there is
denied, so that a map element that is replaced, or that somebody removed, is never an open door. A profile's
chain is immutable. What changes is filled before it is referred to, one transaction of differences switches,
and what nothing refers to any more goes after that.

Our accept ends this base chain only; an administrator's own chains still decide.
"""

import struct
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.codec import attribute, attributes, every_attribute, nested, string
from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET, Message, Nfnetlink
from cni_plugins.kernel.nft import elements, library, sections
from cni_plugins.kernel.nft.elements import TABLE
from cni_plugins.kernel.nft.sections import Chain, Section
from cni_plugins.spec.namespace import Namespace

A_MESSAGE = 400  # elements
A_FILLING = 40  # messages of a transaction that nothing refers to yet
AGENT_PORT = 5051

_GETCHAIN, _NEWSETELEM, _GETSETELEM, _DELSETELEM = 4, 12, 13, 14
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEM = 1, 2, 3, 1
_KEY, _DATA, _FLAGS, _KEY_END = 1, 2, 3, 10
_VALUE, _VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 1, 2
_GOTO = struct.pack(">i", -4)
_ND = "{ 130, 131, 132, 133, 135, 136, 143 }"


class EntryLike(Protocol):
    """One element: see policy.profile.Entry."""

    @property
    def set(self) -> str: ...
    @property
    def key(self) -> bytes: ...
    @property
    def end(self) -> bytes: ...
    @property
    def chain(self) -> str: ...
    @property
    def flags(self) -> int: ...


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


def _address(version: int) -> str:
    return f"ipv{version}_addr"


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _judging(version: int) -> tuple[Chain, ...]:
    ip, v = _ip(version), version
    return (
        Chain(
            f"policy_{v}",
            (
                f"ct direction reply goto policy_reply{v}",
                f"{ip} saddr vmap @policy_out{v}",
                f"{ip} saddr @policy_shut_out{v} goto policy_deny",
                f"goto policy_to{v}",
            ),
        ),
        Chain(
            f"policy_reply{v}",
            (
                f"{ip} daddr vmap @policy_out{v}",
                f"{ip} daddr @policy_shut_out{v} goto policy_deny",
                f"goto policy_back{v}",
            ),
        ),
        Chain(
            f"policy_to{v}",
            (f"{ip} daddr vmap @policy_in{v}", f"{ip} daddr @policy_shut_in{v} goto policy_deny"),
        ),
        Chain(
            f"policy_back{v}",
            (f"{ip} saddr vmap @policy_in{v}", f"{ip} saddr @policy_shut_in{v} goto policy_deny"),
        ),
        Chain(
            f"policy_invalid{v}",
            tuple(
                f"{ip} {side}addr @policy_shut_{way}{v} counter drop"
                for side in "sd"
                for way in ("out", "in")
            ),
        ),
    )


def _sets(version: int) -> tuple[str, ...]:
    address, v = _address(version), version
    return (
        *(f"map policy_{name}{v} {{ type {address} : verdict ; }}" for name in ("out", "in", "host", "from")),
        *(f"set policy_{name}{v} {{ type {address} ; }}" for name in ("shut_out", "shut_in", "known")),
        f"set policy_closed{v} {{ type {address} ; flags interval ; }}",
        f"set policy_self{v} {{ type {address} . {address} ; }}",
        f"set policy_source{v} {{ type ifname . {address} ; }}",
    )


SECTION = Section(
    family=NFPROTO_INET,
    version="policy_1",
    sets=(
        *_sets(4),
        *_sets(6),
        "set policy_links { type ifname ; }",
        "set policy_host_links { type ifname ; }",
        "set policy_guarded { type ifname ; }",
    ),
    chains=(
        Chain(
            "policy_deny",
            (
                "ip saddr . ip daddr @policy_self4 accept",
                "ip6 saddr . ip6 daddr @policy_self6 accept",
                'limit rate 50/second burst 100 packets log prefix "mesokit deny " group 5',
                "counter",
                "meta l4proto tcp reject with tcp reset",
                "reject with icmpx type admin-prohibited",
            ),
        ),
        Chain("policy_unknown", ("counter drop",)),
        *_judging(4),
        *_judging(6),
        Chain(
            "policy_new4",
            (
                "ip saddr @policy_closed4 ip saddr != @policy_known4 goto policy_unknown",
                "goto policy_4",
            ),
        ),
        Chain(
            "policy_new6",
            (
                f"icmpv6 type {_ND} accept",
                "ip6 saddr fe80::/10 iifname @policy_links goto policy_unknown",
                "ip6 daddr fe80::/10 iifname @policy_links goto policy_unknown",
                "ip6 saddr @policy_closed6 ip6 saddr != @policy_known6 goto policy_unknown",
                "goto policy_6",
            ),
        ),
        Chain(
            "policy_forward",
            (
                "ct state . meta nfproto vmap { established . ipv4 : goto policy_4, "
                "established . ipv6 : goto policy_6, new . ipv4 : goto policy_new4, "
                "new . ipv6 : goto policy_new6, untracked . ipv4 : goto policy_new4, "
                "untracked . ipv6 : goto policy_new6, invalid . ipv4 : goto policy_invalid4, "
                "invalid . ipv6 : goto policy_invalid6 }",
            ),
            "type filter hook forward priority -10",
        ),
        Chain(
            "policy_input",
            (
                "ct direction reply return",
                "ct state related return",
                f"icmpv6 type {_ND} return",
                f"tcp dport {AGENT_PORT} return",
                "udp dport { 67, 547 } return",
                "ip saddr vmap @policy_host4",
                "ip6 saddr vmap @policy_host6",
                "iifname @policy_host_links ip6 saddr fe80::/10 goto policy_deny",
            ),
            "type filter hook input priority -10",
        ),
        Chain(
            "policy_output",
            (
                "ct direction reply return",
                "ip daddr vmap @policy_from4",
                "ip6 daddr vmap @policy_from6",
            ),
            "type filter hook output priority -10",
        ),
        Chain(
            "policy_guard",
            (
                "meta nfproto ipv4 iifname @policy_guarded "
                "iifname . ip saddr != @policy_source4 counter drop",
                "meta nfproto ipv6 ip6 saddr != { ::, fe80::/10 } iifname @policy_guarded "
                "iifname . ip6 saddr != @policy_source6 counter drop",
            ),
            "type filter hook prerouting priority -310",
        ),
    ),
)

PORTS = Section(
    family=NFPROTO_BRIDGE,
    version="policy_1",
    sets=(
        "set port_guarded { type ifname ; }",
        "set port_source4 { type ifname . ipv4_addr ; }",
        "set port_source6 { type ifname . ipv6_addr ; }",
    ),
    chains=(
        Chain(
            "policy_guard",
            (
                "ether type ip ip saddr != 0.0.0.0 iifname @port_guarded "
                "iifname . ip saddr != @port_source4 counter drop",
                "ether type arp arp saddr ip != 0.0.0.0 iifname @port_guarded "
                "iifname . arp saddr ip != @port_source4 counter drop",
                "ether type ip6 ip6 saddr != { ::, fe80::/10 } iifname @port_guarded "
                "iifname . ip6 saddr != @port_source6 counter drop",
                "icmpv6 type { 134, 137 } iifname @port_guarded counter drop",
            ),
            "type filter hook prerouting priority -310",
        ),
    ),
)


def _profile_sets(profile: ProfileLike, version: int) -> list[str]:
    address, name, v = _address(version), profile.name, version
    kind = "icmp_type" if version == 4 else "icmpv6_type"
    types = {
        "p": f"type {address} . inet_proto . inet_service ;",
        "a": f"type {address} . inet_proto ;",
        "h": f"type {address} ;",
        "i": f"type {address} . {kind} ;",
        "r": f"type {address} . inet_proto . inet_service ; flags interval ;",
        "c": f"type {address} . inet_proto . inet_service ; flags interval ;",
        "n": f"type {address} . {kind} ; flags interval ;",
        "w": "type inet_proto . inet_service ; flags interval ;",
        "t": f"type {kind} ;",
    }
    return [f"set {name}_{each}{v} {{ {types[each]} }}" for each in sorted(profile.sets)]


def _profile_chain(profile: ProfileLike, version: int) -> Chain:
    ip, name, v = _ip(version), profile.name, version
    icmp = "icmp" if version == 4 else "icmpv6"
    rules: list[str] = []
    if profile.kind in ("host", "from"):
        verdict = "return" if profile.kind == "host" else "goto policy_deny"
        rules.append(f"meta l4proto . th dport @{name}_w{v} {verdict}")
        rules.append(f"{icmp} type @{name}_t{v} {verdict}")
        if profile.kind == "host":
            rules.append("goto policy_deny")
        return Chain(f"{name}_{v}", tuple(rules))
    into = profile.kind == "in"
    onward = {
        "original": "accept" if into else f"goto policy_to{v}",
        "reply": "accept" if into else f"goto policy_back{v}",
    }
    missed = ["goto policy_deny"]
    if profile.then:
        # An auditing profile: what it finds and what it misses goes the same way; only the latter is told.
        missed = [
            'limit rate 50/second burst 100 packets log prefix "mesokit audit " group 5',
            "counter",
        ]
        if profile.then == "-":
            missed += [f"ct direction {way} {verdict}" for way, verdict in onward.items()]
        else:
            missed.append(f"goto {profile.then}_{v}")
            onward = dict.fromkeys(onward, f"goto {profile.then}_{v}")
    for way in ("original", "reply"):
        peer = "saddr" if into == (way == "original") else "daddr"
        port = "dport" if way == "original" else "sport"
        unknown = f"{ip} {peer} != @policy_known{v} "
        fields = {
            "p": f"{ip} {peer} . meta l4proto . th {port} @{name}_p{v}",
            "a": f"{ip} {peer} . meta l4proto @{name}_a{v}",
            "h": f"{ip} {peer} @{name}_h{v}",
            "i": f"{ip} {peer} . {icmp} type @{name}_i{v}",
            "r": f"{ip} {peer} . meta l4proto . th {port} @{name}_r{v}",
            "c": f"{unknown}{ip} {peer} . meta l4proto . th {port} @{name}_c{v}",
            "n": f"{unknown}{ip} {peer} . {icmp} type @{name}_n{v}",
        }
        rules += [
            f"ct direction {way} {rule} {onward[way]}"
            for each, rule in fields.items()
            if each in profile.sets
        ]
    return Chain(f"{name}_{v}", (*rules, *missed))


def _definition(profiles: Iterable[ProfileLike]) -> str:
    """The sets and chains of new profiles in nft's language; what others go on to is made first."""
    listed = sorted(profiles, key=lambda profile: profile.then not in ("", "-"))
    if not listed:
        return ""
    sets = tuple(text for profile in listed for v in (4, 6) for text in _profile_sets(profile, v))
    chains = tuple(_profile_chain(profile, v) for profile in listed for v in (4, 6))
    return sections.script(Section(NFPROTO_INET, SECTION.version, chains, sets))


def _family(name: str) -> int:
    return NFPROTO_BRIDGE if name.startswith("port_") else NFPROTO_INET


def _element(entry: EntryLike, *, bare: bool) -> bytes:
    parts = [nested(_KEY, attribute(_VALUE, entry.key))]
    if entry.end:
        parts.append(nested(_KEY_END, attribute(_VALUE, entry.end)))
    if entry.chain and not bare:
        verdict = nested(_VERDICT, attribute(_VERDICT_CODE, _GOTO), string(_VERDICT_CHAIN, entry.chain))
        parts.append(nested(_DATA, verdict))
    if entry.flags:
        parts.append(attribute(_FLAGS, entry.flags.to_bytes(4, "big")))
    return nested(_LIST_ELEM, *parts)


def _messages(entries: Iterable[EntryLike], *, remove: bool = False) -> list[Message]:
    by_set: dict[str, list[EntryLike]] = {}
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
            body = string(_LIST_TABLE, TABLE) + string(_LIST_SET, name) + nested(_LIST_ELEMENTS, *packed)
            made.append(Message(nfnetlink.SUBSYS_NFTABLES, number, flags, _family(name), body))
    return made


class Mismatch(Exception):
    """The kernel does not hold what was taken for granted; what it holds has to be looked at."""


def _batch(socket: Nfnetlink, messages: Sequence[Message]) -> int:
    failed = socket.batch(messages) if messages else {}
    if failed:
        raise Mismatch(f"errno {next(iter(failed.values()))}")
    return 1 if messages else 0


def ensure(socket: Nfnetlink, *, ports: bool) -> None:
    """The fixed chains; with `ports` those that bind a bridge port's addresses too. CniError 999."""
    sections.ensure(socket, SECTION)
    if ports:
        sections.ensure(socket, PORTS)


def apply(
    socket: Nfnetlink,
    *,
    new: Iterable[ProfileLike],
    fill: Collection[EntryLike],
    remove: Collection[EntryLike],
    add: Collection[EntryLike],
    dead: Iterable[ProfileLike],
) -> int:
    """One change; the fixed chains are there. The number of transactions that it was. Mismatch when an
    element that is to go is not there, or one that is to come is; CniError 999.
    """
    count = _run(socket.namespace, _definition(new))
    filling = _messages(fill)
    for start in range(0, len(filling), A_FILLING):
        count += _batch(socket, filling[start : start + A_FILLING])
    count += _batch(socket, [*_messages(remove, remove=True), *_messages(add)])
    return count + discard(socket, {profile.name for profile in dead})


def _run(namespace: Namespace, script: str) -> int:
    if not script:
        return 0
    try:
        library.run(namespace, script)
    except library.ScriptError as error:
        raise Mismatch(str(error)) from error
    return 1


def discard(socket: Nfnetlink, profiles: Collection[str]) -> int:
    """Make the chains and sets of these profiles go that are there; the number of transactions. Mismatch when
    they are in use.
    """
    if not profiles:
        return 0
    chains = {name for name in chain_names(socket) if name.rpartition("_")[0] in profiles}
    names = [name for name in elements.sets(socket, NFPROTO_INET) if name.rpartition("_")[0] in profiles]
    if not chains and not names:
        return 0
    lines = [f"flush chain {SECTION.table} {name}" for name in sorted(chains)]
    lines += [f"delete chain {SECTION.table} {name}" for name in sorted(chains)]
    lines += [f"delete set {SECTION.table} {name}" for name in sorted(names)]
    return _run(socket.namespace, "\n".join(lines) + "\n")


def chain_names(socket: Nfnetlink) -> list[str]:
    """The chains of our table. CniError 999."""
    request = Message(nfnetlink.SUBSYS_NFTABLES, _GETCHAIN, 0, NFPROTO_INET, string(_CHAIN_TABLE, TABLE))
    found = (attributes(body) for body in socket.dump(request))
    ours = (fields for fields in found if fields.get(_CHAIN_TABLE, b"").rstrip(b"\0") == TABLE.encode())
    return [fields.get(_CHAIN_NAME, b"").rstrip(b"\0").decode() for fields in ours]


def chains_of(profile: ProfileLike) -> tuple[Chain, ...]:
    """A profile's chains, as they have to be."""
    return tuple(_profile_chain(profile, version) for version in (4, 6))


def present(socket: Nfnetlink, entries: Sequence[EntryLike]) -> list[bool]:
    """Whether each element of hash sets is there. CniError 999."""
    wanted = [elements.Element(_family(entry.set), entry.set, entry.key) for entry in entries]
    return [comment is not None for comment in elements.comments(socket, wanted)]


def destination(socket: Nfnetlink, name: str, key: bytes) -> str:
    """The chain that a verdict map leads a key to, "" for none."""
    body = string(_LIST_TABLE, TABLE) + string(_LIST_SET, name)
    body += nested(_LIST_ELEMENTS, nested(_LIST_ELEM, nested(_KEY, attribute(_VALUE, key))))
    (answer,) = socket.request([Message(nfnetlink.SUBSYS_NFTABLES, _GETSETELEM, 0, _family(name), body)])
    return next((chain for body in answer.bodies for _, _, chain, _ in _entries(body)), "")


def set_names(socket: Nfnetlink) -> list[str]:
    """The sets of ours that policy is made of, those of profiles included."""
    mine = ("policy_", "in_", "out_", "host_", "from_")
    names = [name for name in elements.sets(socket, NFPROTO_INET) if name.startswith(mine)]
    return names + [name for name in elements.sets(socket, NFPROTO_BRIDGE) if name.startswith("port_")]


def read(socket: Nfnetlink, name: str) -> list[tuple[bytes, bytes, str, int]]:
    """What a set holds: key, end, chain and flags of each element. CniError 999."""
    body = string(_LIST_TABLE, TABLE) + string(_LIST_SET, name)
    request = Message(nfnetlink.SUBSYS_NFTABLES, _GETSETELEM, 0, _family(name), body)
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
