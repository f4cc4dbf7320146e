"""Small worlds, with addresses, ports and prefixes near one another's edges."""

from __future__ import annotations

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


@st.composite
def endpoints(draw: st.DrawFn, least: int = 2, most: int = 6) -> list[dict[str, Any]]:
    defaults = {name: draw(st.sampled_from(["open", "isolated", "groups"])) for name in NETWORKS}
    found = []
    for number in range(draw(st.integers(least, most))):
        network = draw(st.sampled_from(sorted(NETWORKS)))
        subnets, four, six = NETWORKS[network]
        found.append(
            {
                "network": network,
                "container": f"c{number}",
                "addresses": [four.format(number + 2), six.format(number + 2)],
                "subnets": subnets,
                "groups": draw(st.lists(st.sampled_from(_GROUPS), unique=True, max_size=2)),
                "labels": draw(st.dictionaries(st.sampled_from(_LABELS), st.sampled_from(_VALUES))),
                "default": defaults[network],
            }
        )
    return found


def selectors() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "network": st.sampled_from(sorted(NETWORKS)),
            "group": st.sampled_from(_GROUPS),
            "labels": st.dictionaries(
                st.sampled_from(_LABELS), st.none() | st.sampled_from(_VALUES), min_size=1
            ),
            "container": st.sampled_from(["c0", "c1", "c5"]),
        },
    )


@st.composite
def _cidr(draw: st.DrawFn) -> dict[str, Any]:
    cidr = draw(st.sampled_from(_CIDRS))
    same = [each for each in _CIDRS if (":" in each) == (":" in cidr)]
    return {"cidr": cidr, "except": draw(st.lists(st.sampled_from(same), max_size=2))}


@st.composite
def _traffic(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(["any", "tcp", "tcp", "udp", "sctp", "icmp", "icmpv4", "icmpv6"]))
    if name == "any" or draw(st.booleans()):
        return name
    if name == "icmp":
        return draw(st.sampled_from(["icmp/echo-request", "icmp/timestamp-request"]))
    if name.startswith("icmp"):
        return f"{name}/{draw(st.sampled_from([8, 13, 128]))}"
    low, high = sorted((draw(st.sampled_from(_PORTS)), draw(st.sampled_from(_PORTS))))
    return f"{name}/{low}" if draw(st.booleans()) else f"{name}/{low}-{high}"


@st.composite
def _rule(draw: st.DrawFn, key: str) -> dict[str, Any]:
    action = draw(st.sampled_from(["allow", "allow", "allow", "deny"]))
    peers = st.sampled_from(["any", "world", "host"]) | _cidr() | selectors()
    return {
        action: draw(st.lists(_traffic(), min_size=1, max_size=3)),
        key: draw(st.lists(peers, min_size=1, max_size=2)),
    }


@st.composite
def _policy(draw: st.DrawFn, number: int) -> dict[str, Any]:
    made: dict[str, Any] = {"name": f"p{number}", "for": draw(selectors())}
    directions = draw(st.sampled_from([("ingress",), ("egress",), ("ingress", "egress")]))
    for direction, key in (("ingress", "from"), ("egress", "to")):
        if direction in directions:
            made[direction] = draw(st.lists(_rule(key), max_size=3))
    if draw(st.integers(0, 4)) == 0:
        made["default"] = "keep"
    if draw(st.integers(0, 4)) == 0:
        made["audit"] = True
    if draw(st.integers(0, 2)) == 0:
        made["untracked"] = draw(st.sampled_from(["both", "both", "deny"]))
    return made


@st.composite
def policies(draw: st.DrawFn, most: int = 6) -> list[dict[str, Any]]:
    return [draw(_policy(number)) for number in range(draw(st.integers(0, most)))]


@st.composite
def probes(draw: st.DrawFn, world: list[dict[str, Any]], count: int = 12) -> list[tuple[str, str, str, int]]:
    """Source, target, protocol, port or type; at least one of the two is an endpoint's."""
    listed = [address for each in world for address in each["addresses"]]
    found = []
    for _ in range(count):
        mine = draw(st.sampled_from(listed))
        same = [each for each in (*listed, *_OUTSIDE) if (":" in each) == (":" in mine)]
        pair = [mine, draw(st.sampled_from(same))]
        if draw(st.booleans()):
            pair.reverse()
        protocol = draw(st.sampled_from(sorted(PROTOCOLS)))
        number = draw(st.sampled_from(_TYPES if protocol == "icmp" else _PORTS))
        found.append((pair[0], pair[1], protocol, 0 if protocol == "47" else number))
    return found
