"""What CHECK looks at in a container: addresses and routes as the result of ADD has them."""

from collections.abc import Iterable

from cni_plugins.kernel import addresses, links, routes
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Interface, Result, Route
from cni_plugins.spec.values import IpInterface


def _fail(text: str) -> CniError:
    return CniError(Code.INTERNAL, text)


def interface_of(result: Result, name: str) -> Interface | None:
    """The result's entry for the container's interface."""
    return next((item for item in result.interfaces if item.name == name and item.sandbox), None)


def link(netlink: Netlink, name: str, kind: str, result: Result) -> Link:
    """The container's interface, of the right kind and with the result's MAC address. CniError 999."""
    found = links.find(netlink, name)
    if found is None:
        raise _fail(f"the container has no interface {name}")
    if found.kind != kind:
        raise _fail(f"{name} is {found.kind or 'a physical device'}, not {kind}")
    entry = interface_of(result, name)
    if entry is None:
        raise _fail(f"prevResult does not list the container's interface {name}")
    if entry.mac and entry.mac.lower() != found.mac:
        raise _fail(f"{name} has MAC address {found.mac}, prevResult says {entry.mac}")
    return found


def ips(netlink: Netlink, link: Link, result: Result) -> None:
    """Every address of the result is on the interface, and no duplicate of another host's. CniError 999."""
    found = addresses.of_link(netlink, link.index)
    there = {item.address for item in found}
    failed = {item.address for item in found if item.flags & addresses.DADFAILED}
    for entry in result.ips:
        if entry.interface is not None and entry.interface < len(result.interfaces):
            owner = result.interfaces[entry.interface]
            if owner.name != link.name or not owner.sandbox:
                continue
        if entry.address not in there:
            raise _fail(f"{link.name} does not have address {entry.address}")
        if entry.address in failed:
            raise _fail(f"address {entry.address} of {link.name} is in use by another host (DADFAILED)")


def route_list(netlink: Netlink, wanted: Iterable[Route], index: int = 0) -> None:
    """Every route is there, by the link `index` or by any: in its table if it names one, in any if it does
    not, because later plugins of a chain move routes (sbr, vrf). CniError 999.
    """
    listed = list(wanted)
    for version in {route.dst.version for route in listed}:
        there = [item.route for item in routes.every(netlink, version, index=index)]
        for route in listed:
            if route.dst.version == version and not any(_matches(route, item) for item in there):
                by = f" by {route.gw}" if route.gw is not None else ""
                table = f" in table {route.table}" if route.table is not None else ""
                raise _fail(f"the route to {route.dst}{by}{table} is missing")


def _matches(wanted: Route, there: Route) -> bool:
    return (
        wanted.dst.network == there.dst.network
        and (wanted.table is None or wanted.table == there.table)
        and (wanted.gw is None or there.gw is None or wanted.gw == there.gw)
        and (wanted.priority is None or wanted.priority == there.priority)
    )


def has_addresses(netlink: Netlink, link: Link, wanted: Iterable[IpInterface]) -> None:
    """CniError 999 naming the first address that an interface of the host should have and has not."""
    there = {item.address for item in addresses.of_link(netlink, link.index)}
    for address in wanted:
        if address not in there:
            raise _fail(f"{link.name} does not have address {address}")
