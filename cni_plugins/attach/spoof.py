"""The MAC spoof check for main plugins (`macspoofchk`). Imports as in attach/masquerade.py."""

from cni_plugins.attach.transaction import Transaction
from cni_plugins.spec.call import Call
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.identity import Identity


def add(tx: Transaction, port: str, mac: str) -> None:
    """Let the container behind the bridge port `port` send from `mac` only. CniError 999."""
    from cni_plugins.kernel.nft import spoof

    call = tx.context.call
    tx.intend("spoof.delete", port=port, mac=mac)
    spoof.add(call.host, call.identity, port, mac)


def check(call: Call, port: str, mac: str) -> None:
    """CniError 999 when the port is not guarded, by us or by a reference plugin."""
    from cni_plugins.kernel.nft import reference, spoof

    if spoof.present(call.host, call.identity, port, mac):
        return
    if reference.has_spoof_check(call.host, call.identity):
        return
    raise CniError(
        Code.INTERNAL,
        f"macspoofchk is true, but the bridge port {port} may send from any MAC address",
        "detach the container and attach it again",
    )


def remove_legacy(call: Call) -> None:
    """Remove a reference plugin's spoof check of this attachment; cheap when there is none. CniError 999."""
    from cni_plugins.kernel.nft import reference

    reference.remove_spoof_check(call.host, call.identity)


def collect(call: Call) -> None:
    """GC of what no record covers. CniError 999."""
    from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE
    from cni_plugins.kernel.nft import orphans, spoof

    keep = {Identity(call.network, container, ifname) for container, ifname in call.valid or ()}
    orphans.remove(call.host, call.network, keep, spoof.SETS, NFPROTO_BRIDGE)
