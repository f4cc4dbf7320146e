"""Address ranges: their configuration made into pools of numbers, and walked. No I/O."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from cni_plugins.spec.config import CIDR, IP, decode, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import Ip, IpInterface, IpNetwork


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

    def overlaps(self, other: "Range") -> bool:
        return self.start.version == other.start.version and not (
            int(self.end) < int(other.start) or int(other.end) < int(self.start)
        )


RangeSet = tuple[Range, ...]


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
    for number, document in enumerate(documents):
        place = f"{where}[{number}]"
        if not isinstance(document, dict):
            raise _refuse(place, document, "a range is an object")
        config = decode(RangeConfig, document, where=f"{place}.", unknown=remarks.unknown)
        one = make_range(config, place, remarks)
        for other in ranges:
            if one.start.version != other.start.version:
                raise _refuse(
                    place, one.subnet, f"a set is of one family, and {other.subnet} is of the other"
                )
            if one.overlaps(other):
                raise _refuse(place, one.subnet, f"it overlaps {other.start}-{other.end}")
        ranges.append(one)
    return tuple(ranges)


def check_sets(sets: Sequence[RangeSet]) -> None:
    """Refuse sets that overlap. CniError 7."""
    for number, one in enumerate(sets):
        for other in sets[:number]:
            for a in one:
                for b in other:
                    if a.overlaps(b):
                        raise _refuse(
                            "ipam.ranges",
                            f"{a.start}-{a.end}",
                            f"it overlaps {b.start}-{b.end} of another set",
                        )


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
