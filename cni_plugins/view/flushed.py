"""What somebody flushed of the rules that containers had been given."""

from __future__ import annotations

from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.roots import Roots
from cni_plugins.view.doctor.containers import flushed_rules
from cni_plugins.view.doctor.look import look
from cni_plugins.view.node import Node


def generation(host: Namespace) -> int:
    """A number that is another one after each change of nf_tables. CniError 999."""
    with Nfnetlink(host) as socket:
        return socket.generation()


def gone(now: Node, roots: Roots, host: Namespace) -> dict[str, str]:
    """Whose rules are gone -> which. CniError 999, PermissionError."""
    return {item.about: item.evidence for item in flushed_rules(look(now, roots, host))}
