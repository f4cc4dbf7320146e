"""Forwarding in a transaction: what IPv6 forwarding would cost the host is seen to first."""

from cni_plugins.attach.transaction import Transaction
from cni_plugins.steps.forwarding import Forwarding, advertised_routers, costs_nothing
from cni_plugins.store import claims


def forward(tx: Transaction, step: Forwarding) -> None:
    """CniError 5, 11 or 999."""
    call = tx.context.call
    if 6 not in step.versions or costs_nothing(tx.context):
        tx.apply(step)
        return
    with claims.guarded(call.roots, call.deadline):
        routers = advertised_routers(tx.context)
        if routers is not None:
            tx.apply(routers)
        tx.apply(step)
