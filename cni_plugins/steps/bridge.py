"""The bridge plugin's part of the host: the bridge, its ports, the gateways' addresses on it.

A bridge of ours carries the alias `mesokit` or the MAC address that its first step chose, and goes with its
last port; the bridge's lock keeps its making and the making of a port apart from its removal.
"""

from cni_plugins.kernel import addresses, bridges, interface, links, sysctl, verify, vlans
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.route import Message
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import IpInterface
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step
from cni_plugins.store.locks import locked


@step
class Bridge(Step):
    """`mac` is what it gets if it has to be made; one that is there keeps its own. `pinned`: its address does
    not follow its ports'.
    """

    name: str
    mac: str
    mtu: int = 0
    promisc: bool = False
    vlan_filtering: bool = False
    pinned: bool = False
    stays: bool = False

    def apply(self, context: Context) -> None:
        self.make(context)

    def make(self, context: Context) -> Link:
        """The bridge, made when missing, and up. Its lock is held. CniError 7 or 999."""
        netlink = context.host
        bridge = bridges.find(netlink, self.name)
        if bridge is None:
            bridges.create(
                netlink,
                self.name,
                self.mac,
                mtu=self.mtu,
                promisc=self.promisc,
                vlan_filtering=self.vlan_filtering,
            )
            bridge = bridges.find(netlink, self.name)
        if bridge is None:
            raise CniError(Code.INTERNAL, f"bridge {self.name} vanished as soon as it was made")
        if self.stays and bridge.alias == bridges.ALIAS:
            netlink.request(links.change(bridge.name, bridge.index, ifalias=bridges.STAYS))
            bridge = bridges.find(netlink, self.name) or bridge
        wanted = links.IFF_UP | (links.IFF_PROMISC if self.promisc else 0)
        if wanted & ~bridge.flags:
            netlink.request(links.change(bridge.name, bridge.index, set_flags=wanted))
        if self.pinned and bridge.alias != bridges.ALIAS:
            # A MAC address that is set does not follow the ports' any more.
            netlink.request(links.change(bridge.name, bridge.index, address=bridge.mac))
        return bridge

    def undo(self, context: Context) -> None:
        """Remove it when this was its last port."""
        with locked(bridges.lock_path(context.call.roots.run, self.name), context.deadline, undoing=True):
            bridges.release(context.host, self.name, self.mac)

    def check(self, context: Context) -> None:
        bridge = bridges.find(context.host, self.name)
        if bridge is None:
            raise CniError(Code.INTERNAL, f"bridge {self.name} is gone")
        if not bridge.up:
            raise CniError(Code.INTERNAL, f"bridge {self.name} is down", f"ip link set {self.name} up")
        result = context.call.previous
        entry = next(
            (
                item
                for item in (result.interfaces if result is not None else ())
                if item.name == self.name and not item.sandbox
            ),
            None,
        )
        if entry is not None and bridge.alias == bridges.ALIAS and entry.mac.lower() not in {"", bridge.mac}:
            raise CniError(
                Code.INTERNAL,
                f"{self.name} has MAC address {bridge.mac}, prevResult says {entry.mac}: it was made anew",
                f"ip link set {self.name} address {entry.mac}",
            )
        if self.promisc and not bridge.flags & links.IFF_PROMISC:
            raise CniError(Code.INTERNAL, f"bridge {self.name} is not promiscuous")


@step
class BridgePort(Step):
    """The host end `name` (MAC address `mac`) of a pair, as a port of `bridge`. It goes with the pair.

    `vid` is the VLAN of its untagged frames and `trunks` the ranges of its tagged ones; 0 and none leave
    VLANs alone, unless `filtered`. `keep`: the bridge's default VLAN too.
    """

    name: str
    mac: str
    bridge: str
    hairpin: bool = False
    isolated: bool = False
    filtered: bool = False
    vid: int = 0
    trunks: tuple[tuple[int, int], ...] = ()
    keep: bool = False

    def apply(self, context: Context) -> None:
        bridge = bridges.find(context.host, self.bridge)
        if bridge is None:
            raise CniError(Code.INTERNAL, f"bridge {self.bridge} is gone")
        self.make(context, bridge)

    def make(self, context: Context, bridge: Link) -> None:
        """Set what the port of `bridge` needs."""
        host = context.call.host
        # What passes a port belongs to the bridge. An IPv6 stack of its own would give every port three
        # routes of the host, and the kernel walks all of them whenever any port goes.
        sysctl.put(host, {f"ipv6/conf/{self.name}/disable_ipv6": "1"})
        sysctl.ensure(host, {f"ipv6/conf/{bridge.name}/accept_ra": "0"}, optional=True)
        if not (self.hairpin or self.isolated or self.filtered):
            return
        index = interface.index_of(host, self.name)
        if self.hairpin or self.isolated:
            context.host.request(
                links.change_port(self.name, index, hairpin=self.hairpin, isolated=self.isolated)
            )
        if self.filtered:
            context.host.request(*membership(bridge, self.name, index, self.vid, self.trunks, keep=self.keep))

    def check(self, context: Context) -> None:
        port = links.find(context.host, self.name)
        bridge = bridges.find(context.host, self.bridge)
        if port is None or bridge is None or port.mac != self.mac or port.master != bridge.index:
            raise CniError(
                Code.INTERNAL,
                f"the other end of {context.call.ifname} is no port of bridge {self.bridge}",
            )
        if self.hairpin and not port.hairpin:
            raise CniError(Code.INTERNAL, f"bridge port {port.name} is not in hairpin mode")
        if self.isolated and not port.isolated:
            raise CniError(Code.INTERNAL, f"bridge port {port.name} is not isolated")
        if self.filtered:
            self._check_vlans(context, port)

    def _check_vlans(self, context: Context, port: Link) -> None:
        there = vlans.of_port(context.host, port.index, port.master)
        wanted = {self.vid or 1}
        for first, last in self.trunks:
            wanted.update(range(first, last + 1))
        missing = sorted(wanted - there)
        if missing:
            raise CniError(Code.INTERNAL, f"bridge port {port.name} is not in VLAN {missing[0]}")


def membership(
    bridge: Link, port: str, index: int, vid: int, trunks: tuple[tuple[int, int], ...], *, keep: bool
) -> list[Message]:
    """The changes that put a new port into its VLANs: untagged `vid` (1 for a pure trunk), tagged
    `trunks`.
    """
    default = bridges.default_vlan(bridge)
    untagged = vid or 1
    changes = []
    if default and default != untagged and not keep:
        changes.append(vlans.leave(port, index, default))
    changes.append(vlans.access(port, index, untagged))
    return changes + [vlans.trunk(port, index, first, last) for first, last in trunks]


@step
class Gateway(Step):
    """The gateways' addresses on `interface`: a bridge, or what stands for one of its VLANs. They stay:
    others use them, and they go with a bridge of ours.
    """

    interface: str
    addresses: tuple[IpInterface, ...]
    force: bool = False
    dad: bool = False
    several: bool = False

    def apply(self, context: Context) -> None:
        link = links.find(context.host, self.interface)
        if link is None:
            raise CniError(Code.INTERNAL, f"the gateway's interface {self.interface} is gone")
        self.make(context, link)

    def make(self, context: Context, link: Link) -> None:
        """Give them to `link`. CniError 7 when it has others that conflict and `force` is false."""
        bridges.give_addresses(
            context.host, link, self.addresses, force=self.force, dad=self.dad, several=self.several
        )

    def check(self, context: Context) -> None:
        link = links.find(context.host, self.interface)
        if link is None:
            raise CniError(Code.INTERNAL, f"the gateway's interface {self.interface} is gone")
        if not link.up:
            raise CniError(Code.INTERNAL, f"the gateway's interface {self.interface} is down")
        verify.has_addresses(context.host, link, self.addresses)

    def restore(self, context: Context) -> None:
        """Those that are missing, where nothing conflicts with them."""
        link = links.find(context.host, self.interface)
        if link is None:
            return
        there = {item.address for item in addresses.of_link(context.host, link.index)}
        if not there.issuperset(self.addresses):
            self.make(context, link)
