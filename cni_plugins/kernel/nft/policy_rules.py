"""The fixed chains and sets of network policy, as nft writes them. How packets go through them is told in
policy.py; a profile's are in profile_rules.py.
"""

from typing import Protocol

from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET
from cni_plugins.kernel.nft.sections import Chain, Section

AGENT_PORT = 5051

#: How a packet is refused.
DENY = (
    'limit rate 50/second burst 100 packets log prefix "mesokit deny " group 5',
    "counter",
    "meta l4proto tcp reject with tcp reset",
    "reject with icmpx type admin-prohibited",
)

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
                *DENY,
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
