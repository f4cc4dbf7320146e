"""A lease that a DHCP server gave: its file in the store, and the server's knowledge that it is in use."""

from cni_plugins.dhcp import client, client6, link, protocol
from cni_plugins.dhcp.lease6 import AnyLease, Lease6
from cni_plugins.dhcp.store import Store
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step

_TELL_SECONDS = 1.0


@step
class DhcpLease(Step):
    """The lease of an interface, in the store of the lease daemon at `socket` ("" for the node's own), of
    IPv4 or IPv6 (`version`). The plugin that gets the lease writes the file.
    """

    socket: str
    network: str
    container_id: str
    ifname: str
    version: int = 4

    @property
    def identity(self) -> Identity:
        return Identity(self.network, self.container_id, self.ifname)

    def undo(self, context: Context) -> None:
        """Give the lease back to its server, and forget it."""
        give_back(context, Store(context.call.roots, self.socket), self.socket, self.identity, self.version)

    def check(self, context: Context) -> None:
        check(context, Store(context.call.roots, self.socket), self.identity, self.version)


def check(context: Context, store: Store, identity: Identity, version: int = 4) -> None:
    """CniError 999 when the lease is not there, has ended, or is of another address than the result's."""
    lease = store.read(identity, version)
    whose = f"{identity.ifname} of {identity.container_id}"
    if lease is None:
        what = "DHCPv6 lease" if version == 6 else "lease"
        raise CniError(
            Code.INTERNAL,
            f"there is no {what} for {whose} in {store.directory}",
        )
    if not lease.holds:
        raise CniError(
            Code.INTERNAL,
            f"{whose} has no address: {lease.address} is over",
            lease.told,
        )
    previous = context.call.previous
    found = previous.ips_of(identity.ifname) if previous is not None else ()
    listed = [entry.address for entry in found if entry.address.version == version]
    if listed and lease.address not in listed:
        raise CniError(
            Code.INTERNAL,
            f"{whose} is {lease.address} by now, prevResult says {', '.join(map(str, listed))}",
            lease.told,
        )


def give_back(
    context: Context, store: Store, socket: str, identity: Identity, version: int = 4, *, release: bool = True
) -> None:
    """Release a lease if there is one (`release` false: let it be), whether a daemon runs or not. The
    namespace may be gone: then the lease ends by itself on its server. CniError 5 or 11 when the file cannot
    be removed.
    """
    lease = store.read(identity, version)
    store.remove(identity, context.deadline, version)
    if lease is not None and release:
        _release(context, lease)
    forget(context, socket, identity, version)


def forget(context: Context, socket: str, identity: Identity, version: int) -> None:
    """Tell the lease daemon that a lease goes."""
    try:
        path = protocol.socket_of(context.call.roots, socket)
        protocol.ask(path, {"forget": protocol.names_of((identity, version))}, _TELL_SECONDS)
    except CniError:
        return  # it reads the store before it does anything


def _release(context: Context, lease: AnyLease) -> None:
    try:
        with link.opened(lease.place) as found:
            if found is None:
                return
            if isinstance(lease, Lease6):
                client6.release(found, lease)
            else:
                client.release(found.namespace, found.link.name, lease)
    except CniError as error:
        context.call.warn(f"the lease of {lease.address} is not released, it ends by itself: {error}")
