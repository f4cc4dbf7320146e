"""What a MAIN plugin's `ipMasq` and `nptv6` ask for: the steps that translate a container's addresses.

What does it is imported where a network asks: hardly half of them hide addresses, and few translate prefixes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv6Network
from typing import TYPE_CHECKING, Any

from cni_plugins.spec.call import Call
from cni_plugins.spec.config import parsed_by
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address
from cni_plugins.spec.values import IpInterface, JsonObject, fold, parse_cidr
from cni_plugins.steps.masquerade import NFTABLES, Masquerade
from cni_plugins.steps.step import Step

if TYPE_CHECKING:
    from cni_plugins.spec.nptv6 import PrefixPair

NPTV6_ABOUT = (
    "prefixes of IPv6 that the world knows by another one of the same length, as "
    '`{"fd00:88::/64": "2001:db8:88::/64"}` (RFC 6296); the external one has to be routed to this host'
)


def _pairs(value: Any, where: str) -> "tuple[PrefixPair, ...]":
    from cni_plugins.spec import nptv6

    return nptv6.parse(value, where)


NPTV6 = parsed_by("object of IPv6 prefixes", _pairs)


def validate(call: Call, pairs: "tuple[PrefixPair, ...]") -> None:
    """CniError 7 when the file itself says that `nptv6` is for no address that `ipam` could give."""
    if not pairs:
        return
    ipam = fold(call.config, "ipam")
    if not isinstance(ipam, dict) or not fold(ipam, "type"):
        raise CniError(
            Code.INVALID_CONFIG,
            f"nptv6 is set ({', '.join(map(str, pairs))}), and without ipam the container has no address",
            "give the network an ipam, or leave nptv6 out",
        )
    subnets = list(_subnets(ipam)) if fold(ipam, "type") == "host-local" else []
    if subnets and not any(item.overlaps(pair.internal.network) for item in subnets for pair in pairs):
        raise CniError(
            Code.INVALID_CONFIG,
            f"nptv6 translates {_prefixes(pairs)}, and no subnet of ipam is in it: {_listed(subnets)}",
            "name the prefix that holds the subnet of ipam, or leave nptv6 out",
        )


def _subnets(ipam: JsonObject) -> Iterator[IPv6Network]:
    """Of host-local's ranges; none where some of its addresses come from elsewhere."""
    if fold(ipam, "prefixDelegation") is not None:
        return
    listed = fold(ipam, "ranges")
    sets = listed if isinstance(listed, list) else []
    entries = [item for each in sets if isinstance(each, list) for item in each]
    for entry in (ipam, *entries):
        subnet = fold(entry, "subnet") if isinstance(entry, dict) else None
        with suppress(TypeError, ValueError):  # host-local says what is wrong with it
            network = parse_cidr(subnet).network
            if isinstance(network, IPv6Network):
                yield network


def _prefixes(pairs: "tuple[PrefixPair, ...]") -> str:
    return _listed(pair.internal.network for pair in pairs)


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def hidden(call: Call, ips: Sequence[Address]) -> tuple[IpInterface, ...]:
    """The addresses that `ipMasq` hides behind the host's: none of a prefix that a router delegated, since
    those lead here.
    """
    ipam = fold(call.config, "ipam")
    delegated = isinstance(ipam, dict) and fold(ipam, "prefixDelegation") is not None
    return tuple(entry.address for entry in ips if not (delegated and entry.address.version == 6))


def steps(
    call: Call,
    ips: Sequence[Address],
    *,
    ip_masq: bool,
    backend: str | None,
    pairs: "tuple[PrefixPair, ...]",
) -> list[Step]:
    """What is to be made, after the addresses are there. CniError 7 when `nptv6` is for none of them."""
    listed: list[Step] = []
    left = tuple(ips)
    if pairs:
        from cni_plugins.steps.nptv6 import Nptv6

        mine = tuple(
            entry for entry in ips if any(entry.address.ip in pair.internal.network for pair in pairs)
        )
        listed.append(Nptv6(pairs, _translated(ips, mine, pairs)))
        left = tuple(entry for entry in ips if entry not in mine)
    concealed = hidden(call, left) if ip_masq else ()
    if concealed:
        listed.append(Masquerade(backend or NFTABLES, concealed))
    return listed


def _translated(
    ips: Sequence[Address], mine: Sequence[Address], pairs: "tuple[PrefixPair, ...]"
) -> tuple[IpInterface, ...]:
    from cni_plugins.spec import nptv6

    if not mine:
        there = _listed(entry.address.ip for entry in ips) or "none at all"
        raise CniError(
            Code.INVALID_CONFIG,
            f"nptv6 translates {_prefixes(pairs)}, and no address of the container is in it: it has {there}",
            "name the prefix that holds the subnet of ipam, or leave nptv6 out",
        )
    for entry in mine:
        if nptv6.external_of(pairs, entry.address.ip) is None:
            raise CniError(
                Code.INVALID_CONFIG,
                f"nptv6 cannot translate {entry.address.ip}, which ipam gave: it is all ones where "
                "the sum is adjusted (RFC 6296, section 3.5)",
                "keep such addresses out of the range (rangeEnd)",
            )
    return tuple(entry.address for entry in mine)
