"""The gateway of a VLAN of a bridge: the interface `<bridge>.<vid>`.

It is one end of a veth pair whose other end is a port of the bridge in that VLAN. It carries the bridges'
alias and goes with the last port of the VLAN.
"""

from cni_plugins.kernel import addresses, bridges, interface, links, sysctl, vlans
from cni_plugins.kernel.links import Link
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.bridge import membership
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step, step
from cni_plugins.store.locks import locked


def gateway_name(bridge: str, vid: int) -> str:
    """The name of a VLAN's gateway interface. CniError 7 when it does not fit."""
    name = f"{bridge}.{vid}"
    if len(name.encode()) > 15:
        raise CniError(
            Code.INVALID_CONFIG,
            f"bridge is {bridge!r} and vlan {vid}: the gateway's interface {name!r} has more than 15 bytes",
        )
    return name


@step
class VlanGateway(Step):
    """Stands in a record before the port's pair, which has to be gone when this is undone."""

    bridge: str
    vid: int

    @property
    def name(self) -> str:
        return f"{self.bridge}.{self.vid}"

    def apply(self, context: Context) -> None:
        bridge = bridges.find(context.host, self.bridge)
        if bridge is None:
            raise CniError(Code.INTERNAL, f"bridge {self.bridge} is gone")
        self.make(context, bridge, bridge.mtu)

    def make(self, context: Context, bridge: Link, mtu: int) -> Link:
        """The interface, made when missing; the bridge's lock is held. CniError 7 or 999."""
        name = gateway_name(self.bridge, self.vid)
        netlink = context.host
        found = links.find(netlink, name)
        if found is not None:
            return found
        peer = links.random_name()
        mac = links.random_mac()
        host = context.call.host
        netlink.request(
            links.create_veth(name, peer, host.fd, mtu=mtu, mac=mac, peer_mac=links.random_mac()),
            links.change(name, 0, ifalias=bridges.ALIAS),
        )
        # As of every port, and of every bridge; see BridgePort.
        sysctl.put(host, {f"ipv6/conf/{peer}/disable_ipv6": "1", f"ipv6/conf/{name}/accept_ra": "0"})
        netlink.request(
            addresses.own(interface.index_of(host, name), mac),
            links.change(peer, 0, set_flags=links.IFF_UP, master=bridge.index),
        )
        made = links.find(netlink, peer)
        gateway = links.find(netlink, name)
        if made is None or gateway is None:
            raise CniError(Code.INTERNAL, f"the gateway's interface {name} vanished as soon as it was made")
        netlink.request(*membership(bridge, peer, made.index, self.vid, (), keep=False))
        return gateway

    def undo(self, context: Context) -> None:
        """Remove it when no other port is in the VLAN."""
        with locked(bridges.lock_path(context.call.roots.run, self.bridge), context.deadline, undoing=True):
            gateway = links.find(context.host, self.name)
            if gateway is None or gateway.kind != "veth" or gateway.alias != bridges.ALIAS:
                return
            peer = links.other_end(context.host, context.host, gateway)
            members = vlans.of_ports(context.host, peer.master) if peer is not None and peer.master else {}
            others = [index for index, vids in members.items() if self.vid in vids and index != gateway.peer]
            if not others:
                links.remove(context.host, gateway.name, gateway.index)
