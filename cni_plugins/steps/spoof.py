"""The MAC spoof check (`macspoofchk`). Imports as in masquerade.py."""

from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step


@step
class SpoofCheck(Step):
    """The container behind the bridge port `port` may send from `mac` only. The elements carry the
    attachment's tag.
    """

    port: str
    mac: str

    def apply(self, context: Context) -> None:
        from cni_plugins.kernel.nft import spoof

        spoof.add(context.call.host, context.call.identity, self.port, self.mac)

    def restore(self, context: Context) -> None:
        from cni_plugins.kernel.nft import spoof

        call = context.call
        if not spoof.present(call.host, call.identity, self.port, self.mac):
            spoof.repair(call.host, call.identity, self.port, self.mac)

    def undo(self, context: Context) -> None:
        from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE
        from cni_plugins.kernel.nft import spoof
        from cni_plugins.kernel.nft.tables import Unused

        call = context.call
        if spoof.remove(call.host, call.identity, self.port, self.mac):
            call.idle.append(Unused(call.host, NFPROTO_BRIDGE))

    def check(self, context: Context) -> None:
        """CniError 999 when the port is not guarded, by us or by a reference plugin."""
        from cni_plugins.kernel.nft import reference, spoof

        call = context.call
        if spoof.present(call.host, call.identity, self.port, self.mac, context.counts):
            return
        if reference.has_spoof_check(call.host, call.identity):
            return
        raise CniError(
            Code.INTERNAL,
            f"macspoofchk is true, but the bridge port {self.port} may send from any MAC address",
            "mesokit reload makes the rules again",
        )

    @classmethod
    def collect(cls, context: Context) -> None:
        from cni_plugins.kernel.netlink.netfilter import NFPROTO_BRIDGE
        from cni_plugins.kernel.nft import orphans, spoof
        from cni_plugins.kernel.nft.tables import Unused

        orphans.remove(context.call.host, context.call.network, context.keep, spoof.SETS, NFPROTO_BRIDGE)
        context.call.idle.append(Unused(context.call.host, NFPROTO_BRIDGE))

    @classmethod
    def remove_legacy(cls, context: Context) -> None:
        """Of this attachment; cheap when there is none."""
        from cni_plugins.kernel.nft import reference

        reference.remove_spoof_check(context.call.host, context.call.identity)
