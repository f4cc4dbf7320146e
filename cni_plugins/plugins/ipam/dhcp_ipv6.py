"""The IPv6 side of the dhcp plugin: an address leased by DHCPv6 (RFC 8415)."""

from collections.abc import Mapping
from dataclasses import dataclass

from cni_plugins.attach.transaction import Transaction
from cni_plugins.dhcp import client6, duid, protocol
from cni_plugins.dhcp.lease import Place
from cni_plugins.dhcp.lease6 import AnyLease, Lease6, Wish6
from cni_plugins.dhcp.link import Found
from cni_plugins.dhcp.packet6 import Option
from cni_plugins.dhcp.store import Store
from cni_plugins.spec.call import Call
from cni_plugins.spec.deadline import Deadline, after
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.result import Dns, Result
from cni_plugins.steps.dhcp_lease import DhcpLease

VERSION = 6
_INFORMATION_SECONDS = 3.0
_SMALLEST_MTU = 1280  # RFC 8200 section 5
ASKED = (Option.NAME_SERVERS, Option.SEARCH, Option.SOL_MAX_RT)

#: How the interface has to be before it comes up: with a link-local address that can be used at once, while
#: the kernel looks for a duplicate (RFC 4429), and deaf to routers.
SETTINGS: Mapping[str, str] = {"accept_ra": "0", "autoconf": "0", "accept_dad": "1", "optimistic_dad": "1"}


def require_mtu(ifname: str, mtu: int) -> None:
    """CniError 7 where the kernel has no IPv6 for want of MTU."""
    if mtu < _SMALLEST_MTU:
        raise CniError(
            Code.INVALID_CONFIG,
            f"ipam.families has ipv6, and {ifname} has an MTU of {mtu}",
            f"IPv6 needs {_SMALLEST_MTU}: raise mtu, or leave ipv6 out",
        )


@dataclass(frozen=True, slots=True)
class Asking:
    """What both families ask with; servers may answer until `deadline`."""

    call: Call
    tx: Transaction
    found: Found
    place: Place
    store: Store
    deadline: Deadline

    @property
    def identity(self) -> Identity:
        return Identity(self.call.network, self.call.container_id, self.call.ifname)

    def intend(self, version: int) -> None:
        """Record that there is going to be a lease. CniError 5."""
        call = self.call
        self.tx.intend(DhcpLease(self.store.socket, call.network, call.container_id, call.ifname, version))

    def keep(self, lease: AnyLease) -> None:
        """CniError 5 or 11."""
        with self.store.locked(self.call.deadline):
            self.store.write(lease)

    def watched(self, version: int) -> None:
        """Have the daemon renew the lease from now on. CniError 11."""
        path = protocol.socket_of(self.call.roots, self.store.socket)
        protocol.tell(path, self.store, "watch", (self.identity, version))


def lease(asking: Asking, own: bytes) -> Result:
    """Get a DHCPv6 lease; `own` is the configured DUID, b"" for that of the container. CniError 11."""
    identity = asking.identity
    asking.intend(VERSION)
    wanted = Lease6(identity, asking.place, _wish(identity, own))
    got = client6.acquire(asking.found, wanted, asking.deadline, asking.keep)
    asking.keep(got)
    asking.watched(VERSION)
    return got.result()


def information(asking: Asking, own: bytes) -> Dns:
    """Name servers and search domains of DHCPv6 servers, for a network whose routers say that they have those
    alone (O): nothing when none answers within 3 s. CniError 11 without a link-local address.
    """
    wanted = Lease6(asking.identity, asking.place, _wish(asking.identity, own))
    limit = after(max(0.1, min(_INFORMATION_SECONDS, asking.deadline.remaining())))
    return client6.information(asking.found, wanted, limit)


def _wish(identity: Identity, own: bytes) -> Wish6:
    return Wish6(
        own or duid.of_container(identity.container_id),
        duid.association(identity),
        tuple(int(number) for number in ASKED),
    )
