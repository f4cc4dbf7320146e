"""Masquerading of an attachment's addresses: an element of `masquerade4` or `masquerade6` each."""

from collections.abc import Sequence

from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import elements, nat, owner
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.placing import place
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
        chains = {chain.name: chain for chain in map(nat.leave, addresses)}
        place(socket, nat.SECTION, _elements(identity, addresses), chains=chains.values())


def remove(host: Namespace, identity: Identity, addresses: Sequence[IpInterface]) -> None:
    """Undo `add`; what is gone, or another attachment's by now, is left alone. CniError 999."""
    with Nfnetlink(host) as socket:
        elements.remove_own(socket, _elements(identity, addresses))
        chains = map(nat.leave, addresses)
        elements.prune(socket, NFPROTO_INET, {chain.name: len(chain.rules) for chain in chains})


def present(host: Namespace, identity: Identity, addresses: Sequence[IpInterface]) -> bool:
    """Whether all of `addresses` are masqueraded for this attachment."""
    wanted = _elements(identity, addresses)
    with Nfnetlink(host) as socket:
        return elements.comments(socket, wanted) == [item.comment for item in wanted]
