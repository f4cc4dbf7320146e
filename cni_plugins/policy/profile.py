"""A profile, and the entries of its sets.

A profile is what holds for an endpoint in one direction. It is named by its content, so endpoints for which
the same holds share it; one that takes another's place in the kernel has that one's name (successors.py). Its
sets, each only where the rules may need it:

    p (peer, protocol, port)   a (peer, protocol)   h (peer)   i (peer, ICMP type)   hash
    r (peer, protocol, ports)                                                        intervals
    c (addresses, protocols, ports)   n (addresses, ICMP types)                      intervals, for who is no
                                                                                     endpoint
Denials are subtracted here; the kernel knows no denying rule.
"""

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from cni_plugins.policy import traffic
from cni_plugins.policy.model import REPLIES, Endpoint, IpNetwork, Peer, PeerKind, Rule, Traffic
from cni_plugins.policy.traffic import FULL, ICMP, NONE, NUMBERS, OTHER, Lanes
from cni_plugins.spec.values import Ip

FEW_RULES = 5
FEW_PORTS = 16  # a range of up to so many ports is so many elements of a hash set
END_OF_INTERVAL = 1  # NFT_SET_ELEM_INTERVAL_END


class Entry(NamedTuple):
    """One element: its key as the kernel's registers hold it, the end of the interval if it is one, the chain
    of a verdict map's.
    """

    set: str
    key: bytes
    end: bytes = b""
    chain: str = ""
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Profile:
    """`kind` is in, out, host or from. `then`: what an auditing profile goes on to, "-" for no other profile;
    it changes no verdict.

    What nobody tracks has kinds of its own, send and take, without rules and sets: `request` is the name and
    the sets of the profile that judges it as what opens a flow, `answer` of the one that judges it as what
    answers. `answers` of a host profile are the rules of answers to the host that nobody tracks.

    `content`: the name that says what it is, which is its own unless it took another's place (names.py).
    """

    name: str
    kind: str
    rules: tuple[Rule, ...]
    sets: frozenset[str]
    then: str = ""
    request: tuple[str, frozenset[str]] = ("", frozenset())
    answer: tuple[str, frozenset[str]] = ("", frozenset())
    answers: tuple[Rule, ...] = ()
    content: str = ""


@lru_cache(4096)
def _lanes(listed: tuple[Traffic, ...], version: int) -> Lanes:
    return traffic.lanes(listed, version)


def touches(peer: Peer, endpoint: Endpoint, address: Ip) -> bool:
    """Whether an endpoint's address is meant."""
    if peer.kind is PeerKind.ANY:
        return True
    if peer.kind is PeerKind.ENDPOINTS:
        return peer.selector.matches(endpoint)
    return peer.kind is PeerKind.CIDR and covers(peer, address)


def covers(peer: Peer, address: Ip) -> bool:
    """Whether a CIDR peer holds the address."""
    assert peer.cidr is not None
    if address.version != peer.cidr.version or address not in peer.cidr:
        return False
    return not any(address in network for network in peer.excepted)


def for_host(rules: Iterable[Rule]) -> list[Rule]:
    """The rules that speak of the host, with it as their only peer."""
    host = (Peer(PeerKind.HOST),)
    return [
        Rule(rule.allow, rule.traffic, host)
        for rule in rules
        if any(peer.kind in (PeerKind.HOST, PeerKind.ANY) for peer in rule.peers)
    ]


def host_lanes(rules: Iterable[Rule], version: int) -> Lanes:
    return _balance([(rule.allow, rule.traffic) for rule in rules], version)


def _balance(matching: Iterable[tuple[bool, tuple[Traffic, ...]]], version: int) -> Lanes:
    allowed, denied = NONE, NONE
    for allow, listed in matching:
        if allow:
            allowed = traffic.add(allowed, _lanes(listed, version))
        else:
            denied = traffic.add(denied, _lanes(listed, version))
    return allowed if denied == NONE else traffic.remove(allowed, denied)


@lru_cache(4096)
def _balanced(matching: tuple[tuple[bool, tuple[Traffic, ...]], ...], version: int) -> Lanes:
    return _balance(matching, version)


def needed(rules: tuple[Rule, ...]) -> frozenset[str]:
    """The sets that entries may come to be in, whoever comes. Each costs memory, and every packet a look-up:
    what a peer may be allowed is worked out for every choice of rules that speak of it, if they are few.
    """
    found = {entry.set[1] for entry in _outside("", rules)}
    if not any(peer.kind is not PeerKind.WORLD for rule in rules if rule.allow for peer in rule.peers):
        return frozenset(found)
    if len(rules) > FEW_RULES:
        plain = {item for rule in rules for item in rule.traffic}
        typed = any(item.protocol.startswith("icmp") for item in plain)
        if all(item.protocol == "any" for item in plain):
            return frozenset(found | {"h"})
        return frozenset(found | set("pahr") | ({"i"} if typed else set()))
    for count in range(1, len(rules) + 1):
        for chosen in itertools.combinations(rules, count):
            for version in (4, 6):
                lanes = _balanced(tuple((rule.allow, rule.traffic) for rule in chosen), version)
                found.update(entry.set[1] for entry in placed("", version, b"", lanes))
    return frozenset(found)


def towards(profile: Profile, endpoint: Endpoint, address: Ip) -> Lanes:
    """What a profile allows with an endpoint's address as the peer."""
    matching = tuple(
        (rule.allow, rule.traffic)
        for rule in profile.rules
        if any(touches(peer, endpoint, address) for peer in rule.peers)
    )
    return _balanced(matching, address.version) if matching else NONE


def networks(profile: Profile) -> dict[int, list[tuple[int, int]]]:
    """By family, where addresses are told apart: the first of a CIDR peer's, and the first after them."""
    found: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for rule in profile.rules:
        for peer in rule.peers:
            if peer.cidr is not None:
                first = int(peer.cidr.network_address)
                found[peer.cidr.version].append((first, first + peer.cidr.num_addresses))
    return found


def placed(name: str, version: int, peer: bytes, lanes: Lanes) -> Iterator[Entry]:
    if lanes == FULL:
        yield Entry(f"{name}_h{version}", peer)
        return
    for lane, (ranges, number) in enumerate(zip(lanes[:3], NUMBERS[version], strict=False)):
        if ranges == FULL[lane]:
            yield Entry(f"{name}_a{version}", peer + _byte(number))
            continue
        for low, high in ranges:
            if high - low < FEW_PORTS:
                for port in range(low, high + 1):
                    yield Entry(f"{name}_p{version}", peer + _byte(number) + _port(port))
            else:
                start = peer + _byte(number) + _port(low)
                yield Entry(f"{name}_r{version}", start, peer + _byte(number) + _port(high))
    number = NUMBERS[version][ICMP]
    if lanes[ICMP] == FULL[ICMP]:
        yield Entry(f"{name}_a{version}", peer + _byte(number))
    else:
        for kind in sorted(_types(lanes[ICMP], version)):
            yield Entry(f"{name}_i{version}", peer + _byte(kind))
    if lanes[OTHER]:
        for low, high in _other_protocols(version):
            start, end = peer + _byte(low) + _port(0), peer + _byte(high) + _port(65535)
            yield Entry(f"{name}_r{version}", start, end)


def _types(ranges: traffic.Ranges, version: int) -> set[int]:
    """ICMP types, and those that answer them."""
    found = {kind for low, high in ranges for kind in range(low, high + 1)}
    return found | {reply for kind, reply in REPLIES[version].items() if kind in found}


@lru_cache(2)
def _other_protocols(version: int) -> traffic.Ranges:
    return traffic.subtract(((0, 255),), tuple((number, number) for number in sorted(NUMBERS[version])))


def pieces(rules: Sequence[Rule], version: int) -> list[tuple[int, int, Lanes]]:
    """The addresses of a family as ranges, each with what is allowed there to whom is no endpoint."""
    bits = 32 if version == 4 else 128
    bounds = {0, 1 << bits}
    for rule in rules:
        for peer in rule.peers:
            for network in (peer.cidr, *peer.excepted) if peer.kind is PeerKind.CIDR else ():
                if network is not None and network.version == version:
                    first = int(network.network_address)
                    bounds.update((first, first + network.num_addresses))
    listed = sorted(bounds)
    found: list[tuple[int, int, Lanes]] = []
    for low, following in itertools.pairwise(listed):
        matching = tuple(
            (rule.allow, rule.traffic)
            for rule in rules
            if any(_outsider(peer, low, version) for peer in rule.peers)
        )
        lanes = _balanced(matching, version)
        if found and found[-1][2] == lanes and found[-1][1] == low - 1:
            found[-1] = (found[-1][0], following - 1, lanes)
        else:
            found.append((low, following - 1, lanes))
    return [piece for piece in found if piece[2] != NONE]


def _outsider(peer: Peer, address: int, version: int) -> bool:
    if peer.kind in (PeerKind.WORLD, PeerKind.ANY):
        return True
    if peer.kind is not PeerKind.CIDR or peer.cidr is None or peer.cidr.version != version:
        return False
    return _holds(peer.cidr, address) and not any(_holds(network, address) for network in peer.excepted)


def _holds(network: IpNetwork, address: int) -> bool:
    return 0 <= address - int(network.network_address) < network.num_addresses


def outside(profile: Profile) -> Iterator[Entry]:
    return _outside(profile.name, profile.rules)


def _outside(name: str, rules: Sequence[Rule]) -> Iterator[Entry]:
    for version, size in ((4, 4), (6, 16)):
        for low, high, lanes in pieces(rules, version):
            first, last = low.to_bytes(size, "big"), high.to_bytes(size, "big")
            for start, end in _boxes(lanes, version):
                yield Entry(f"{name}_c{version}", first + start, last + end)
            if lanes[ICMP] != FULL[ICMP]:
                for kind in sorted(_types(lanes[ICMP], version)):
                    yield Entry(f"{name}_n{version}", first + _byte(kind), last + _byte(kind))


def _boxes(lanes: Lanes, version: int) -> Iterator[tuple[bytes, bytes]]:
    """Protocols and ports as intervals; single ICMP types are left out."""
    if lanes == FULL:
        yield _byte(0) + _port(0), _byte(255) + _port(65535)
        return
    for ranges, number in zip(lanes[:3], NUMBERS[version], strict=False):
        for low, high in ranges:
            yield _byte(number) + _port(low), _byte(number) + _port(high)
    if lanes[ICMP] == FULL[ICMP]:
        number = NUMBERS[version][ICMP]
        yield _byte(number) + _port(0), _byte(number) + _port(65535)
    if lanes[OTHER]:
        for low, high in _other_protocols(version):
            yield _byte(low) + _port(0), _byte(high) + _port(65535)


def host_entries(profile: Profile) -> Iterator[Entry]:
    for version in (4, 6):
        lanes = host_lanes(profile.rules, version)
        for start, end in _boxes(lanes, version):
            yield Entry(f"{profile.name}_w{version}", start, end)
        for start, end in _boxes(host_lanes(profile.answers, version), version) if profile.answers else ():
            yield Entry(f"{profile.name}_s{version}", start, end)
        if lanes[ICMP] != FULL[ICMP]:
            for low, high in lanes[ICMP]:
                for kind in range(low, high + 1):
                    yield Entry(f"{profile.name}_t{version}", bytes((kind,)))  # one field: not padded


def interval(name: str, network: IpNetwork) -> Iterator[Entry]:
    """A subnet in a set of plain intervals: where it begins, and where what is after it does."""
    yield Entry(name, network.network_address.packed)
    following = int(network.network_address) + network.num_addresses
    size = network.max_prefixlen // 8
    if following < 1 << network.max_prefixlen:
        yield Entry(name, following.to_bytes(size, "big"), flags=END_OF_INTERVAL)


def _byte(number: int) -> bytes:
    return struct.pack("B3x", number)


def _port(number: int) -> bytes:
    return struct.pack(">H2x", number)


def interface(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")
