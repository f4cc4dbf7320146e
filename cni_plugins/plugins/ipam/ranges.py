"""Address ranges: their configuration made into pools of numbers, and walked. No I/O."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from cni_plugins.spec.call import Call
from cni_plugins.spec.config import CIDR, IP, decode, option, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import Ip, IpInterface, IpNetwork, parse_cidr, parse_ip


@dataclass(frozen=True, slots=True)
class RangeConfig:
    subnet: IpInterface | None = option("subnet", CIDR, None, "the network; needed")
    range_start: Ip | None = option(
        "rangeStart", IP, None, "first address to give; default the first host address"
    )
    range_end: Ip | None = option("rangeEnd", IP, None, "last address to give; default the last host address")
    gateway: Ip | None = option(
        "gateway", IP, None, "never given to a container; default the first host address"
    )


@dataclass(frozen=True, slots=True)
class Range:
    """`start` and `end` are both included; `gateway` is None for a network of one address."""

    subnet: IpNetwork
    start: Ip
    end: Ip
    gateway: Ip | None

    def __contains__(self, address: Ip) -> bool:
        return address.version == self.start.version and int(self.start) <= int(address) <= int(self.end)


RangeSet = tuple[Range, ...]
MOST_SETS = 1000
"""In a network: a container has an address of each, which the kernel and a result must bear."""
_Span = tuple[int, int, int, int]  # family, first address, last address, number


@dataclass(slots=True)
class Spans:
    """Ranges that do not overlap, each found by an address of it: thousands take no longer than a few."""

    _spans: list[_Span] = field(default_factory=list)

    def add(self, one: Range, number: int) -> int | None:
        """Take a range in under a number, unless it overlaps one: the number of that."""
        version, low, high = one.start.version, int(one.start), int(one.end)
        at = bisect_left(self._spans, (version, low))
        for other in self._spans[max(0, at - 1) : at + 1]:
            if other[0] == version and other[1] <= high and low <= other[2]:
                return other[3]
        insort(self._spans, (version, low, high, number))
        return None

    def renumbered(self, numbers: Sequence[int]) -> "Spans":
        """The same ranges, each under what `numbers` has at its number."""
        return Spans([(family, low, high, numbers[at]) for family, low, high, at in self._spans])

    def find(self, address: Ip) -> int | None:
        """The number of the range that an address is in."""
        version, value = address.version, int(address)
        at = bisect_right(self._spans, (version, value, 1 << 128))
        if not at:
            return None
        family, _, high, number = self._spans[at - 1]
        return number if family == version and value <= high else None


def _refuse(key: str, value: object, why: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, f"{key} is {str(value)[:80]}: {why}")


def _address(number: int, version: int) -> Ip:
    return IPv4Address(number) if version == 4 else IPv6Address(number)


@dataclass(frozen=True, slots=True)
class Remarks:
    """Who is told of what may be on purpose, and of keys that no range has."""

    warn: Callable[[str], None]
    unknown: Callable[[str], None]


def make_range(config: RangeConfig, where: str, remarks: Remarks) -> Range:
    """A range of its configuration, with the reference plugin's defaults. CniError 7 naming the key."""
    if config.subnet is None:
        raise CniError(Code.INVALID_CONFIG, f"{where} has no subnet")
    subnet: IpNetwork = config.subnet.network
    if config.subnet.ip != subnet.network_address:
        raise _refuse(f"{where}.subnet", config.subnet, f"it has host bits; {subnet} is meant?")
    version, first, last = subnet.version, int(subnet.network_address), int(subnet.broadcast_address)
    count = last - first + 1
    lowest, highest = first, last
    if count > 2:
        lowest, highest = first + 1, last - 1 if version == 4 else last
    start = config.range_start or _address(lowest, version)
    if version == 6 and count > 2 and int(start) == first:
        # A host that forwards answers for it itself: the routers' anycast address (RFC 4291, 2.6.1).
        start = _address(first + 1, version)
    end = config.range_end or _address(highest, version)
    gateway = config.gateway or (_address(lowest, version) if count > 1 else None)
    for key, value in (("rangeStart", start), ("rangeEnd", end)):
        if value not in subnet:
            raise _refuse(f"{where}.{key}", value, f"it is not in subnet {subnet}")
    if config.gateway is not None:
        check_gateway(config.gateway, subnet, f"{where}.gateway", remarks.warn)
    if gateway is None:
        remarks.warn(
            f"{where}.subnet is {subnet}: one address and no gateway, so the container reaches nobody; "
            "give a larger subnet, or a 'gateway'"
        )
    if int(start) > int(end):
        raise _refuse(f"{where}.rangeStart", start, f"it is after rangeEnd {end}")
    for name, address in (("rangeStart", start), ("rangeEnd", end), ("gateway", gateway)):
        if address is not None and _is_nobodys(address):
            why = f"its {address} is an address that no interface can have: give another subnet, or {name}"
            raise _refuse(f"{where}.subnet", subnet, why)
    return Range(subnet, start, end, gateway)


def _is_nobodys(address: Ip) -> bool:
    """Addresses that the kernel gives to no interface of a container and takes as no gateway: "this network"
    (RFC 1122, 3.2.1.3), multicast, and IPv6's own host.
    """
    this_network = int(address) >> 24 == 0 if address.version == 4 else int(address) <= 1
    return this_network or address.is_multicast


def check_gateway(gateway: Ip, subnet: IpNetwork, where: str, warn: Callable[[str], None]) -> None:
    """CniError 7 for an address that no router can have; one outside the subnet may be meant for a route of
    its own, and is remarked on, unless it is of the link itself (fe80::1, the same for every container).
    """
    if gateway.version != subnet.version:
        raise _refuse(where, gateway, f"subnet {subnet} is of the other family")
    problem = unusable(gateway, subnet)
    if problem:
        raise _refuse(where, gateway, f"it is {problem} of {subnet}, which no router can have")
    if gateway not in subnet and not (gateway.version == 6 and gateway.is_link_local):
        warn(f"{where} is {gateway}, which is outside of {subnet}: the container has no way to it")


def unusable(address: Ip, subnet: IpNetwork) -> str:
    """What an address is in its subnet that no host can be, "" if it is usable (RFC 1122, 3.2.1.3; in a /31
    both addresses are hosts', RFC 3021; IPv6 has no broadcast, and its first address is the routers').
    """
    if subnet.version == 6 or subnet.prefixlen >= 31:
        return ""
    if address == subnet.network_address:
        return "the network's own address"
    return "the broadcast address" if address == subnet.broadcast_address else ""


def make_set(documents: Any, where: str, remarks: Remarks) -> RangeSet:
    """A range set of JSON: a list of ranges of one family that do not overlap. CniError 2 or 7."""
    if not isinstance(documents, list | tuple) or not documents:
        raise _refuse(where, documents, "a range set is a list of at least one range")
    ranges: list[Range] = []
    spans = Spans()
    for number, document in enumerate(documents):
        place = f"{where}[{number}]"
        if not isinstance(document, dict):
            raise _refuse(place, document, "a range is an object")
        config = decode(RangeConfig, document, where=f"{place}.", unknown=remarks.unknown)
        one = make_range(config, place, remarks)
        if one.start.version != (ranges or [one])[0].start.version:
            raise _refuse(
                place, one.subnet, f"a set is of one family, and {ranges[0].subnet} is of the other"
            )
        overlapped = spans.add(one, number)
        if overlapped is not None:
            other = ranges[overlapped]
            raise _refuse(place, one.subnet, f"it overlaps {other.start}-{other.end}")
        ranges.append(one)
    return tuple(ranges)


def check_sets(sets: Sequence[RangeSet]) -> Spans:
    """Where the addresses of sets are, by the sets' numbers. CniError 7 for too many sets, and for some that
    overlap.
    """
    if len(sets) > MOST_SETS:
        raise _refuse(
            "ipam.ranges",
            f"a list of {len(sets)} range sets",
            f"a container gets an address from each, and {MOST_SETS} is the most; ranges of which "
            "it is to get one address belong into one set",
        )
    spans, listed = Spans(), [(number, one) for number, ranges in enumerate(sets) for one in ranges]
    for at, (_, one) in enumerate(listed):
        overlapped = spans.add(one, at)
        if overlapped is not None:
            other = listed[overlapped][1]
            why = f"it overlaps {other.start}-{other.end} of another set"
            raise _refuse("ipam.ranges", f"{one.start}-{one.end}", why)
    return spans.renumbered([number for number, _ in listed])


def range_of(ranges: RangeSet, address: Ip) -> Range | None:
    return next((one for one in ranges if address in one), None)


def walk(ranges: RangeSet, last: Ip | None) -> Iterator[tuple[Ip, Range]]:
    """Every address of a set once, gateways left out: from the one after `last`, if it is in the set, around
    to it.
    """
    at = next((number for number, one in enumerate(ranges) if last is not None and last in one), None)
    if at is None or last is None:
        order = [(one, int(one.start), int(one.end)) for one in ranges]
    else:
        here = ranges[at]
        order = [(here, int(last) + 1, int(here.end))]
        order += [(one, int(one.start), int(one.end)) for one in (*ranges[at + 1 :], *ranges[:at])]
        order.append((here, int(here.start), int(last)))
    for one, low, high in order:
        skip = int(one.gateway) if one.gateway is not None else -1
        for number in range(low, high + 1):
            if number != skip:
                yield _address(number, one.start.version), one


def requested(call: Call) -> list[Ip]:
    """CNI_ARGS IP, args.cni.ips and runtimeConfig.ips, all of them; a prefix length says nothing here."""
    listed: list[tuple[str, Any]] = [
        ("CNI_ARGS IP", item.strip()) for item in call.args.get("IP", "").split(",") if item.strip()
    ]
    for key, value in (("args.cni.ips", call.cni_args("ips")), ("runtimeConfig.ips", call.runtime("ips"))):
        if value is not None and not isinstance(value, list):
            raise CniError(Code.INVALID_CONFIG, f"{key} is {shown(value)}, which is not a list")
        listed += [(key, item) for item in value or ()]
    wanted: dict[Ip, None] = {}
    for key, item in listed:
        try:
            address = parse_cidr(item).ip if "/" in item else parse_ip(item)
        except (TypeError, ValueError) as error:
            raise CniError(
                Code.INVALID_CONFIG, f"{key} has {shown(item)}, which is not an IP address"
            ) from error
        wanted[address] = None
    return list(wanted)
