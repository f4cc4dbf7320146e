"""Putting an attachment's elements where they belong, whatever else happens to the ruleset meanwhile."""

import errno
from collections.abc import Iterable, Sequence

from cni_plugins.kernel.netlink import netfilter as nfnetlink
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.nft import elements, sections
from cni_plugins.kernel.nft.elements import Element
from cni_plugins.kernel.nft.sections import Chain, Section

_TRIES = 20


class Taken(Exception):
    """The key of an element is somebody else's; `comment` says whose."""

    def __init__(self, element: Element, comment: str) -> None:
        super().__init__(comment)
        self.element = element
        self.comment = comment


def place(
    socket: Nfnetlink,
    section: Section,
    wanted: Sequence[Element],
    *,
    also: Sequence[Section] = (),
    chains: Iterable[Chain] = (),
    exclusive: Sequence[Element] = (),
) -> None:
    """Make all elements exist, in one transaction, and first the sections that they need (`also`: more of
    the same table).

    A key of `wanted` that is held by another attachment changes hands: addresses and interfaces belong to one
    attachment at a time, so the holder is a ghost. A key of `exclusive` does not: Taken. CniError 999.
    """
    chains = tuple(chains)
    everything = [*wanted, *exclusive]
    failed: dict[Element, int] = {}
    for _ in range(_TRIES):
        sections.ensure(socket, section, chains)
        for further in also:
            sections.ensure(socket, further)
        failed = elements.change(socket, create=everything)
        if not failed:
            return
        there = [item for item, code in failed.items() if code == errno.EEXIST]
        for item, comment in zip(there, elements.comments(socket, there), strict=True):
            if item in exclusive and comment is not None and comment != item.comment:
                raise Taken(item, comment)
        failed = elements.change(socket, remove=there, create=everything) if there else failed
        if not failed:
            return
    raise nfnetlink.failure(f"add elements to the table {section.table}", next(iter(failed.values())))
