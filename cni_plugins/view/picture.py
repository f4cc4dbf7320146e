"""What the picture of the node (`graph`) is drawn from: the model, and the host's addresses and uplinks."""

from __future__ import annotations

import os

from cni_plugins.kernel import addresses, routes
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.spec.namespace import Namespace
from cni_plugins.view import graph
from cni_plugins.view.load import SECONDS
from cni_plugins.view.node import Node


def parts(found: Node, host: Namespace, network: str | None) -> list[graph.Branch]:
    """The picture's branches, of one network or of all. CniError 999 when the kernel does not answer."""
    given: dict[str, list[str]] = {}
    with Netlink(host, after(SECONDS)) as netlink:
        for item in addresses.every(netlink):
            link = found.by_index.get(item.index)
            if link is not None and item.scope == addresses.GLOBAL:
                given.setdefault(link.name, []).append(str(item.address))
        indices = {routes.default_link(netlink, version) for version in (4, 6)} - {0}
    uplinks = sorted(found.by_index[index].name for index in indices if index in found.by_index)
    return graph.branches(found, given, uplinks, network)


def title(found: Node) -> str:
    count = len(found.attachments)
    return f"{os.uname().nodename}: {count} attachment{'' if count == 1 else 's'}"
