"""Prefix translation of IPv6 (NPTv6, RFC 6296): which external address stands for an internal one.

One prefix takes the place of another of the same length, and one 16-bit word of the rest is adjusted so that
the sum over the address, and with it every checksum of a transport, stays the same. So the two addresses
imply one another, and whoever translates between the same two prefixes comes to the same ones.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from itertools import combinations
from typing import Any

from cni_plugins.spec.config import OBJECT, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import Ip, IpInterface, parse_cidr

_WORDS, _ONES = 8, 0xFFFF
_SUBNET, _LONGEST = 48, 64  # the longest prefix with a subnet word to adjust, and of all (RFC 6296, 3.4, 3.5)


@dataclass(frozen=True, slots=True)
class PrefixPair:
    """Two IPv6 prefixes of one length."""

    internal: IpInterface
    external: IpInterface

    def external_of(self, address: Ip) -> Ip | None:
        """What the world knows an address by; None for one outside of the internal prefix, and for the few
        that RFC 6296 cannot map (all ones where the sum is adjusted).
        """
        return _mapped(address, self.internal, self.external)

    def __str__(self) -> str:
        return f"{self.internal.network} to {self.external.network}"


def _words(address: Ip) -> list[int]:
    raw = address.packed
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, 2 * _WORDS, 2)]


def _sum(*words: int) -> int:
    total = sum(words)
    while total > _ONES:
        total = (total & _ONES) + (total >> 16)
    return total


def _mapped(address: Ip, internal: IpInterface, external: IpInterface) -> Ip | None:
    if address not in internal.network:
        return None
    length, words = internal.network.prefixlen, _words(address)
    places = (3,) if length <= _SUBNET else (4, 5, 6, 7)
    place = next((item for item in places if words[item] != _ONES), None)
    if place is None:
        return None
    before, after = internal.network.network_address, external.network.network_address
    word = _sum(words[place], *_words(before), *(_ONES - each for each in _words(after)))
    host = int(address) & int(internal.network.hostmask)
    shift = 16 * (_WORDS - 1 - place)
    changed = (int(after) | host) & ~(_ONES << shift) | (0 if word == _ONES else word) << shift
    return IPv6Address(changed)


def external_of(pairs: tuple[PrefixPair, ...], address: Ip) -> Ip | None:
    """As `PrefixPair.external_of`, of the pair that the address belongs to."""
    return next((found for pair in pairs if (found := pair.external_of(address)) is not None), None)


def _prefix(value: Any, where: str) -> IpInterface:
    try:
        found = parse_cidr(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    network = None if found is None else found.network
    if found is None or not isinstance(network, IPv6Network):
        why = "not an IPv6 prefix like fd00:88::/64"
    elif found.ip != network.network_address:
        why = f"it has bits beyond its length: write {network}"
    elif not 0 < network.prefixlen <= _LONGEST:
        why = f"it is not of 1 to {_LONGEST} bits (RFC 6296): name the prefix that holds the subnet"
    elif network.is_multicast or network.is_link_local or network.is_loopback or found.ip.is_unspecified:
        why = "not a prefix of addresses that are routed"
    else:
        return found
    raise CniError(Code.INVALID_CONFIG, f"{where} is {shown(value)}: {why}")


def parse(value: Any, where: str) -> tuple[PrefixPair, ...]:
    """The pairs of `{"INTERNAL": "EXTERNAL"}`. CniError 7 naming the place and the value."""
    pairs = []
    for key, item in OBJECT.at(value, where).items():
        internal, external = _prefix(key, f"a key of {where}"), _prefix(item, f"{where}[{key!r}]")
        if internal.network.prefixlen != external.network.prefixlen:
            raise CniError(
                Code.INVALID_CONFIG,
                f"{where}[{key!r}] is {shown(item)}: the lengths of the two prefixes differ",
                "NPTv6 needs as long a prefix outside as inside",
            )
        pairs.append(PrefixPair(internal, external))
    ends = [item for pair in pairs for item in (pair.internal.network, pair.external.network)]
    for one, other in combinations(ends, 2):
        if one.overlaps(other):
            raise CniError(
                Code.INVALID_CONFIG,
                f"{where} is {shown(value)}: {one} and {other} overlap",
                "each address has one external address, and each of those one internal",
            )
    return tuple(pairs)
