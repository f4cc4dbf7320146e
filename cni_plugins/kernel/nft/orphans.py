"""Elements of attachments that are no more: for GC, and for who wants to know."""

from collections.abc import Callable, Iterable, Sequence

from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET, Nfnetlink
from cni_plugins.kernel.nft import elements, owner
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import Namespace


def find(
    host: Namespace,
    network: str,
    keep: Callable[[], Iterable[Identity]],
    sets: Sequence[str],
    family: int = NFPROTO_INET,
) -> list[Element]:
    """The elements of a network that belong to none of the attachments to keep; those are asked for when the
    elements have been listed, so that what was added meanwhile can be among them. CniError 999.
    """
    prefix = owner.network_tag(network)
    with Nfnetlink(host) as socket:
        there = [
            item
            for name in sets
            for item in elements.listed(socket, family, name)
            if item.comment.startswith(prefix)
        ]
    if not there:
        return []
    kept = {owner.tag(identity) for identity in keep()}
    return [item for item in there if item.comment.partition(",")[0] not in kept]


def remove(
    host: Namespace,
    network: str,
    keep: Callable[[], Iterable[Identity]],
    sets: Sequence[str],
    family: int = NFPROTO_INET,
) -> None:
    """Remove what `find` finds. CniError 999."""
    found = find(host, network, keep, sets, family)
    if found:
        with Nfnetlink(host) as socket:
            elements.remove_own(socket, found)
