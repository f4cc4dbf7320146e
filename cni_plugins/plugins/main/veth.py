"""A veth pair between the host and the container."""

from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import interface, links
from cni_plugins.spec.errors import CniError, Code

_NAME_TRIES = 10


def create(tx: Transaction, *, mtu: int, mac: str, peer_mac: str, master: int = 0) -> str:
    """Make a pair with CNI_IFNAME directly in the container; the host end's name, which is new.

    `mtu` 0 is the kernel's choice, `master` the index of the bridge that the host end goes into. CniError 7
    when the container has the interface already, 999 for the kernel's refusals.
    """
    ifname = tx.scene.call.ifname
    for _ in range(_NAME_TRIES):
        name = links.random_name()
        tx.intend("link.delete", where="host", name=name)
        message = links.create_veth(
            name, ifname, tx.scene.inside.fd, mtu=mtu, mac=mac, peer_mac=peer_mac, master=master
        )
        (answer,) = tx.scene.host.request(message)
        if not answer.error:
            return name
        tx.cancel()
        interface.require_free(tx.scene.inside, ifname)
    raise CniError(Code.INTERNAL, f"no free name for a veth after {_NAME_TRIES} tries")
