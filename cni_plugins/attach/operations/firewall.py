"""Undo operations on nf_tables and iptables."""

from collections.abc import Mapping
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.attach.masquerade import iptables_lock
from cni_plugins.kernel import iptables
from cni_plugins.kernel.iptables import Tool
from cni_plugins.kernel.nft import masquerade, spoof
from cni_plugins.spec.values import parse_cidr


def delete_masquerade(context: Context, args: Mapping[str, Any]) -> None:
    """`masquerade.delete {backend, addresses}`."""
    call = context.call
    addresses = [parse_cidr(text) for text in args["addresses"]]
    if args["backend"] == "nftables":
        masquerade.remove(call.host, call.identity, addresses)
        return
    with iptables_lock(call):
        for version, listed in iptables.by_version(addresses).items():
            iptables.remove_masquerade(Tool(call.host, version, call.deadline), call.identity, listed)


def delete_spoof_check(context: Context, args: Mapping[str, Any]) -> None:
    """`spoof.delete {port, mac}`."""
    spoof.remove(context.call.host, context.call.identity, args["port"], args["mac"])
