"""Traffic as sets that can be added and subtracted: five lanes of disjoint ranges.

A lane is a protocol: tcp, udp, sctp (ranges of ports), ICMP (of the family in question, ranges of types), and
every other protocol together (all or nothing).
"""

from collections.abc import Iterable

from cni_plugins.policy.model import Traffic

Ranges = tuple[tuple[int, int], ...]
Lanes = tuple[Ranges, Ranges, Ranges, Ranges, Ranges]

LANES = ("tcp", "udp", "sctp", "icmp", "other")
ICMP, OTHER = 3, 4
FULL: Lanes = (((0, 65535),), ((0, 65535),), ((0, 65535),), ((0, 255),), ((0, 0),))
NONE: Lanes = ((), (), (), (), ())
NUMBERS = {4: (6, 17, 132, 1), 6: (6, 17, 132, 58)}


def union(*listed: Ranges) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(item for ranges in listed for item in ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def subtract(ranges: Ranges, away: Ranges) -> Ranges:
    left = list(ranges)
    for start, end in away:
        cut: list[tuple[int, int]] = []
        for low, high in left:
            if end < low or start > high:
                cut.append((low, high))
                continue
            if low < start:
                cut.append((low, start - 1))
            if high > end:
                cut.append((end + 1, high))
        left = cut
    return tuple(left)


def add(one: Lanes, other: Lanes) -> Lanes:
    a, b, c, d, e = (union(mine, yours) for mine, yours in zip(one, other, strict=True))
    return a, b, c, d, e


def remove(one: Lanes, other: Lanes) -> Lanes:
    a, b, c, d, e = (subtract(mine, yours) for mine, yours in zip(one, other, strict=True))
    return a, b, c, d, e


def meet(one: Lanes, other: Lanes) -> Lanes:
    """What both have."""
    return remove(one, remove(one, other))


def lanes(listed: Iterable[Traffic], version: int) -> Lanes:
    """What `listed` means for IPv4 or IPv6."""
    found = NONE
    for item in listed:
        found = add(found, _lanes(item, version))
    return found


def _lanes(item: Traffic, version: int) -> Lanes:
    if item.protocol == "any":
        return FULL
    made: list[Ranges] = list(NONE)
    if item.protocol in LANES[:3]:
        made[LANES.index(item.protocol)] = ((item.low, item.high),)
    elif item.protocol in ("icmp", f"icmpv{version}"):
        made[ICMP] = ((item.low, min(item.high, 255)),)
    a, b, c, d, e = made
    return a, b, c, d, e
