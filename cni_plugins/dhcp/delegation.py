"""Prefixes that routers delegate to networks of this host (IA_PD, RFC 8415 section 6.3; RFC 7084).

The host is a requesting router on one of its links, the uplink. A network has one lease, however many
containers it has: a lease like those of containers' interfaces, of no container, and on the uplink in the
host's own namespace.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from ipaddress import IPv6Interface, IPv6Network, ip_interface

from cni_plugins.dhcp.lease import State
from cni_plugins.dhcp.lease6 import AnyLease, Lease6
from cni_plugins.dhcp.link import Found
from cni_plugins.dhcp.store import Store
from cni_plugins.kernel import addresses, links
from cni_plugins.kernel.addresses import LinkAddress
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.namespace import open_namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.store import records
from cni_plugins.store.records import Contents

VERSION = 6
SUBNET = 64  # bits: what a link has (RFC 4291 section 2.5.4)
_SECONDS = 5.0
_FOR_EVER = 0xFFFFFFFF


def identity_of(network: str, uplink: str) -> Identity:
    """Whose a network's lease is."""
    return Identity(network, "", uplink)


def lease_of(store: Store, network: str, uplink: str) -> Lease6 | None:
    """A network's lease; None without one."""
    found = store.read(identity_of(network, uplink), VERSION)
    return found if isinstance(found, Lease6) and found.delegated else None


def subnet_of(prefix: IPv6Network, number: int) -> IPv6Network | None:
    """The /64 of that number in a prefix, or all of one that is no larger; None when it has not so many."""
    if prefix.prefixlen > SUBNET:
        return None if number else prefix
    if number >> (SUBNET - prefix.prefixlen):
        return None
    return IPv6Network((int(prefix.network_address) + (number << (128 - SUBNET)), SUBNET))


def shared(store: Store, lease: Lease6) -> Lease6 | None:
    """The lease of another network that holds this one's prefix, None when none does. A server that tells
    its clients by their DUID alone gives all networks of an uplink the same; a release would take it from
    all.
    """
    for other in store.every():
        if isinstance(other, Lease6) and other.delegated and other.identity != lease.identity:
            both = other.holds and lease.address is not None and other.prefix.overlaps(lease.prefix)
            if both:
                return other
    return None


def used_by(store: Store, found: Found, grant: Lease6, before: IPv6Interface | None) -> str | None:
    """Who uses a prefix already that a server gives: another network, or a link of the host (which may have
    gateways in it if it is the one that the network had); None when nobody does. CniError 999.
    """
    prefix = grant.prefix
    if before == grant.address:
        return None
    other = shared(store, grant)
    if other is not None:
        return f"network {other.identity.network}, whose prefix is {other.prefix}"
    with Netlink(found.namespace, after(_SECONDS)) as netlink:
        for item in addresses.every(netlink):
            if item.scope == addresses.GLOBAL and _is_in_the_way(item, prefix, found.link.index):
                link = links.find_index(netlink, item.index)
                return f"{link.name if link is not None else 'a link'}, which has {item.address}"
    for contents, address in _attached(store.roots):
        identity = contents.identity
        if identity.network != grant.identity.network and address.ip in prefix:
            return f"container {identity.container_id} of network {identity.network}, which has {address.ip}"
    return None


def _is_in_the_way(item: LinkAddress, prefix: IPv6Network, uplink: int) -> bool:
    there = item.address.network
    if not isinstance(there, IPv6Network) or not there.overlaps(prefix):
        return False
    gateway = int(item.address.ip) == int(there.network_address) + 1 and there.prefixlen >= prefix.prefixlen
    return item.index == uplink or not gateway


def _attached(roots: Roots, network: str | None = None) -> Iterator[tuple[Contents, IPv6Interface]]:
    """The IPv6 addresses of attachments, as their records have them."""
    for _, contents in records.every(roots, network):
        for entry in (contents.result or {}).get("ips", ()):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                address = ip_interface(entry["address"])
                if isinstance(address, IPv6Interface):
                    yield contents, address


def changed(roots: Roots, before: AnyLease, lease: AnyLease) -> None:
    """Let containers know of a lease that was got: of another prefix, of the same again, or of one that its
    server wants to be given up.
    """
    if not isinstance(before, Lease6) or not isinstance(lease, Lease6) or not lease.delegated:
        return
    network, same = lease.identity.network, before.address == lease.address
    if before.address is not None and not same:
        _prefer(roots, network, before.prefix, 0)
    if not same or before.state is State.INIT or before.is_preferred != lease.is_preferred:
        _prefer(roots, network, lease.prefix, _FOR_EVER if lease.is_preferred else 0)


def aged(roots: Roots, lease: AnyLease) -> None:
    """Let containers know of a lease that no server renewed while its prefix was preferred."""
    if isinstance(lease, Lease6) and not lease.is_preferred:
        ended(roots, lease)


def ended(roots: Roots, lease: AnyLease) -> None:
    """Let containers know of a prefix that is the network's no more."""
    if isinstance(lease, Lease6) and lease.delegated and lease.address is not None:
        _prefer(roots, lease.identity.network, lease.prefix, 0)


def _prefer(roots: Roots, network: str, prefix: IPv6Network, seconds: int) -> None:
    """Let new connections of containers take addresses of a prefix, for ever, or (0 s) other ones if there
    are some (RFC 9096 section 3.3). The addresses stay: flows inside the host go on.
    """
    for contents, address in _attached(roots, network):
        if address.ip in prefix:
            with contextlib.suppress(CniError, OSError):  # a container that ends meanwhile
                _set_preferred(contents, address, seconds)


def _set_preferred(contents: Contents, address: IPv6Interface, seconds: int) -> None:
    namespace = open_namespace(contents.head.get("netns", ""))
    if namespace is None:
        return
    try:
        if fingerprint(namespace) != contents.head.get("netnsID"):
            return
        with Netlink(namespace, after(_SECONDS)) as netlink:
            link = links.find(netlink, contents.identity.ifname)
            if link is not None and any(
                item.address == address for item in addresses.of_link(netlink, link.index)
            ):
                netlink.request(addresses.hold(link.index, address, _FOR_EVER, seconds))
    finally:
        os.close(namespace.fd)
