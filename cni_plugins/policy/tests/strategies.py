"""Small worlds, with addresses, ports and prefixes near one another's edges.

Each strategy is made once: one that is made for a draw is validated and measured anew, which takes longer
than what is drawn of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st

PROTOCOLS = {"tcp": (6, 6), "udp": (17, 17), "sctp": (132, 132), "icmp": (1, 58), "47": (47, 47)}
_GROUPS = ["dev", "Dev", "test", "gro\u0308n", "gr\u00f6n"]
_VALUES = ["web", "db", "", 'a=b:",']
_LABELS = ["role", "tier"]
_PORTS = [1, 22, 79, 80, 81, 443, 5432, 8000, 8099, 8100, 65535]
_TYPES = [3, 8, 13, 128]  # a reply opens no flow
_CIDRS = [
    "0.0.0.0/0", "10.1.0.0/24", "10.1.0.2/32", "10.1.0.2/31", "10.2.0.0/16", "10.0.0.0/8", "198.51.100.0/24",
    "198.51.100.7/32", "::/0", "fd01::/64", "fd01::2/127", "2001:db8::/32",
]  # fmt: skip
_OUTSIDE = ["198.51.100.7", "198.51.101.0", "10.9.9.9", "10.1.0.200", "2001:db8::7", "fd01::ffff"]
NETWORKS = {
    "one": (["10.1.0.0/24", "fd01::/64"], "10.1.0.{0}", "fd01::{0}"),
    "two": (["10.2.0.0/24", "fd02::/64"], "10.2.0.{0}", "fd02::{0}"),
}


_YES_OR_NO = st.booleans()
_ONE_OF_FIVE = st.integers(0, 4)
_A_NETWORK = st.sampled_from(sorted(NETWORKS))
_A_DEFAULT = st.sampled_from(["open", "isolated", "groups"])
_A_GROUP = st.sampled_from(_GROUPS)
_A_LABEL = st.sampled_from(_LABELS)
_A_VALUE = st.sampled_from(_VALUES)
_A_PORT = st.sampled_from(_PORTS)
_A_TYPE = st.sampled_from(_TYPES)
_A_PROTOCOL = st.sampled_from(sorted(PROTOCOLS))
_SOME_GROUPS = st.lists(_A_GROUP, unique=True, max_size=2)
_SOME_LABELS = st.dictionaries(_A_LABEL, _A_VALUE)


@cache
def endpoints(least: int = 2, most: int = 6) -> st.SearchStrategy[list[dict[str, Any]]]:
    return _endpoints(st.integers(least, most))


@st.composite
def _endpoints(draw: st.DrawFn, count: st.SearchStrategy[int]) -> list[dict[str, Any]]:
    defaults = {name: draw(_A_DEFAULT) for name in NETWORKS}
    found = []
    for number in range(draw(count)):
        network = draw(_A_NETWORK)
        subnets, four, six = NETWORKS[network]
        found.append(
            {
                "network": network,
                "container": f"c{number}",
                "addresses": [four.format(number + 2), six.format(number + 2)],
                "subnets": subnets,
                "groups": draw(_SOME_GROUPS),
                "labels": draw(_SOME_LABELS),
                "default": defaults[network],
            }
        )
    return found


_A_SELECTOR = st.fixed_dictionaries(
    {},
    optional={
        "network": _A_NETWORK,
        "group": _A_GROUP,
        "labels": st.dictionaries(_A_LABEL, st.none() | _A_VALUE, min_size=1),
        "container": st.sampled_from(["c0", "c1", "c5"]),
    },
)

_A_CIDR = st.sampled_from(_CIDRS)
_SOME_CIDRS = {
    six: st.lists(st.sampled_from([each for each in _CIDRS if (":" in each) == six]), max_size=2)
    for six in (False, True)
}


@st.composite
def _cidr(draw: st.DrawFn) -> dict[str, Any]:
    cidr = draw(_A_CIDR)
    return {"cidr": cidr, "except": draw(_SOME_CIDRS[":" in cidr])}


_A_NAME = st.sampled_from(["any", "tcp", "tcp", "udp", "sctp", "icmp", "icmpv4", "icmpv6"])
_AN_ICMP = st.sampled_from(["icmp/echo-request", "icmp/timestamp-request"])
_AN_ICMP_TYPE = st.sampled_from([8, 13, 128])


@st.composite
def _traffic(draw: st.DrawFn) -> str:
    name = draw(_A_NAME)
    if name == "any" or draw(_YES_OR_NO):
        return name
    if name == "icmp":
        return draw(_AN_ICMP)
    if name.startswith("icmp"):
        return f"{name}/{draw(_AN_ICMP_TYPE)}"
    low, high = sorted((draw(_A_PORT), draw(_A_PORT)))
    return f"{name}/{low}" if draw(_YES_OR_NO) else f"{name}/{low}-{high}"


_AN_ACTION = st.sampled_from(["allow", "allow", "allow", "deny"])
_SOME_TRAFFIC = st.lists(_traffic(), min_size=1, max_size=3)
_SOME_PEERS = st.lists(
    st.sampled_from(["any", "world", "host"]) | _cidr() | _A_SELECTOR, min_size=1, max_size=2
)


@st.composite
def _rule(draw: st.DrawFn, key: str) -> dict[str, Any]:
    return {draw(_AN_ACTION): draw(_SOME_TRAFFIC), key: draw(_SOME_PEERS)}


_DIRECTIONS = st.sampled_from([("ingress",), ("egress",), ("ingress", "egress")])
_SOME_RULES = {key: st.lists(_rule(key), max_size=3) for key in ("from", "to")}


@st.composite
def _policy(draw: st.DrawFn, number: int) -> dict[str, Any]:
    made: dict[str, Any] = {"name": f"p{number}", "for": draw(_A_SELECTOR)}
    directions = draw(_DIRECTIONS)
    for direction, key in (("ingress", "from"), ("egress", "to")):
        if direction in directions:
            made[direction] = draw(_SOME_RULES[key])
    if draw(_ONE_OF_FIVE) == 0:
        made["default"] = "keep"
    if draw(_ONE_OF_FIVE) == 0:
        made["audit"] = True
    if draw(st.integers(0, 2)) == 0:
        made["untracked"] = draw(st.sampled_from(["both", "both", "deny"]))
    return made


@cache
def policies(most: int = 6) -> st.SearchStrategy[list[dict[str, Any]]]:
    return _policies(st.integers(0, most), [_policy(number) for number in range(most)])


@st.composite
def _policies(
    draw: st.DrawFn, count: st.SearchStrategy[int], each: list[st.SearchStrategy[dict[str, Any]]]
) -> list[dict[str, Any]]:
    return [draw(policy) for policy in each[: draw(count)]]


@st.composite
def probes(draw: st.DrawFn, world: list[dict[str, Any]], count: int = 12) -> list[tuple[str, str, str, int]]:
    """Source, target, protocol, port or type; at least one of the two is an endpoint's."""
    listed = [address for each in world for address in each["addresses"]]
    one = st.sampled_from(listed)
    another = {
        six: st.sampled_from([each for each in (*listed, *_OUTSIDE) if (":" in each) == six])
        for six in (False, True)
    }
    found = []
    for _ in range(count):
        mine = draw(one)
        pair = [mine, draw(another[":" in mine])]
        if draw(_YES_OR_NO):
            pair.reverse()
        protocol = draw(_A_PROTOCOL)
        number = draw(_A_TYPE if protocol == "icmp" else _A_PORT)
        found.append((pair[0], pair[1], protocol, 0 if protocol == "47" else number))
    return found
