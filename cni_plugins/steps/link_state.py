"""What hangs on a link and is lost when it changes its namespace or its master: addresses and routes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cni_plugins.kernel import addresses, routes
from cni_plugins.kernel.netlink.route import Message, Netlink
from cni_plugins.spec.result import Route
from cni_plugins.spec.values import Ip, IpInterface


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address that was given to a link, with its flags (IFA_F_*), and whether one for broadcasts."""

    address: IpInterface
    flags: int = 0
    broadcast: bool = True


@dataclass(frozen=True, slots=True)
class LinkRoute:
    """A route by the link, with its protocol (RTPROT_*) and preferred source."""

    route: Route
    protocol: int
    source: Ip | None = None

    def add(self, index: int) -> Message:
        return routes.add(self.route, index, self.source, protocol=self.protocol)


def held_addresses(netlink: Netlink, index: int) -> Iterator[LinkAddress]:
    """The addresses that somebody gave a link: not those that the kernel made of its MAC address or of a
    router's advertisement. CniError 999.
    """
    for item in addresses.of_link(netlink, index):
        made = item.scope == addresses.LINK and item.address.version == 6
        if item.flags & addresses.PERMANENT and not made:
            yield LinkAddress(item.address, item.flags, item.broadcast)


def give_addresses(netlink: Netlink, index: int, wanted: Iterable[LinkAddress]) -> None:
    """Give a link those of the addresses that it has not. CniError 999."""
    there = {item.address for item in addresses.of_link(netlink, index)}
    netlink.request(
        *(
            addresses.add(
                index,
                item.address,
                dad=not item.flags & addresses.NODAD,
                prefix_route=not item.flags & addresses.NOPREFIXROUTE,
                broadcast=item.broadcast,
            )
            for item in wanted
            if item.address not in there
        )
    )


def main_routes(netlink: Netlink, index: int) -> Iterator[LinkRoute]:
    """The routes by a link in the main table, of both families. CniError 999."""
    return link_routes(netlink, index, routes.MAIN_TABLE)


def link_routes(netlink: Netlink, index: int, table: int | None = None) -> Iterator[LinkRoute]:
    """The routes by a link in every table or in one, of both families. CniError 999."""
    for version in (4, 6):
        for item in routes.every(netlink, version, table=table):
            if item.index == index:
                yield LinkRoute(item.route, item.protocol, item.source)


def by_reach(wanted: Iterable[LinkRoute]) -> list[LinkRoute]:
    """Routes in an order in which each gateway is reached by a route before: those without a gateway first,
    then the longest prefixes.
    """
    return sorted(wanted, key=lambda item: (item.route.gw is not None, -item.route.dst.network.prefixlen))
