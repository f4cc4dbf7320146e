"""The interface that a lease is for, of either family: found again in its namespace, and given or rid of the
address.

The namespace is opened by the runtime's path, and used only if it is the very one that the lease was got in.
It is open while something is done in it and not longer: a daemon that held it would keep a dead container's
network alive.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Interface

from cni_plugins.dhcp import options
from cni_plugins.dhcp.lease import INFINITE, Lease, Place
from cni_plugins.dhcp.lease6 import AnyLease, Lease6
from cni_plugins.kernel import addresses, interface, links, routes, sysctl
from cni_plugins.kernel.interface import Plan
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.kernel.netlink.route import Message, Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import OWN_NETNS, Namespace, open_namespace
from cni_plugins.spec.result import Route
from cni_plugins.store import boot

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Found:
    """The namespace, open, and the link as it is called now."""

    namespace: Namespace
    link: Link


@contextmanager
def opened(place: Place, prefix: str = "") -> Iterator[Found | None]:
    """The interface of a lease for the length of the block; None when its namespace or link has gone.
    `prefix` is where the host's files are. CniError 8 or 999.
    """
    own = place.netns == OWN_NETNS  # the host's, for a prefix
    namespace = open_namespace(place.netns if own else prefix + place.netns)
    if namespace is None:
        yield None
        return
    try:
        link = None
        if tuple(fingerprint(namespace)) == place.netns_id:
            with Netlink(namespace, after(_SECONDS)) as netlink:
                link = find(netlink, place)
        yield Found(namespace, link) if link is not None else None
    finally:
        os.close(namespace.fd)


def find(netlink: Netlink, place: Place) -> Link | None:
    """By its name, else by its MAC address: a task may have changed either, and harms only itself. The host's
    own has to have its name.
    """
    link = links.find(netlink, place.ifname)
    if link is not None or not place.mac:
        return link
    return next((item for item in links.every(netlink) if item.mac == place.mac), None)


def raise_up(namespace: Namespace, ifname: str, settings: Mapping[str, str] | None = None) -> Link:
    """Bring a link up, so that it can ask for an address; before that its IPv6 `settings` are made (sysctls
    by name). CniError 7 when there is none of that name.
    """
    if settings:
        base = f"ipv6/conf/{ifname}"
        on = {"ipv6/conf/lo/disable_ipv6": "0", f"{base}/disable_ipv6": "0"}
        sysctl.put(namespace, {f"{base}/{name}": value for name, value in settings.items()})
        sysctl.ensure(namespace, on, optional=True)
    with Netlink(namespace, after(_SECONDS)) as netlink:
        link = links.find(netlink, ifname)
        if link is None:
            raise CniError(
                Code.INVALID_CONFIG,
                f"dhcp needs the interface {ifname}, and the container has none yet",
                "the plugin that makes it has to call its ipam afterwards, as those of this toolkit do",
            )
        if not link.up:
            netlink.request(links.change(ifname, link.index, set_flags=links.IFF_UP))
        return link


def limit_mtu(namespace: Namespace, link: Link, lease: Lease) -> None:
    """Option 26, where it is less than what the link has. CniError 999."""
    wanted = options.mtu_of(lease.options)
    if wanted is not None and wanted < link.mtu:
        with Netlink(namespace, after(_SECONDS)) as netlink:
            netlink.request(links.change(link.name, link.index, mtu=wanted))


def remaining(lease: AnyLease) -> int:
    """Whole seconds that the address is the container's from now on."""
    return INFINITE if lease.seconds == INFINITE else max(1, int(lease.end - boot.elapsed()))


def _preferred(lease: AnyLease) -> int:
    """Whole seconds for which it is the address that new connections take."""
    left = lease.began + lease.preferred - boot.elapsed()
    return INFINITE if lease.preferred == INFINITE else max(0, int(left))


def link_local(found: Found) -> IPv6Address | None:
    """The interface's link-local address that can be used by now; None without one. CniError 999."""
    with Netlink(found.namespace, after(_SECONDS)) as netlink:
        for item in addresses.of_link(netlink, found.link.index):
            optimistic = item.flags & addresses.OPTIMISTIC
            waits = item.flags & addresses.DADFAILED or (item.flags & addresses.TENTATIVE and not optimistic)
            if isinstance(item.address, IPv6Interface) and item.scope == addresses.LINK and not waits:
                return item.address.ip
    return None


def has(found: Found, lease: AnyLease) -> bool:
    """Whether the interface has the lease's address; a prefix needs nothing of it. CniError 999."""
    if is_prefix(lease):
        return True
    with Netlink(found.namespace, after(_SECONDS)) as netlink:
        return any(item.address == lease.address for item in addresses.of_link(netlink, found.link.index))


def hold(found: Found, lease: AnyLease, before: AnyLease | None = None) -> None:
    """Let the interface have the address until the lease ends, with its routes where it had not; `before` is
    the lease that this one takes the place of. Of a prefix, what no link has is unreachable, so that nothing
    goes back to the router that sent it (RFC 7084, WPD-5). CniError 999.
    """
    assert lease.address is not None
    if is_prefix(lease):
        _hold_prefix(found, lease, before)
        return
    index = found.link.index
    batch: list[Message] = [addresses.hold(index, lease.address, remaining(lease), _preferred(lease))]
    if before is not None:
        old = _routes(before)
        new = _routes(lease)
        batch += [routes.delete(route, index) for route in old if route not in new]
        if before.address is not None and before.address != lease.address:
            batch.append(addresses.delete(index, before.address))
        batch += [routes.add(route, index) for route in new]
    with Netlink(found.namespace, after(_SECONDS)) as netlink:
        netlink.request(*batch)


def is_prefix(lease: AnyLease) -> bool:
    """Whether a lease is of a prefix, and not of the interface's address."""
    return isinstance(lease, Lease6) and lease.delegated


def _hold_prefix(found: Found, lease: AnyLease, before: AnyLease | None) -> None:
    assert lease.address is not None
    batch = [routes.unreachable(lease.address, remaining(lease))]
    if before is not None and before.address not in {None, lease.address}:
        assert before.address is not None
        batch.append(routes.reachable(before.address))
    with Netlink(found.namespace, after(_SECONDS)) as netlink:
        netlink.request(*batch)


def _routes(lease: AnyLease) -> list[Route]:
    result = lease.result()
    return interface.resolved(Plan(lease.place.ifname, result.ips, result.routes))


def withdraw(found: Found, lease: AnyLease) -> None:
    """Take the address away; its routes go with it. CniError 999."""
    if lease.address is None:
        return
    index = found.link.index
    with Netlink(found.namespace, after(_SECONDS)) as netlink:
        if is_prefix(lease):
            netlink.request(routes.reachable(lease.address))
            return
        netlink.request(
            *(routes.delete(route, index) for route in _routes(lease)), addresses.delete(index, lease.address)
        )
