"""A veth pair between the host and the container.

Its identity is the host end's name and MAC address. We chose the address at random and nobody in the
container can change it, so a link of that name with another address is not ours, whatever it is called.
"""

from cni_plugins.kernel import bridges, links, verify
from cni_plugins.kernel.links import Link
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.steps import mtu
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step
from cni_plugins.store.locks import locked


@step
class Veth(Step):
    """`name` and `mac` are the host end's, `ifname` and `peer_mac` the container's; `mtu` 0 is the kernel's
    choice, `bridge` the bridge that the host end is a port of.
    """

    name: str
    mac: str
    ifname: str
    peer_mac: str
    mtu: int = 0
    bridge: str = ""

    def apply(self, context: Context) -> None:
        """CniError 999, also when one of the names is taken."""
        master = links.find(context.host, self.bridge) if self.bridge else None
        if not self.make(context, master.index if master is not None else 0):
            raise CniError(Code.INTERNAL, f"{self.name} or {self.ifname} is the name of another link")

    def make(self, context: Context, master: int) -> bool:
        """Make the pair with the host end, up, in the link `master` (0: none); False when a name is taken."""
        message = links.create_veth(
            self.name,
            self.ifname,
            context.inside.fd,
            mtu=self.mtu,
            mac=self.mac,
            peer_mac=self.peer_mac,
            master=master,
        )
        (answer,) = context.host.request(message)
        return not answer.error

    def host_end(self, context: Context) -> Link | None:
        """The host's end, None if it is gone or the name is another link's."""
        link = links.find(context.host, self.name)
        if link is None and context.sandbox_namespace is not None:  # renamed, perhaps
            inside = links.find(context.sandbox, self.ifname)
            link = links.other_end(context.host, context.sandbox, inside) if inside is not None else None
        return link if link is not None and link.kind == "veth" and link.mac == self.mac else None

    def undo(self, context: Context) -> None:
        """Remove it; where it was the last port of a bridge of ours, that goes too, since the kernel waits as
        long for one of them as for both.
        """
        link = self.host_end(context)
        if link is None:
            return
        if self.bridge and link.master and bridges.is_only_port(context.host, self.bridge, link.index):
            with locked(
                bridges.lock_path(context.call.roots.run, self.bridge), context.deadline, undoing=True
            ):
                if bridges.release_with(context.host, self.bridge, link):
                    return
        links.remove(context.host, link.name, link.index)

    def check(self, context: Context) -> None:
        inside = verify.link(context.sandbox, self.ifname, "veth", context.call.previous or Result())
        outside = self.host_end(context)
        if outside is None or outside.peer != inside.index:
            raise CniError(Code.INTERNAL, f"the host's end {self.name} of {self.ifname} is gone")
        if not outside.up:
            raise CniError(
                Code.INTERNAL,
                f"the host's end {outside.name} of {self.ifname} is down",
                f"ip link set {outside.name} up",
            )
        mtu.require_mtu(context, inside, self.mtu)
