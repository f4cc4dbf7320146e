"""Masquerading (`ipMasq`, `ipMasqBackend`): an attachment's addresses are hidden behind the host's.

What speaks to nf_tables and iptables is imported by the functions that need it: hardly half of all networks
masquerade, and a call without service pays for each module.
"""

from cni_plugins.spec.config import one_of
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import IpInterface
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step

BACKEND = one_of("nftables", "iptables")
NFTABLES, IPTABLES = "nftables", "iptables"


@step
class Masquerade(Step):
    """`addresses` are hidden, except from their own subnets. `backend` is a value of BACKEND. The elements
    carry the attachment's tag, the iptables rules its names.
    """

    backend: str
    addresses: tuple[IpInterface, ...]

    def apply(self, context: Context) -> None:
        """CniError 11 or 999."""
        from cni_plugins.kernel import iptables
        from cni_plugins.kernel.nft import masquerade

        call = context.call
        if self.backend == NFTABLES:
            masquerade.add(call.host, call.identity, self.addresses)
            return
        with context.iptables_lock():
            for version, listed in iptables.by_version(self.addresses).items():
                tool = iptables.Tool(call.host, version, call.deadline)
                iptables.add_masquerade(tool, call.identity, listed)

    def restore(self, context: Context) -> None:
        from cni_plugins.kernel.nft import masquerade

        call = context.call
        if self.backend != NFTABLES:
            self.apply(context)
        elif not masquerade.present(call.host, call.identity, self.addresses):
            masquerade.repair(call.host, call.identity, self.addresses)

    def undo(self, context: Context) -> None:
        from cni_plugins.kernel import iptables
        from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET
        from cni_plugins.kernel.nft import masquerade
        from cni_plugins.kernel.nft.tables import Unused

        call = context.call
        if self.backend == NFTABLES:
            if masquerade.remove(call.host, call.identity, self.addresses):
                context.call.idle.append(Unused(call.host, NFPROTO_INET))
            return
        with context.iptables_lock(undoing=True):
            for version, listed in iptables.by_version(self.addresses).items():
                tool = iptables.Tool(call.host, version, call.deadline)
                call.warn(iptables.remove_masquerade(tool, call.identity, listed))

    def check(self, context: Context) -> None:
        """CniError 999 when the addresses are not masqueraded, by us or by a reference plugin."""
        from cni_plugins.kernel import iptables
        from cni_plugins.kernel.nft import masquerade, reference

        call = context.call
        if self.backend == NFTABLES and masquerade.present(
            call.host, call.identity, self.addresses, context.counts
        ):
            return
        if reference.has_masquerade(call.host, call.identity):
            return
        there = iptables.versions_with(call.host, [iptables.chain_name("", call.identity)])
        if all(
            version in there
            and iptables.has_masquerade(
                iptables.Tool(call.host, version, call.deadline), call.identity, listed
            )
            for version, listed in iptables.by_version(self.addresses).items()
        ):
            return
        raise CniError(
            Code.INTERNAL,
            f"ipMasq is true, but {call.ifname} of container {call.container_id} is not masqueraded",
            f"addresses {', '.join(map(str, self.addresses))}; mesokit reload makes the rules again",
        )

    @classmethod
    def collect(cls, context: Context) -> None:
        from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET
        from cni_plugins.kernel.nft import masquerade, orphans
        from cni_plugins.kernel.nft.tables import Unused

        orphans.remove(context.call.host, context.call.network, context.keep, masquerade.SETS)
        context.call.idle.append(Unused(context.call.host, NFPROTO_INET))

    @classmethod
    def remove_legacy(cls, context: Context) -> None:
        """Cheap when a reference plugin left nothing. The chain of its iptables backend is named after the
        container, and so is ours: while a record knows the container it is not touched.
        """
        from cni_plugins.kernel import iptables
        from cni_plugins.kernel.nft import reference

        call = context.call
        reference.remove_masquerade(call.host, call.identity)
        versions = iptables.versions_with(call.host, [iptables.chain_name("", call.identity)])
        if versions and not context.container_is_recorded():
            with context.iptables_lock(undoing=True):
                for version in versions:
                    tool = iptables.Tool(call.host, version, call.deadline)
                    call.warn(iptables.remove_masquerade(tool, call.identity))
