"""127.0.0.1 at a published port: the switch that lets loopback addresses out to a container, its guard."""

from cni_plugins.kernel import links, routes, sysctl
from cni_plugins.kernel.netlink.netfilter import NFPROTO_INET
from cni_plugins.kernel.nft import owner, ports
from cni_plugins.kernel.nft.tables import Unused
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import IpInterface
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step
from cni_plugins.store import claims


@step
class Localnet(Step):
    """127.0.0.1 reaches the container: route_localnet on the host's `interface` towards it, shared by all
    containers behind that interface, and shut for everybody but the host itself. The last of those who claim
    it (`subject`, `member`) shuts what the first one opened.
    """

    subject: str
    member: str
    interface: str

    @property
    def _sysctl(self) -> str:
        return _localnet(self.interface)

    def apply(self, context: Context) -> None:
        """Claim and open it; the claims' lock is held."""
        call = context.call
        claims.claim(call.roots, self.subject, self.member, claims.owner(call.identity))
        self._open(context)

    def _open(self, context: Context) -> None:
        ports.guard_loopback(context.call.host, self.interface)
        sysctl.ensure(context.call.host, {self._sysctl: "1"})

    def check(self, context: Context) -> None:
        if sysctl.read(context.call.host, self._sysctl) != "1":
            raise CniError(
                Code.INTERNAL,
                f"127.0.0.1 does not reach the container: net/{self._sysctl} is not 1",
                "mesokit reload sets it again",
            )

    def restore(self, context: Context) -> None:
        if links.find(context.host, self.interface) is not None:
            self._open(context)

    def undo(self, context: Context) -> None:
        """The claim goes last, so that whoever dies on the way leaves a claim that says what is still to be
        done.
        """
        call = context.call
        with claims.guarded(call.roots, call.deadline, undoing=True):
            if list(claims.members(call.roots, self.subject)) == [self.member]:
                sysctl.ensure(call.host, {self._sysctl: "0"}, optional=True)
                ports.unguard_loopback(call.host, self.interface)
                call.idle.append(Unused(call.host, NFPROTO_INET))
            claims.release(call.roots, self.subject, self.member, call.identity)


def _localnet(interface: str) -> str:
    return f"ipv4/conf/{interface}/route_localnet"


def localnet_of(context: Context, target: IpInterface) -> Localnet | None:
    """What lets 127.0.0.1 reach a target; None where nothing has to be done. The claims' lock is held."""
    call = context.call
    index = routes.towards(context.host, target.ip)
    link = links.find_index(context.host, index) if index else None
    if link is None:
        return None  # the host has no way to the container, so 127.0.0.1 has none either
    subject = f"localnet-{call.host.inode}-{link.name}"
    if not claims.members(call.roots, subject) and sysctl.read(call.host, _localnet(link.name)) == "1":
        return None
    return Localnet(subject, owner.tag(call.identity), link.name)
