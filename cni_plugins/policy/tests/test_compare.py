"""What is told to change is what an evaluator that shares no code with it finds changed."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni_plugins.policy.compare import Difference, differences, told
from cni_plugins.policy.compile import Compiler
from cni_plugins.policy.model import Endpoint
from cni_plugins.policy.tests import evaluator
from cni_plugins.policy.tests.strategies import endpoints, policies, probes
from cni_plugins.policy.tests.test_compile import model, read
from cni_plugins.policy.traffic import FULL, LANES, NONE, OTHER, Lanes

DB = {
    "name": "db",
    "for": {"container": "c1"},
    "ingress": [{"allow": ["tcp/5432", "icmp"], "from": [{"container": "c0"}, {"cidr": "198.51.100.0/24"}]}],
}


def has(lanes: Lanes, protocol: str, number: int) -> bool:
    lane = LANES.index(protocol) if protocol in LANES else OTHER
    return any(low <= (0 if lane == OTHER else number) <= high for low, high in lanes[lane])


def is_end(who: Endpoint | str, address: str, known: set[str]) -> bool:
    """Whether an end of a difference is about an address."""
    if isinstance(who, Endpoint):
        return ip_address(address) in who.addresses
    if address in known or who == "host":
        return False
    if who == "world":
        return True
    if "-" in who:
        low, high = (int(ip_address(part)) for part in who.split("-"))
        return low <= int(ip_address(address)) <= high
    return any(ip_address(address) in ip_network(network) for network in who.split(", "))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_what_is_told_is_what_changes(data: st.DataObject) -> None:
    world = data.draw(endpoints())
    known = {address for each in world for address in each["addresses"]}
    guarded = [ip_network(net) for each in world if each["default"] != "open" for net in each["subnets"]]
    some, others = data.draw(policies()), data.draw(policies())
    found = list(differences(Compiler(read(some)), Compiler(read(others)), [model(each) for each in world]))
    for item in found:
        assert item.before != item.after
    for probe in data.draw(probes(world)):
        source, target, protocol, number = probe
        if source == target or (
            source not in known and any(ip_address(source) in network for network in guarded)
        ):
            continue  # no policy says anything of these
        version = ip_address(source).version
        mine = [
            item
            for item in found
            if item.version == version
            and is_end(item.source, source, known)
            and is_end(item.target, target, known)
        ]
        was, now = (evaluator.allowed(listed, world, probe) for listed in (some, others))
        assert len(mine) <= 1
        if mine:
            assert (has(mine[0].before, protocol, number), has(mine[0].after, protocol, number)) == (was, now)
        else:
            assert was == now, probe


def ends(found: list[Difference]) -> list[tuple[str, str, int, str, str]]:
    def name(who: Endpoint | str) -> str:
        return who if isinstance(who, str) else who.container

    return [
        (
            name(item.source),
            name(item.target),
            item.version,
            told(item.before, item.version),
            told(item.after, item.version),
        )
        for item in found
    ]


def test_pairs_the_host_and_the_world() -> None:
    world = [
        model(
            {
                "network": "one",
                "container": f"c{number}",
                "addresses": [f"10.1.0.{number + 2}"],
                "subnets": ["10.1.0.0/24"],
                "groups": [],
                "labels": {},
                "default": "open",
            }
        )
        for number in range(3)
    ]
    closed = {"name": "x", "for": {"container": "c2"}, "egress": [{"allow": ["udp/53"], "to": ["any"]}]}
    silent = {
        "name": "h",
        "for": {"container": "c0"},
        "ingress": [{"deny": ["tcp/22"], "from": ["host"]}],
        "default": "keep",
    }
    none, all_of_them = Compiler([]), Compiler(read([DB, closed, silent]))
    assert ends(list(differences(none, all_of_them, world))) == [
        ("c0", "c1", 4, "any", "tcp/5432, icmp"),
        ("host", "c0", 4, "any", "tcp/0-21, tcp/23-65535, udp, sctp, icmp, other protocols"),
        ("0.0.0.0-198.51.99.255", "c1", 4, "any", "nothing"),
        ("198.51.100.0/24", "c1", 4, "any", "tcp/5432, icmp"),
        ("198.51.101.0-255.255.255.255", "c1", 4, "any", "nothing"),
        ("c2", "c0", 4, "any", "udp/53"),
        ("c2", "c1", 4, "any", "nothing"),
        ("c2", "host", 4, "any", "udp/53"),
        ("c2", "world", 4, "any", "udp/53"),
    ]
    assert list(differences(all_of_them, Compiler(read([silent, closed, DB])), world)) == []
    audit = Compiler(read([DB | {"audit": True}]))
    assert list(differences(none, audit, world)) == []


def test_words() -> None:
    assert told(FULL, 4) == "any"
    assert told(NONE, 6) == "nothing"
    assert told((((80, 81),), ((0, 65535),), (), ((8, 8),), ((0, 0),)), 4) == (
        "tcp/80-81, udp, icmpv4/8, other protocols"
    )
