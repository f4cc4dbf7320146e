"""Publishing ports in a transaction: they are claimed first, and the host's loopback opened to them."""

from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel.nft.ports import Hide
from cni_plugins.steps.localnet import localnet_of
from cni_plugins.steps.ports import Ports, claims_of
from cni_plugins.store import claims


def publish(tx: Transaction, ports: Ports) -> None:
    """CniError 103 naming the container that has one of the ports, 11 or 999."""
    call = tx.context.call
    with claims.guarded(call.roots, call.deadline):
        tx.apply(claims_of(tx.context, ports.wanted.forwards))
    if ports.wanted.hide is not Hide.NOBODY:
        for target in ports.wanted.targets:
            if target.version != 4:
                continue
            with claims.guarded(call.roots, call.deadline):
                localnet = localnet_of(tx.context, target)
                if localnet is not None:
                    tx.apply(localnet)
    tx.apply(ports)
