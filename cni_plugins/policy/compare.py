"""What two sets of policies say differently of the endpoints that there are.

A profile's name tells all that it holds, so of two ends of which each has the profiles that it had before
nothing is worked out.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, summarize_address_range
from typing import TypeAlias

from cni_plugins.policy.compile import Assignment, Compiler
from cni_plugins.policy.model import Direction, Endpoint
from cni_plugins.policy.profile import Profile, host_lanes, pieces, towards
from cni_plugins.policy.traffic import FULL, LANES, NONE, OTHER, Lanes, meet, remove
from cni_plugins.spec.values import Ip

HOST, WORLD = "host", "world"
_FEW = 3  # networks that are told one by one
_BITS = {4: 32, 6: 128}

Pieces: TypeAlias = Sequence[tuple[int, int, Lanes]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Of flows that `source` begins with `target`: an endpoint, HOST, or who is neither, by addresses (WORLD
    for all of the family). `before` and `after` is what passes.
    """

    source: Endpoint | str
    target: Endpoint | str
    version: int
    before: Lanes
    after: Lanes


@dataclass(frozen=True, slots=True)
class _Both:
    """What holds for an endpoint before and after; None: all passes."""

    out: tuple[Profile | None, Profile | None]
    into: tuple[Profile | None, Profile | None]
    to_host: tuple[Profile | None, Profile | None]
    from_host: tuple[Profile | None, Profile | None]


def differences(before: Compiler, after: Compiler, endpoints: Sequence[Endpoint]) -> Iterator[Difference]:
    """By source, in the order of `endpoints`: with other endpoints, the host, and the world."""
    both = {endpoint.identity: _both(before, after, endpoint) for endpoint in endpoints}
    for source in endpoints:
        mine = both[source.identity]
        for target in endpoints:
            theirs = both[target.identity]
            if source.identity != target.identity and (_differ(mine.out) or _differ(theirs.into)):
                yield from _of_pair(source, target, mine, theirs)
        yield from _of_host(source, mine)
        yield from _of_world(source, mine)


def told(lanes: Lanes, version: int) -> str:
    """As a policy file has it: `tcp/80-81, icmp`; "nothing" and "any" for none and all."""
    if lanes in (NONE, FULL):
        return "any" if lanes == FULL else "nothing"
    words: list[str] = []
    for lane, (ranges, full) in enumerate(zip(lanes, FULL, strict=True)):
        name = LANES[lane]
        if not ranges or ranges == full:
            words += [f"{name} protocols" if lane == OTHER else name] * bool(ranges)
            continue
        name = f"icmpv{version}" if name == "icmp" else name
        words += [f"{name}/{low}" if low == high else f"{name}/{low}-{high}" for low, high in ranges]
    return ", ".join(words)


def _both(before: Compiler, after: Compiler, endpoint: Endpoint) -> _Both:
    compilers = before, after
    was, now = (compiler.assignment(endpoint) for compiler in compilers)

    def profiles(names: tuple[str, str]) -> tuple[Profile | None, Profile | None]:
        first, second = (
            compiler.profiles[name] if name else None for compiler, name in zip(compilers, names, strict=True)
        )
        return first, second

    return _Both(
        (_enforced(before, was, Direction.EGRESS), _enforced(after, now, Direction.EGRESS)),
        (_enforced(before, was, Direction.INGRESS), _enforced(after, now, Direction.INGRESS)),
        profiles((was.host, now.host)),
        profiles((was.back, now.back)),
    )


def _enforced(compiler: Compiler, assigned: Assignment, direction: Direction) -> Profile | None:
    """Not the one that only counts what it would refuse."""
    out = direction is Direction.EGRESS
    if not (assigned.shut_out if out else assigned.shut_in):
        return None
    profile = compiler.profiles[assigned.out if out else assigned.into]
    return compiler.profiles[profile.then] if profile.then else profile


def _differ(both: tuple[Profile | None, Profile | None]) -> bool:
    was, now = both
    return (was.name if was else "") != (now.name if now else "")


def _of_pair(source: Endpoint, target: Endpoint, mine: _Both, theirs: _Both) -> Iterator[Difference]:
    seen: dict[Difference, None] = {}
    for own, other in itertools.product(source.addresses, target.addresses):
        if own.version != other.version:
            continue
        was, now = (
            meet(
                FULL if out is None else towards(out, target, other),
                FULL if into is None else towards(into, source, own),
            )
            for out, into in zip(mine.out, theirs.into, strict=True)
        )
        if was != now:
            seen[Difference(source, target, own.version, was, now)] = None
    yield from seen


def _of_host(endpoint: Endpoint, both: _Both) -> Iterator[Difference]:
    for version in sorted({address.version for address in endpoint.addresses}):
        was, now = (FULL if each is None else host_lanes(each.rules, version) for each in both.to_host)
        if was != now:
            yield Difference(endpoint, HOST, version, was, now)
        was, now = (  # a profile of what is denied
            FULL if each is None else remove(FULL, host_lanes(each.rules, version)) for each in both.from_host
        )
        if was != now:
            yield Difference(HOST, endpoint, version, was, now)


def _of_world(endpoint: Endpoint, both: _Both) -> Iterator[Difference]:
    for version in sorted({address.version for address in endpoint.addresses}):
        for direction in (both.out, both.into):
            if not _differ(direction):
                continue
            for who, was, now in _outside(direction, version):
                source, target = (endpoint, who) if direction is both.out else (who, endpoint)
                yield Difference(source, target, version, was, now)


def _outside(both: tuple[Profile | None, Profile | None], version: int) -> Iterator[tuple[str, Lanes, Lanes]]:
    """Addresses of who is no endpoint, with what passes before and after, where that differs."""
    last = (1 << _BITS[version]) - 1
    was, now = ([(0, last, FULL)] if each is None else pieces(each.rules, version) for each in both)
    edges = sorted({0, last + 1, *(edge for low, high, _ in (*was, *now) for edge in (low, high + 1))})
    found: list[tuple[int, int, Lanes, Lanes]] = []
    for low, following in itertools.pairwise(edges):
        lanes = _at(was, low), _at(now, low)
        if found and found[-1][2:] == lanes:
            found[-1] = (found[-1][0], following - 1, *lanes)
        else:
            found.append((low, following - 1, *lanes))
    for low, high, before, after in found:
        if before != after:
            yield _named(low, high, version), before, after


def _at(listed: Pieces, address: int) -> Lanes:
    return next((lanes for low, high, lanes in listed if low <= address <= high), NONE)


def _named(low: int, high: int, version: int) -> str:
    size = _BITS[version] // 8
    if high - low == (1 << _BITS[version]) - 1:
        return WORLD
    first, last = ip_address(low.to_bytes(size, "big")), ip_address(high.to_bytes(size, "big"))
    networks = list(itertools.islice(_networks(first, last), _FEW + 1))
    return ", ".join(networks) if len(networks) <= _FEW else f"{first}-{last}"


def _networks(first: Ip, last: Ip) -> Iterator[str]:
    if isinstance(first, IPv4Address) and isinstance(last, IPv4Address):
        return map(str, summarize_address_range(first, last))
    assert isinstance(first, IPv6Address)
    assert isinstance(last, IPv6Address)
    return map(str, summarize_address_range(first, last))
