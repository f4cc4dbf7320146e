"""Making a veth pair in a transaction: names are tried until one is free."""

from collections.abc import Callable

from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import interface, links
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.veth import Veth

_NAME_TRIES = 10


def create(tx: Transaction, pair: Callable[[str], Veth], master: int = 0, host_name: str = "") -> Veth:
    """Make the pair that `pair` describes, given the host end's name: `host_name`, or a random one.

    `master` is the index of the bridge that the host end goes into. CniError 7 when either end's name is
    taken, 999 for the kernel's refusals.
    """
    for _ in range(1 if host_name else _NAME_TRIES):
        step = pair(host_name or links.random_name())
        if host_name:
            _require_unused(tx, host_name)
        tx.intend(step)
        if step.make(tx.context, master):
            return step
        tx.cancel()
        interface.require_free(tx.context.inside, step.ifname)
    if host_name:
        _require_unused(tx, host_name)
    raise CniError(Code.INTERNAL, f"no free name for a veth after {_NAME_TRIES} tries")


def _require_unused(tx: Transaction, name: str) -> None:
    if links.find(tx.context.host, name) is not None:
        raise CniError(
            Code.INVALID_CONFIG, f"hostInterface is {name!r}, and the host has a link of that name"
        )
