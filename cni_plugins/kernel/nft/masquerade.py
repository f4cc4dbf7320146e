"""Masquerading of an attachment's addresses: an element of `masquerade4` or `masquerade6` each."""

from collections.abc import Sequence

from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import elements, nat, owner, sections, tables
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.placing import place
from cni_plugins.kernel.nft.sections import Chain
from cni_plugins.kernel.nft.tables import Counts
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import IpInterface

SETS = ("masquerade4", "masquerade6")


def _elements(identity: Identity, addresses: Sequence[IpInterface]) -> list[Element]:
    comment = owner.comment(identity)
    return [
        Element(
            NFPROTO_INET,
            f"masquerade{item.version}",
            elements.key(elements.address(item.ip)),
            elements.jump(nat.leave(item).name),
            comment,
        )
        for item in addresses
    ]


def add(host: Namespace, identity: Identity, addresses: Sequence[IpInterface]) -> None:
    """Hide `addresses` behind the host's for destinations outside their own subnets. CniError 999."""
    with Nfnetlink(host) as socket:
        place(socket, nat.SECTION, _elements(identity, addresses), chains=_chains(addresses))


def remove(host: Namespace, identity: Identity, addresses: Sequence[IpInterface]) -> bool:
    """Undo `add`; what is gone, or another attachment's by now, is left alone. Whether the table may have no
    element left. CniError 999.
    """
    with Nfnetlink(host) as socket:
        elements.remove_own(socket, _elements(identity, addresses))
        chains = _chains(addresses)
        return tables.prune(socket, NFPROTO_INET, {chain.name: len(chain.rules) for chain in chains})


def present(
    host: Namespace, identity: Identity, addresses: Sequence[IpInterface], counts: Counts | None = None
) -> bool:
    """Whether all of `addresses` are masqueraded for this attachment: the elements are there, and the rules
    that look them up.
    """
    wanted = _elements(identity, addresses)
    with Nfnetlink(host) as socket:
        held = (elements if counts is None else counts).comments(socket, wanted)
        if held != [item.comment for item in wanted]:
            return False
        return not sections.broken(socket, nat.SECTION, _chains(addresses), counts)


def repair(host: Namespace, identity: Identity, addresses: Sequence[IpInterface]) -> None:
    """`add` again, after somebody flushed what it made, or part of it. CniError 999."""
    with Nfnetlink(host) as socket:
        sections.repair(socket, nat.SECTION, _chains(addresses))
    add(host, identity, addresses)


def _chains(addresses: Sequence[IpInterface]) -> list[Chain]:
    return list({chain.name: chain for chain in map(nat.leave, addresses)}.values())
