"""Telling a network that an address has moved to another MAC address: gratuitous ARP, unsolicited neighbour
advertisements.

The kernel makes them for every address of an interface whose MAC address is set, be it to what it is, where
arp_notify and ndisc_notify say so (see interface.notify). It is asked when the caller has its answer: a frame
to everybody costs time for every port of a bridge.
"""

from collections.abc import Callable
from contextlib import suppress

from cni_plugins.kernel import links
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace


def prepared(namespace: Namespace, name: str, deadline: Deadline) -> Callable[[], None]:
    """A function that announces the addresses of an interface and is done with; it never raises, and does
    nothing when the interface has gone. CniError 999 if no socket can be had for it.

    The MAC address is that of the moment of sending: a later plugin of the chain may have set another.
    """
    netlink = Netlink(namespace, deadline)

    def send() -> None:
        with netlink, suppress(CniError):
            link = links.find(netlink, name)
            if link is not None:
                netlink.request(links.change(name, link.index, address=link.mac))

    return send
