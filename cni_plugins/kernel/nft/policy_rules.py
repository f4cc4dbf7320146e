"""The chains and sets of network policy, as nft writes them: the fixed ones, and those of a profile. How
packets go through them is told in policy.py.
"""

from collections.abc import Iterable
from typing import Protocol

from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET
from cni_plugins.kernel.nft import sections
from cni_plugins.kernel.nft.sections import Chain, Section

AGENT_PORT = 5051

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


def definition(profiles: Iterable[ProfileLike]) -> str:
    """The sets and chains of new profiles in nft's language; what others go on to is made first."""
    listed = sorted(profiles, key=lambda profile: profile.then not in ("", "-"))
    if not listed:
        return ""
    sets = tuple(text for profile in listed for v in (4, 6) for text in _profile_sets(profile, v))
    chains = tuple(_profile_chain(profile, v) for profile in listed for v in (4, 6))
    return sections.script(Section(NFPROTO_INET, SECTION.version, chains, sets))


def chains_of(profile: ProfileLike) -> tuple[Chain, ...]:
    """A profile's chains, as they have to be."""
    return tuple(_profile_chain(profile, version) for version in (4, 6))
