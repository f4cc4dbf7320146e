"""NPTv6: an attachment's internal addresses and their external ones, an element of each map for each pair.

Connection tracking does the translation, so that errors of ICMPv6 are translated inside too, policy judges
internal addresses in both directions, and a container may reach another by its external address (RFC 6296,
section 4). The mapping is a fixed one all the same: a connection that the kernel has forgotten is translated
as before when its next packet comes, in either direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import elements, nat, owner, sections, tables
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.placing import Taken, place
from cni_plugins.kernel.nft.sections import Chain, Section
from cni_plugins.kernel.nft.tables import Counts
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import Ip, IpInterface, IpNetwork

OUT, IN = "nptv6_out", "nptv6_in"
SETS = ("masquerade6", OUT, IN)
_INWARDS = (f"dnat ip6 to ip6 daddr map @{IN}",)
_SECTION = Section(
    family=NFPROTO_INET,
    version="nptv6_1",
    sets=(f"map {OUT} {{ type ipv6_addr : ipv6_addr ; }}", f"map {IN} {{ type ipv6_addr : ipv6_addr ; }}"),
    chains=(
        Chain("nptv6_prerouting", _INWARDS, "type nat hook prerouting priority -100"),
        Chain("nptv6_output", _INWARDS, "type nat hook output priority -100"),
    ),
)


@dataclass(frozen=True, slots=True)
class Mapped:
    """An address of a container with its subnet, and what the world knows it by."""

    internal: IpInterface
    external: Ip


def _outwards(identity: Identity, mapped: Sequence[Mapped]) -> list[Element]:
    """In place of the elements that would hide the address behind the host's."""
    comment = owner.comment(identity)
    found = []
    for item in mapped:
        key = elements.key(elements.address(item.internal.ip))
        leave = elements.jump(_leave(item.internal.network).name)
        found.append(Element(NFPROTO_INET, "masquerade6", key, leave, comment))
        found.append(Element(NFPROTO_INET, OUT, key, elements.value(item.external.packed), comment))
    return found


def _inwards(identity: Identity, mapped: Sequence[Mapped]) -> list[Element]:
    comment = owner.comment(identity)
    return [
        Element(
            NFPROTO_INET,
            IN,
            elements.key(elements.address(item.external)),
            elements.value(item.internal.ip.packed),
            comment,
        )
        for item in mapped
    ]


@lru_cache(maxsize=64)
def _leave(network: IpNetwork) -> Chain:
    """The chain of a subnet: outside of it a source is translated, and where the target was (hairpin)."""
    name = f"nptv6_{network}".replace(":", "-")
    translate = f"snat ip6 to ip6 saddr map @{OUT}"
    return Chain(name, (f"ip6 daddr != {network} {translate}", f"ct status dnat {translate}"))


def _chains(mapped: Sequence[Mapped]) -> list[Chain]:
    return list({chain.name: chain for chain in (_leave(item.internal.network) for item in mapped)}.values())


def add(host: Namespace, identity: Identity, mapped: Sequence[Mapped]) -> None:
    """Translate in both directions. CniError 7 when another network has an external address of these, 999."""
    outwards, inwards, chains = _outwards(identity, mapped), _inwards(identity, mapped), _chains(mapped)
    with Nfnetlink(host) as socket:
        try:
            place(socket, _SECTION, outwards, also=(nat.SECTION,), chains=chains, exclusive=inwards)
        except Taken as taken:
            if not taken.comment.startswith(owner.network_tag(identity.network)):
                item = mapped[inwards.index(taken.element)]
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"nptv6 gives {item.internal.ip} the external address {item.external}, "
                    f"which is that of {owner.holder(taken.comment)}",
                    "give each network an external prefix of its own, or let one pair of prefixes hold both",
                ) from None
            # As of the internal address, which is this attachment's now: the holder is a ghost.
            place(socket, _SECTION, [*outwards, *inwards], also=(nat.SECTION,), chains=chains)


def remove(host: Namespace, identity: Identity, mapped: Sequence[Mapped]) -> None:
    """Undo `add`; what is gone, or another attachment's by now, is left alone. CniError 999."""
    with Nfnetlink(host) as socket:
        elements.remove_own(socket, [*_outwards(identity, mapped), *_inwards(identity, mapped)])
        tables.prune(socket, NFPROTO_INET, {chain.name: len(chain.rules) for chain in _chains(mapped)})


def present(
    host: Namespace, identity: Identity, mapped: Sequence[Mapped], counts: Counts | None = None
) -> bool:
    """Whether all of `mapped` are translated for this attachment: elements, and the rules that use them."""
    wanted = [*_outwards(identity, mapped), *_inwards(identity, mapped)]
    with Nfnetlink(host) as socket:
        held = (elements if counts is None else counts).comments(socket, wanted)
        return held == [item.comment for item in wanted] and not (
            sections.broken(socket, _SECTION, _chains(mapped), counts)
            or sections.broken(socket, nat.SECTION, (), counts)
        )


def repair(host: Namespace, identity: Identity, mapped: Sequence[Mapped]) -> None:
    """`add` again, after somebody flushed what it made, or part of it. CniError 7 or 999."""
    with Nfnetlink(host) as socket:
        sections.repair(socket, _SECTION, _chains(mapped))
        sections.repair(socket, nat.SECTION)
    add(host, identity, mapped)
