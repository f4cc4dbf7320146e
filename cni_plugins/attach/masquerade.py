"""Masquerading for main plugins (`ipMasq`, `ipMasqBackend`): announced, made, checked, and taken over
from the reference plugins.

What speaks to nf_tables and iptables is imported by the functions that need it: hardly half of all networks
masquerade, and a call without service pays for each module.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from cni_plugins.attach.transaction import Transaction
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import one_of
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.values import IpInterface
from cni_plugins.store.locks import locked

BACKEND = one_of("nftables", "iptables")


def add(tx: Transaction, addresses: Sequence[IpInterface], backend: str | None) -> None:
    """Hide the attachment's `addresses` behind the host's, except from their own subnets. `backend` is a
    value of BACKEND; None is nftables. CniError 11 or 999.
    """
    from cni_plugins.kernel import iptables
    from cni_plugins.kernel.nft import masquerade

    call = tx.context.call
    chosen = backend or "nftables"
    tx.intend("masquerade.delete", backend=chosen, addresses=[str(item) for item in addresses])
    if chosen == "nftables":
        masquerade.add(call.host, call.identity, addresses)
        return
    with iptables_lock(call):
        for version, listed in iptables.by_version(addresses).items():
            iptables.add_masquerade(iptables.Tool(call.host, version, call.deadline), call.identity, listed)


def check(call: Call, addresses: Sequence[IpInterface], backend: str | None) -> None:
    """CniError 999 when `addresses` are not masqueraded, by us or by a reference plugin."""
    from cni_plugins.kernel import iptables
    from cni_plugins.kernel.nft import masquerade, reference

    if backend != "iptables" and masquerade.present(call.host, call.identity, addresses):
        return
    if reference.has_masquerade(call.host, call.identity):
        return
    chain = iptables.chain_name("", call.identity)
    there = iptables.versions_with(call.host, [chain])
    if all(
        version in there
        and iptables.has_masquerade(iptables.Tool(call.host, version, call.deadline), call.identity, listed)
        for version, listed in iptables.by_version(addresses).items()
    ):
        return
    listed_all = ", ".join(str(item) for item in addresses)
    raise CniError(
        Code.INTERNAL,
        f"ipMasq is true, but {call.ifname} of container {call.container_id} is not masqueraded",
        f"addresses {listed_all}; detach the container and attach it again",
    )


def remove_legacy(call: Call) -> None:
    """Remove what a reference plugin set up to masquerade this attachment; cheap when it did not.
    CniError 11 or 999.
    """
    from cni_plugins.kernel import iptables
    from cni_plugins.kernel.nft import reference

    reference.remove_masquerade(call.host, call.identity)
    chain = iptables.chain_name("", call.identity)
    versions = iptables.versions_with(call.host, [chain])
    if versions:
        with iptables_lock(call):
            for version in versions:
                iptables.remove_masquerade(iptables.Tool(call.host, version, call.deadline), call.identity)


def collect(call: Call) -> None:
    """GC of what no record covers. CniError 999."""
    from cni_plugins.kernel.nft import masquerade, orphans

    keep = {Identity(call.network, container, ifname) for container, ifname in call.valid or ()}
    orphans.remove(call.host, call.network, keep, masquerade.SETS)


def iptables_lock(call: Call) -> AbstractContextManager[None]:
    """The lock around a change through iptables (see kernel.iptables). CniError 5 or 11."""
    return locked(call.roots.run / "locks" / "iptables", call.deadline)
