"""The fixed chains and sets of network policy, as nft writes them. How packets go through them is told in
policy.py; a profile's are in profile_rules.py.
"""

from typing import Protocol

from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE, NFPROTO_INET
from cni_plugins.kernel.nft.sections import Chain, Section

AGENT_PORT = 5051
#: Of ICMPv6: neighbours, listeners, who looks for routers.
NEIGHBOUR_TYPES = (130, 131, 132, 133, 135, 136, 143)


def _deny(prefix: str) -> tuple[str, ...]:
    return (
        f'limit rate 50/second burst 100 packets log prefix "{prefix} " group 5',
        "counter",
        "meta l4proto tcp reject with tcp reset",
        "reject with icmpx type admin-prohibited",
    )


DENY = _deny("mesokit deny")  #: How a packet is refused,
DENY_UNTRACKED = _deny("mesokit deny untracked")  #: and one of a flow that nobody tracks.

#: What the bridge family has of the sets, by how their names begin.
_BETWEEN = (
    "policy_out", "policy_in", "policy_shut", "policy_known", "policy_closed", "policy_self", "policy_send",
    "policy_take",
)  # fmt: skip
_GUARDED = "set port_guarded { type ifname ; }"
_OF_PORTS = (
    _GUARDED,
    "set port_shut_in { type ifname ; }",
    "set port_shut_out { type ifname ; }",
    "set port_target6 { typeof iifname . @th,64,128 ; }",
)
_ITSELF = tuple(f"{ip} saddr . {ip} daddr @policy_self{v} accept" for ip, v in (("ip", 4), ("ip6", 6)))
_NOBODYS = "{ 131, 132, 133, 135, 143 }"  # what is sent before there is an address
_ND = f"{{ {', '.join(map(str, NEIGHBOUR_TYPES))} }}"


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


#: By an end's address (or, in a container's namespace, its interface), its profiles: see policy.compile.
MAPS = ("out", "in", "host", "from", "send", "take")


def _address(version: int) -> str:
    return f"ipv{version}_addr"


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _source(kind: str, version: int) -> str:
    return f"set {kind}_source{version} {{ type ifname . {_address(version)} ; }}"


def _judging(version: int, link: str, six: str = "") -> tuple[Chain, ...]:
    """From a flow's state to its profiles. `link` is what came in by, at layer 3; `six` how an IPv6 packet is
    told where a VLAN tag may be before it.
    """
    ip, v = _ip(version), version
    first = _first(v, link, six)
    return (
        Chain(f"policy_new{v}", (*first, f"goto policy_{v}")),
        Chain(
            # A flow that nobody tracks has no ends: each end of the packet is looked at by itself.
            f"policy_untracked{v}",
            (
                *first,
                f"{ip} saddr vmap @policy_send{v}",
                f"{ip} saddr @policy_shut_out{v} goto policy_deny_untracked",
                f"goto policy_taken{v}",
            ),
        ),
        Chain(
            f"policy_taken{v}",
            (
                f"{ip} daddr vmap @policy_take{v}",
                f"{ip} daddr @policy_shut_in{v} goto policy_deny_untracked",
            ),
        ),
        # Each map is looked up in one place: the kernel walks all of a map, for each place, at every change.
        Chain(
            f"policy_{v}",
            (
                f"ct original {ip} saddr vmap @policy_out{v}",
                f"ct original {ip} saddr @policy_shut_out{v} goto policy_deny",
                f"goto policy_to{v}",
            ),
        ),
        Chain(
            f"policy_to{v}",
            (
                f"ct reply {ip} saddr vmap @policy_in{v}",
                f"ct reply {ip} saddr @policy_shut_in{v} goto policy_deny",
            ),
        ),
        Chain(
            # As deep as that of a new flow, so that the kernel's look through all chains goes by once.
            f"policy_related{v}",
            (
                f"meta l4proto {'icmp' if v == 4 else 'icmpv6'} goto policy_error{v}",
                *first,
                f"goto policy_{v}",
            ),
        ),
        Chain(
            f"policy_error{v}",
            (*_ends(v, "accept"), f"{ip} daddr @policy_shut_in{v} counter drop"),
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
        *(f"map policy_{name}{v} {{ type {address} : verdict ; }}" for name in MAPS),
        *(f"set policy_{name}{v} {{ type {address} ; }}" for name in ("shut_out", "shut_in", "known")),
        f"set policy_closed{v} {{ type {address} ; flags interval ; }}",
        f"set policy_self{v} {{ type {address} . {address} ; }}",
    )


def _ends(version: int, end: str) -> tuple[str, ...]:
    """Errors come from routers, and from the two ends of the flow that they are about; else from nobody who
    is closed outwards.
    """
    ip, v = _ip(version), version
    return (
        f"{ip} saddr != @policy_known{v} {end}",
        *(
            f"{ip} saddr . ct {side} @policy_self{v} {end}"
            for side in (f"original {ip} saddr", f"original {ip} daddr", f"reply {ip} saddr")
        ),
        f"{ip} saddr @policy_shut_out{v} counter drop",
    )


def _first(version: int, link: str, six: str) -> tuple[str, ...]:
    """What is looked at where a flow begins."""
    if version == 4:
        return ("ip saddr @policy_closed4 ip saddr != @policy_known4 goto policy_unknown",)
    return (
        # No router passes these on: what comes over one is no neighbour's, and each has room for words.
        f"{six}icmpv6 type {{ 133, 135, 136 }} ip6 hoplimit 255 accept",
        f"{six}icmpv6 type {{ 130, 131, 132, 143 }} ip6 daddr ff00::/8 accept",
        f"ip6 saddr fe80::/10 {link} @policy_links goto policy_unknown",
        f"ip6 daddr fe80::/10 {link} @policy_links goto policy_unknown",
        "ip6 saddr @policy_closed6 ip6 saddr != @policy_known6 goto policy_unknown",
    )


def _by_state(key: str, names: tuple[str, str]) -> str:
    """The rule that leads a packet on; `names` are those of both families, by `key`."""
    ways = (
        ("established", ""),
        ("new", "new"),
        ("related", "related"),
        ("untracked", "untracked"),
        ("invalid", "invalid"),
    )
    listed = (
        f"{state} . {name} : goto policy_{chain}{v}"
        for state, chain in ways
        for name, v in zip(names, (4, 6), strict=True)
    )
    return f"ct state . {key} vmap {{ {', '.join(listed)} }}"


SECTION = Section(
    family=NFPROTO_INET,
    version="policy_fixed_4",
    sets=(
        *_sets(4),
        *_sets(6),
        "set policy_links { type ifname ; }",
        "set policy_host_links { type ifname ; }",
    ),
    chains=(
        Chain("policy_deny", (*_ITSELF, *DENY)),
        Chain("policy_deny_untracked", (*_ITSELF, *DENY_UNTRACKED)),
        Chain("policy_unknown", ("counter drop",)),
        Chain("policy_error", tuple(rule for version in (4, 6) for rule in _ends(version, "return"))),
        *_judging(4, "iifname"),
        *_judging(6, "iifname"),
        Chain(
            "policy_forward",
            (_by_state("meta nfproto", ("ipv4", "ipv6")),),
            "type filter hook forward priority -10",
        ),
        Chain(
            "policy_input",
            (
                "ct state related meta l4proto { icmp, icmpv6 } goto policy_error",
                "ct direction reply return",
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
    ),
)

#: Addresses that routed interfaces may send from.
SOURCES = Section(
    family=NFPROTO_INET,
    version="policy_sources_3",
    sets=(
        "set policy_guarded { type ifname ; }",
        "set policy_target6 { typeof iifname . @th,64,128 ; }",
        *(_source("policy", version) for version in (4, 6)),
    ),
    chains=(
        Chain(
            "policy_guard",
            (
                "meta nfproto ipv4 iifname @policy_guarded "
                "iifname . ip saddr != @policy_source4 counter drop",
                "meta nfproto ipv6 meta l4proto != icmpv6 iifname . ip6 saddr @policy_source6 accept",
                "icmpv6 type { 134, 137 } iifname @policy_guarded counter drop",
                "icmpv6 type 136 @th,64,10 != 0x3fa iifname @policy_guarded "
                "iifname . @th,64,128 != @policy_target6 counter drop",
                f"ip6 saddr :: icmpv6 type {_NOBODYS} accept",
                "meta nfproto ipv6 ip6 saddr != fe80::/10 iifname @policy_guarded "
                "iifname . ip6 saddr != @policy_source6 counter drop",
            ),
            "type filter hook prerouting priority -310",
        ),
    ),
)


def _ports(version: str, protocol: str, more: tuple[str, ...] = ()) -> Section:
    """Addresses that ports of a bridge may send from, and are sent to. What is as it should be is let pass by
    one look-up: every packet comes by here. `protocol` is how frames of a protocol are told.

    Whoever is closed gets what is for his own addresses, and is judged; nothing of his neighbours that is for
    all, for a group, or for an address that nobody gave him: no policy would look at that. Neither does
    a neighbour who is closed outwards send it to those under policy.
    """
    return Section(
        family=NFPROTO_BRIDGE,
        version=version,
        sets=(*_OF_PORTS, *(_source("port", version) for version in (4, 6))),
        chains=(
            Chain(
                "policy_guard6",
                (
                    f"{protocol} ip6 meta l4proto != icmpv6 iifname . ip6 saddr @port_source6 accept",
                    f"{protocol} ip6 icmpv6 type {{ 134, 137 }} iifname @port_guarded counter drop",
                    f"{protocol} ip6 icmpv6 type 136 @th,64,10 != 0x3fa iifname @port_guarded "
                    "iifname . @th,64,128 != @port_target6 counter drop",
                    f"{protocol} ip6 iifname . ip6 saddr @port_source6 accept",
                    f"{protocol} ip6 ip6 saddr :: icmpv6 type {_NOBODYS} accept",
                    f"{protocol} ip6 ip6 saddr != fe80::/10 iifname @port_guarded counter drop",
                ),
            ),
            Chain(
                "policy_guard",
                (
                    f"{protocol} ip iifname . ip saddr @port_source4 accept",
                    f"{protocol} ip6 goto policy_guard6",
                    *more,
                    f"{protocol} ip ip saddr 0.0.0.0 udp dport 67 accept",
                    f"{protocol} ip ip saddr 0.0.0.0 ip protocol igmp accept",
                    f"{protocol} ip iifname @port_guarded counter drop",
                    f"{protocol} arp arp saddr ip != 0.0.0.0 iifname @port_guarded "
                    "iifname . arp saddr ip != @port_source4 counter drop",
                ),
                "type filter hook prerouting priority -310",
            ),
            Chain(
                "policy_receivers",
                (
                    f"{protocol} ip oifname . ip daddr @port_source4 accept",
                    f"{protocol} ip6 oifname . ip6 daddr @port_source6 accept",
                    f"{protocol} arp accept",
                    f"{protocol} ip6 icmpv6 type {_ND} accept",
                    "oifname @port_shut_in counter drop",
                    "iifname @port_shut_out oifname @port_guarded counter drop",
                ),
                "type filter hook forward priority -11",
            ),
        ),
    )


#: A VLAN tag hides no address here.
PORTS = _ports("policy_ports_5", "meta protocol")
#: The same where br_netfilter judges, which lets pass what is neither of IP nor ARP, or has a VLAN tag that
#: the bridge, or who gets it, may take off again.
PORTS_UNTAGGED = _ports(
    "policy_untagged_5",
    "ether type",
    ("ether type != { ip, ip6, arp } iifname @port_guarded counter drop",),
)

#: Beside PORTS where connections are tracked in the bridge family.
BRIDGED = Section(
    family=NFPROTO_BRIDGE,
    version="policy_bridge_4",
    sets=(
        *(each for version in (4, 6) for each in _sets(version) if each.split()[1].startswith(_BETWEEN)),
        "set policy_links { type ifname ; }",
        _GUARDED,
    ),
    chains=(
        Chain("policy_deny", (*_ITSELF, *DENY[:2], "drop")),
        Chain("policy_deny_untracked", (*_ITSELF, *DENY_UNTRACKED[:2], "drop")),
        Chain("policy_unknown", ("counter drop",)),
        *_judging(4, "meta ibrname"),
        *_judging(6, "meta ibrname", "meta protocol ip6 "),
        Chain(
            "policy_ports",
            (
                _by_state("meta protocol", ("ip", "ip6")),
                "meta protocol != { ip, ip6, arp } iifname @port_guarded counter drop",
            ),
            "type filter hook forward priority -10",
        ),
    ),
)
