"""The prefix that a router delegated to a network: its lease, and the route that makes the rest of it
unreachable. It goes with the network's last address.
"""

import hashlib
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from cni_plugins.dhcp import delegation, link, protocol
from cni_plugins.dhcp.store import Store
from cni_plugins.spec.deadline import Deadline, after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context
from cni_plugins.steps.dhcp_lease import forget, give_back
from cni_plugins.steps.step import Step, step
from cni_plugins.store import boot
from cni_plugins.store.locks import locked
from cni_plugins.store.reservations import read_reservation

_TURN_SECONDS = 0.3


@step
class PrefixLease(Step):
    """The lease of `network` on `uplink`, in the store of the lease daemon at `socket` ("" for the node's
    own). The plugin that gets it writes the file. Whoever has an address of the network, as `directory` says
    (host-local's reservations), needs it.
    """

    socket: str
    network: str
    uplink: str
    directory: str

    def lock(self, context: Context, deadline: Deadline) -> AbstractContextManager[None]:
        """Held from before there is a lease until an address of it is reserved. CniError 5 or 11."""
        key = "\0".join((self.socket, self.network, self.uplink))
        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        return locked(f"{context.call.roots.run}/locks/prefix-{name}", deadline)

    def undo(self, context: Context) -> None:
        """Give the prefix back if nobody has an address of the network any more. An ADD that is at work on
        it, which may wait long for a router, needs it or gives it back itself.
        """
        store = Store(context.call.roots, self.socket)
        identity = delegation.identity_of(self.network, self.uplink)
        if not store.directory.is_dir():
            return
        if self.is_used():
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(self.lock(context, after(_TURN_SECONDS)))
            except CniError as error:
                if error.code is not Code.TRY_AGAIN:
                    raise
                return
            lease = delegation.lease_of(store, self.network, self.uplink)
            if self.is_used():
                return
            forget(
                context, self.socket, identity, delegation.VERSION
            )  # before the route: it would make it again
            shared = lease is not None and delegation.shared(store, lease) is not None
            if lease is not None and not shared:
                with link.opened(lease.place) as found:
                    if found is not None:
                        link.withdraw(found, lease)
            give_back(context, store, self.socket, identity, delegation.VERSION, release=not shared)

    def is_used(self) -> bool:
        """Whether an IPv6 address of the network is reserved, for a container that has not ended with an
        earlier boot.
        """
        try:
            found = [read_reservation(str(path), path.name) for path in Path(self.directory).iterdir()]
        except OSError:
            return False
        return any(
            item is not None and item.address.version == 6 and item.boot in {"", boot.current()}
            for item in found
        )

    def check(self, context: Context) -> None:
        """CniError 999 when there is no lease, it is over, or the attachment has an address of another
        prefix; 11 when nobody would renew it.
        """
        store = Store(context.call.roots, self.socket)
        lease = delegation.lease_of(store, self.network, self.uplink)
        if lease is None or lease.address is None:
            raise CniError(
                Code.INTERNAL,
                f"no router has delegated a prefix on {self.uplink} to network {self.network}",
                f"there is no lease in {store.directory}",
            )
        if not lease.holds:
            raise CniError(
                Code.INTERNAL, f"prefix {lease.prefix} of network {self.network} is over", lease.told
            )
        call = context.call
        found = call.previous.ips_of(call.ifname) if call.previous is not None else ()
        listed = [entry.address.ip for entry in found if entry.address.version == 6]
        if listed and not any(address in lease.prefix for address in listed):
            raise CniError(
                Code.INTERNAL,
                f"{call.ifname} of {call.container_id} has {', '.join(map(str, listed))}, and the prefix of "
                f"network {self.network} is {lease.prefix} by now",
                "attach the container anew, and it gets an address of that",
            )
        protocol.ask(protocol.socket_of(call.roots, self.socket), {"hello": True})
