"""The range of host-local that a router delegates (`ipam.prefixDelegation`): leased when the network gets its
first container, and found in the lease store by all others.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv6Network

from cni_plugins.attach.transaction import Transaction
from cni_plugins.dhcp import client6, delegation, duid, link, protocol
from cni_plugins.dhcp.lease import Place, State
from cni_plugins.dhcp.lease6 import Lease6, Wish6
from cni_plugins.dhcp.link import Found
from cni_plugins.dhcp.store import Store
from cni_plugins.kernel import links
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.plugins.ipam.dhcp_ipv6 import ASKED
from cni_plugins.plugins.ipam.prefix_keys import WHERE, DelegationConfig, validate
from cni_plugins.spec.call import Call
from cni_plugins.spec.deadline import after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import OWN_NETNS
from cni_plugins.spec.roots import Roots
from cni_plugins.steps.context import Context
from cni_plugins.steps.prefix_lease import PrefixLease

_SECONDS = 20.0
_FOR_THE_REST = 4.0  # of a call's time: what comes after the address, and taking back


def step_of(network: str, config: DelegationConfig, directory: str) -> PrefixLease:
    return PrefixLease(config.daemon_socket, network, config.uplink, directory)


def known(roots: Roots, network: str, config: DelegationConfig) -> IPv6Network | None:
    """The subnet that a network has by now, without asking anybody; None when it has none."""
    lease = delegation.lease_of(Store(roots, config.daemon_socket), network, config.uplink)
    if lease is None or not lease.holds:
        return None
    return delegation.subnet_of(lease.prefix, config.subnet)


@contextmanager
def held(call: Call, config: DelegationConfig, directory: str, tx: Transaction) -> Iterator[IPv6Network]:
    """The network's subnet, of a prefix that is leased if it was not yet; it stays while an address of it is
    reserved in `directory`, which has to be done in the block. CniError 7, 11 or 999.
    """
    step = step_of(call.network, config, directory)
    with step.lock(tx.context, call.deadline):
        tx.intend(step)
        lease = _lease(call, config, tx)
        subnet = delegation.subnet_of(lease.prefix, config.subnet)
        if subnet is None:
            raise CniError(
                Code.INVALID_CONFIG,
                f"{WHERE}.subnet is {config.subnet}, and {lease.prefix}, which the router delegated, "
                f"has {1 << max(0, delegation.SUBNET - lease.prefix.prefixlen)} of /64",
                f"take a lower number (the first is 0), or ask for a larger prefix ({WHERE}.length)",
            )
        yield subnet


def _lease(call: Call, config: DelegationConfig, tx: Transaction) -> Lease6:
    store = Store(call.roots, config.daemon_socket)
    path = protocol.socket_of(call.roots, config.daemon_socket)
    protocol.require_same(path, store, protocol.ask(path, {"hello": True}))
    before = delegation.lease_of(store, call.network, config.uplink)
    key = (delegation.identity_of(call.network, config.uplink), delegation.VERSION)
    if before is not None and before.holds:
        protocol.tell(path, store, "ensure", key)
        return before
    link = links.find(tx.context.host, config.uplink)
    if link is None:
        raise CniError(
            Code.INVALID_CONFIG,
            f"{WHERE}.uplink is {config.uplink}, and there is no such link",
            "name the link of this host on which the router is that delegates (ip link)",
        )
    lease = _acquired(call, config, store, Found(call.host, link), before)
    protocol.tell(path, store, "watch", key)
    return lease


def _acquired(
    call: Call, config: DelegationConfig, store: Store, found: Found, before: Lease6 | None
) -> Lease6:
    """Ask on the uplink. A lease that has ended is asked for by the daemon too: that lets go as soon as a
    server answers here, and takes it up again if nothing comes of it. CniError 11 or 999.
    """
    identity = delegation.identity_of(call.network, config.uplink)
    place = Place(OWN_NETNS, tuple(fingerprint(call.host)), config.uplink, "")
    who = config.duid or duid.of_uplink(found.link.mac)
    wish = Wish6(who, duid.association(identity), tuple(map(int, ASKED)), config.length)
    address = before.address if before is not None else None
    wanted = Lease6(identity, place, wish, address=address)
    deadline = after(min(_SECONDS, max(1.0, call.deadline.remaining() - _FOR_THE_REST)))

    def keep(lease: Lease6) -> None:
        with store.locked(call.deadline):
            store.write(lease)

    def used(lease: Lease6) -> str | None:
        other = delegation.shared(store, lease)
        if other is not None and other.wish.duid == who:
            keep(wanted)  # so that nobody releases it
            raise CniError(
                Code.INVALID_CONFIG,
                f"the DHCPv6 server on {config.uplink} gave network {call.network} the prefix "
                f"{lease.prefix}, which network {other.identity.network} has",
                "it tells its clients by their DUID alone: give one of the two networks a "
                f"{WHERE}.duid of its own",
            )
        return delegation.used_by(store, found, lease, address)

    store.prepare()
    try:
        lease = client6.acquire(found, wanted, deadline, keep, used)
    except CniError:
        if before is not None:
            keep(before if before.state is State.INIT else wanted)
            protocol.tell(protocol.socket_of(call.roots, config.daemon_socket), store, "watch", (identity, 6))
        raise
    if address is not None and address != lease.address:
        lease = replace(lease, told=f"the prefix is {lease.address} now, it was {address}")
        call.warn(f"network {call.network}: {lease.told}")
    link.hold(found, lease, before)
    keep(lease)
    if before is not None:
        delegation.changed(call.roots, before, lease)
    return lease


def status(call: Call, config: DelegationConfig, context: Context) -> None:
    """CniError 7 without the uplink, 11 when nobody would renew the lease."""
    validate(config)
    protocol.ask(protocol.socket_of(call.roots, config.daemon_socket), {"hello": True})
    if links.find(context.host, config.uplink) is None:
        raise CniError(Code.INVALID_CONFIG, f"{WHERE}.uplink is {config.uplink}, and there is no such link")
