"""Address ranges: their configuration made into pools of numbers, and walked. No I/O."""

from collections.abc import Iterator, Sequence
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
    return CniError(Code.INVALID_CONFIG, f"{key} is {value}: {why}")


def _address(number: int, version: int) -> Ip:
    return IPv4Address(number) if version == 4 else IPv6Address(number)


def make_range(config: RangeConfig, where: str) -> Range:
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
    end = config.range_end or _address(highest, version)
    gateway = config.gateway or (_address(lowest, version) if count > 1 else None)
    for key, value in (("rangeStart", start), ("rangeEnd", end)):
        if value not in subnet:
            raise _refuse(f"{where}.{key}", value, f"it is not in subnet {subnet}")
    if config.gateway is not None and config.gateway.version != version:
        raise _refuse(f"{where}.gateway", config.gateway, f"subnet {subnet} is of the other family")
    if int(start) > int(end):
        raise _refuse(f"{where}.rangeStart", start, f"it is after rangeEnd {end}")
    return Range(subnet, start, end, gateway)


def make_set(documents: Any, where: str) -> RangeSet:
    """A range set of JSON: a list of ranges of one family that do not overlap. CniError 2 or 7."""
    if not isinstance(documents, list | tuple) or not documents:
        raise _refuse(where, documents, "a range set is a list of at least one range")
    ranges: list[Range] = []
    for number, document in enumerate(documents):
        place = f"{where}[{number}]"
        if not isinstance(document, dict):
            raise _refuse(place, document, "a range is an object")
        one = make_range(decode(RangeConfig, document), place)
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
                            "ranges", f"{a.start}-{a.end}", f"it overlaps {b.start}-{b.end} of another set"
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
