"""The fixed chains and sets of network policy in a container's own namespace, as nft writes them: for
interfaces whose packets the host does not see. A profile's chains are those of profile_rules.py.

The hooks are input and output. Whose interface it is decides, not the address; what comes by `lo`, or by an
interface that the host judges, is not looked at. The node's own addresses are judged as the host's rules
judge what is for the node or from it. Whoever has CAP_NET_ADMIN in the namespace can take all of this away,
and raw frames (packet sockets, CAP_NET_RAW) pass it by in both directions.
"""

from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET
from cni_plugins.kernel.nft.policy_rules import AGENT_PORT, DENY, DENY_UNTRACKED, MAPS
from cni_plugins.kernel.nft.sections import Chain, Section

_NEIGHBOURS = "{ 130, 131, 132, 133, 134, 135, 136, 143 }"
_MARKER = "policy_inside_3"


def _sets(v: int) -> tuple[str, ...]:
    return (
        *(f"map inside_{name}{v} {{ type ifname : verdict ; }}" for name in MAPS),
        f"set policy_known{v} {{ type ipv{v}_addr ; }}",
        f"set inside_node{v} {{ type ipv{v}_addr ; }}",
    )


def _by_profile(way: str, direction: str) -> tuple[str, ...]:
    """The rules that lead to an interface's profile of a direction, or to nowhere."""
    return (
        *(f"meta nfproto ipv{v} {way} vmap @inside_{direction}{v}" for v in (4, 6)),
        f"{way} @inside_shut_{direction} goto policy_deny",
    )


def _untracked(way: str, side: str, profile: str, shut: str, node: str) -> tuple[str, ...]:
    """What nobody tracks: to or from the node itself as ever, else by the profile of such packets."""
    return (
        *(f"{ip} {side} @inside_node{v} goto {node}" for ip, v in (("ip", 4), ("ip6", 6))),
        *(f"meta nfproto ipv{v} {way} vmap @inside_{profile}{v}" for v in (4, 6)),
        f"{way} @inside_shut_{shut} goto policy_deny_untracked",
    )


def _invalid(way: str) -> tuple[str, ...]:
    return (*(f"{way} @inside_shut_{shut} counter drop" for shut in ("in", "out")), "accept")


def _by_node(way: str, side: str, direction: str) -> tuple[str, ...]:
    """The node itself: replies pass, then what is said of it, else it is let pass."""
    return (
        "ct direction reply accept",
        f"ip {side} @inside_node4 {way} vmap @inside_{direction}4",
        f"ip6 {side} @inside_node6 {way} vmap @inside_{direction}6",
        "accept",
    )


def _fixed(way: str, hook: str, *, ports: str) -> tuple[str, ...]:
    """What passes, or is refused, whatever the profiles say."""
    return (
        f"{way} != @inside_links accept",
        f"icmpv6 type {_NEIGHBOURS} accept",
        "meta l4proto igmp accept",
        f"udp sport . udp dport {{ {ports} }} accept",
        f"ct state vmap {{ related : accept, invalid : goto inside_{hook}_invalid, "
        f"untracked : goto inside_{hook}_untracked }}",
    )


INSIDE = Section(
    family=NFPROTO_INET,
    version=_MARKER,
    sets=(
        *_sets(4),
        *_sets(6),
        "set inside_links { type ifname ; }",
        "set inside_shut_out { type ifname ; }",
        "set inside_shut_in { type ifname ; }",
    ),
    chains=(
        Chain("policy_deny", DENY),
        Chain("policy_deny_untracked", DENY_UNTRACKED),
        *(Chain(f"policy_{name}{v}", ("accept",)) for name in ("to", "taken") for v in (4, 6)),
        Chain("inside_from_node", _by_node("iifname", "saddr", "from")),
        Chain("inside_to_node", (f"tcp dport {AGENT_PORT} accept", *_by_node("oifname", "daddr", "host"))),
        Chain("inside_in_reply", _by_profile("iifname", "out")),
        Chain("inside_out_reply", _by_profile("oifname", "in")),
        Chain("inside_in_untracked", _untracked("iifname", "saddr", "take", "in", "inside_from_node")),
        Chain("inside_out_untracked", _untracked("oifname", "daddr", "send", "out", "inside_to_node")),
        Chain("inside_in_invalid", _invalid("iifname")),
        Chain("inside_out_invalid", _invalid("oifname")),
        Chain(
            "inside_input",
            (
                *_fixed("iifname", "in", ports="67 . 68, 547 . 546"),
                "ip saddr @inside_node4 goto inside_from_node",
                "ip6 saddr @inside_node6 goto inside_from_node",
                "ct direction reply goto inside_in_reply",
                *_by_profile("iifname", "in"),
            ),
            "type filter hook input priority -10",
        ),
        Chain(
            "inside_output",
            (
                *_fixed("oifname", "out", ports="68 . 67, 546 . 547"),
                "ip daddr @inside_node4 goto inside_to_node",
                "ip6 daddr @inside_node6 goto inside_to_node",
                "ct direction reply goto inside_out_reply",
                *_by_profile("oifname", "out"),
            ),
            "type filter hook output priority -10",
        ),
    ),
)
