"""Undo operations of published ports."""

from collections.abc import Mapping
from typing import Any

from cni_plugins.attach.context import Context
from cni_plugins.attach.masquerade import iptables_lock
from cni_plugins.attach.ports import decode, localnet, udp_ports
from cni_plugins.kernel import conntrack, iptables, sysctl
from cni_plugins.kernel.iptables import Tool
from cni_plugins.kernel.nft import ports
from cni_plugins.kernel.nft.ports import Hide, Publication
from cni_plugins.store import claims


def delete(context: Context, args: Mapping[str, Any]) -> None:
    """`ports.delete {backend, forwards, hide, excluded, conditions}`; UDP flows that were led there are
    forgotten.
    """
    call = context.call
    v4, v6 = args["conditions"]
    made = Publication(decode(args["forwards"]), Hide(args["hide"]), tuple(args["excluded"]), (v4, v6))
    if args["backend"] == "nftables":
        ports.remove(call.host, call.identity, made)
    else:
        with iptables_lock(call):
            for target in made.targets:
                iptables.remove_ports(Tool(call.host, target.version, call.deadline), call.identity)
    conntrack.forget_translated(call.host, udp_ports(made.forwards))


def release(context: Context, args: Mapping[str, Any]) -> None:
    """`ports.release {claims: [[subject, member]]}`."""
    call = context.call
    with claims.guarded(call.roots, call.deadline):
        for subject, member in args["claims"]:
            claims.release(call.roots, subject, member, call.identity)


def release_localnet(context: Context, args: Mapping[str, Any]) -> None:
    """`localnet.release {subject, member, interface}`: the last user shuts what the first one opened.

    The claim goes last, so that whoever dies on the way leaves a claim that says what is still to be done.
    """
    call = context.call
    with claims.guarded(call.roots, call.deadline):
        if list(claims.members(call.roots, args["subject"])) == [args["member"]]:
            sysctl.ensure(call.host, {localnet(args["interface"]): "0"}, optional=True)
            ports.unguard_loopback(call.host, args["interface"])
        claims.release(call.roots, args["subject"], args["member"], call.identity)
