"""A veth pair between the host and the container."""

from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import interface, links
from cni_plugins.spec.errors import CniError, Code

_NAME_TRIES = 10


def create(
    tx: Transaction, *, mtu: int, mac: str, peer_mac: str, master: int = 0, host_name: str = ""
) -> str:
    """Make a pair with CNI_IFNAME directly in the container; the host end's name, which is new.

    `mtu` 0 is the kernel's choice, `master` the index of the bridge that the host end goes into, an empty
    `host_name` a random one. CniError 7 when either end's name is taken, 999 for the kernel's refusals.
    """
    ifname = tx.context.call.ifname
    for _ in range(1 if host_name else _NAME_TRIES):
        name = host_name or links.random_name()
        if host_name:
            _require_unused(tx, host_name)
        tx.intend("link.delete", where="host", name=name)
        message = links.create_veth(
            name, ifname, tx.context.inside.fd, mtu=mtu, mac=mac, peer_mac=peer_mac, master=master
        )
        (answer,) = tx.context.host.request(message)
        if not answer.error:
            return name
        tx.cancel()
        interface.require_free(tx.context.inside, ifname)
    if host_name:
        _require_unused(tx, host_name)
    raise CniError(Code.INTERNAL, f"no free name for a veth after {_NAME_TRIES} tries")


def _require_unused(tx: Transaction, name: str) -> None:
    if links.find(tx.context.host, name) is not None:
        raise CniError(
            Code.INVALID_CONFIG, f"hostInterface is {name!r}, and the host has a link of that name"
        )
