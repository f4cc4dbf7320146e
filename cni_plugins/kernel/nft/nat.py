"""Address translation: the rules that masquerading and published ports share.

A packet to one of the host's own addresses is looked up by (address, protocol, port), then by (protocol,
port), and translated to what the map says. On its way out a packet's source is looked up in `masquerade`,
and the target of a translated connection in `answer`: both lead to a chain of the subnet, because that is
what decides whether the source must be hidden. A masqueraded source never hides from its own subnet or
from a multicast group. A published target is told the host's address instead of the sender's when the
answer would not come back through the host: when the sender is in the target's own subnet (or is the
target), or is the host's loopback.

127.0.0.1 can be translated only where route_localnet lets loopback addresses out of an interface, which
would also let neighbours on that interface address the host's loopback: `localnet` lists the interfaces for
which we set it, and what comes in by them for 127.0.0.0/8 is dropped before anything else sees it. IPv6 has
no route_localnet: an answer would be dropped on its way back to ::1. So ::1 is not translated, and a program
that tries `localhost` is refused there at once and goes on to 127.0.0.1.
"""

import hashlib
from functools import lru_cache

from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET
from cni_plugins.kernel.nft.sections import Chain, Section
from cni_plugins.spec.values import IpInterface, IpNetwork

ANSWER_ALL = "answer_all"


def _port_sets(suffix: str) -> tuple[str, ...]:
    return tuple(
        f"map {name}{version}{suffix} {{ type {key} : ipv{version}_addr . inet_service ; }}"
        for version in (4, 6)
        for name, key in (
            ("port", "inet_proto . inet_service"),
            ("address_port", f"ipv{version}_addr . inet_proto . inet_service"),
        )
    )


def _port_chains(suffix: str, local: tuple[str, ...]) -> tuple[Chain, ...]:
    """`local` are the rules that lead packets to one of the host's addresses into the look-up."""
    return (
        Chain(
            f"publish{suffix}",
            (
                "iifname . meta l4proto . th dport @excluded return",
                "ip6 daddr ::1 return",
                f"dnat ip to ip daddr . meta l4proto . th dport map @address_port4{suffix}",
                f"dnat ip to meta l4proto . th dport map @port4{suffix}",
                f"dnat ip6 to ip6 daddr . meta l4proto . th dport map @address_port6{suffix}",
                f"dnat ip6 to meta l4proto . th dport map @port6{suffix}",
            ),
        ),
        Chain(f"prerouting{suffix}", local, "type nat hook prerouting priority -100"),
        Chain(f"output{suffix}", local, "type nat hook output priority -100"),
    )


SECTION = Section(
    family=NFPROTO_INET,
    version="nat_1",
    sets=(
        "map masquerade4 { type ipv4_addr : verdict ; }",
        "map masquerade6 { type ipv6_addr : verdict ; }",
        "map answer4 { type ipv4_addr : verdict ; }",
        "map answer6 { type ipv6_addr : verdict ; }",
        *_port_sets(""),
        "set localnet { type ifname ; }",
        "set excluded { type ifname . inet_proto . inet_service ; }",
    ),
    chains=(
        *_port_chains("", ("fib daddr type local jump publish",)),
        Chain(ANSWER_ALL, ("masquerade",)),
        Chain(
            "guard_loopback",
            ("iifname @localnet ip daddr 127.0.0.0/8 drop",),
            "type filter hook prerouting priority -300",
        ),
        Chain(
            "postrouting",
            (
                "ip daddr 224.0.0.0/4 return",
                "ip6 daddr ff00::/8 return",
                "ct status dnat ip daddr vmap @answer4",
                "ct status dnat ip6 daddr vmap @answer6",
                "ip saddr vmap @masquerade4",
                "ip6 saddr vmap @masquerade6",
            ),
            "type nat hook postrouting priority 100",
        ),
    ),
)


def suffix_of(conditions: tuple[str, str]) -> str:
    """What the names of maps and chains end in where packets must match further `conditions` (v4, v6)."""
    if not any(conditions):
        return ""
    return "_" + hashlib.sha256("\0".join(conditions).encode()).hexdigest()[:12]


def conditional(conditions: tuple[str, str]) -> Section:
    """Published ports for packets that match further conditions, in nft's language: maps and chains of their
    own, one group for all networks that ask for the same. SECTION has to be there too.
    """
    suffix = suffix_of(conditions)
    local = tuple(
        f"meta nfproto ipv{version} {condition} fib daddr type local jump publish{suffix}"
        for version, condition in zip((4, 6), conditions, strict=True)
    )
    return Section(NFPROTO_INET, f"nat_1{suffix}", _port_chains(suffix, local), _port_sets(suffix))


def _named(prefix: str, network: IpNetwork) -> str:
    return f"{prefix}_{network}".replace(":", "-")


def leave(address: IpInterface) -> Chain:
    """The chain that hides the addresses of a subnet from all others."""
    return _leave(address.network)


@lru_cache(maxsize=64)
def _leave(network: IpNetwork) -> Chain:
    family = "ip" if network.version == 4 else "ip6"
    return Chain(_named("leave", network), (f"{family} daddr != {network} masquerade",))


def answer(address: IpInterface) -> Chain:
    """The chain that hides a sender whose answer would not come back through the host."""
    return _answer(address.network)


@lru_cache(maxsize=64)
def _answer(network: IpNetwork) -> Chain:
    if network.version == 6:
        return Chain(_named("answer", network), (f"ip6 saddr {network} masquerade",))
    return Chain(
        _named("answer", network), ("ip saddr 127.0.0.0/8 masquerade", f"ip saddr {network} masquerade")
    )
