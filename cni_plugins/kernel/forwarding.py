"""A host that forwards packets, and what IPv6 forwarding costs it.

A host that forwards IPv6 is a router to the kernel, and a router believes no other router's advertisements:
when forwarding is turned on, the default route that a router had advertised is gone at once
(rt6_purge_dflt_routers). Where `accept_ra` is 2 the link goes on as it was (ip-sysctl.rst). So a link by
which a router advertised itself gets that before forwarding is turned on. It goes back to 1 when nobody here
needs it any more and the host does not forward: while the host forwards, 1 would cost it the route.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cni_plugins.kernel import interface, links, routes, sysctl
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.namespace import Namespace

SYSCTLS = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
_RTPROT_RA = 9  # linux/rtnetlink.h


@dataclass(frozen=True, slots=True)
class Uplink:
    """A link by which a router advertised itself to the host."""

    name: str
    index: int

    @property
    def accept_ra(self) -> str:
        """Its sysctl."""
        return f"ipv6/conf/{self.name}/accept_ra"


def is_on(host: Namespace, version: int) -> bool:
    """Whether the host forwards packets of the family (4, 6). CniError 5."""
    return sysctl.read(host, SYSCTLS[version]) == "1"


def turn_on(host: Namespace, versions: Iterable[int]) -> None:
    """Let the host forward packets of these families. CniError 5."""
    sysctl.ensure(host, {SYSCTLS[version]: "1" for version in versions})


def uplinks(netlink: Netlink) -> tuple[Uplink, ...]:
    """The links that would lose what a router advertised if the host began to forward IPv6. CniError 5 or
    999.
    """
    found = routes.every(netlink, 6, protocol=_RTPROT_RA)
    seen = (links.find_index(netlink, index) for index in sorted({item.index for item in found} - {0}))
    named = (Uplink(link.name, link.index) for link in seen if link is not None)
    return tuple(item for item in named if sysctl.read(netlink.namespace, item.accept_ra) == "1")


def keep_routers(host: Namespace, wanted: Iterable[Uplink]) -> None:
    """Let these links believe routers though the host forwards; what is gone is passed over."""
    for item in wanted:
        if interface.index_of(host, item.name) == item.index:
            sysctl.ensure(host, {item.accept_ra: "2"}, optional=True)


def release_routers(host: Namespace, wanted: Iterable[Uplink]) -> None:
    """Put back what `keep_routers` did, where nobody changed it since; not while the host forwards, which
    would then lose what the links have learned. CniError 5.
    """
    for item in wanted:
        if interface.index_of(host, item.name) != item.index:
            continue
        forwards = sysctl.read(host, f"ipv6/conf/{item.name}/forwarding")
        if forwards == "0" and sysctl.read(host, item.accept_ra) == "2":
            sysctl.ensure(host, {item.accept_ra: "1"}, optional=True)
