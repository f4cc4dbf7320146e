"""A routing domain (VRF) of a container and the interfaces in it.

The VRF is there for all of its interfaces: whoever comes first makes it, the last one removes it, under the
lock of the container's tables. Ours carries the alias `mesokit`, or the MAC address that its first step chose
before that. One that was there before, and is not ours, stays.
"""

from dataclasses import replace

from cni_plugins.kernel import link_kinds, links, routes
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Route
from cni_plugins.steps import link_state
from cni_plugins.steps.context import Context
from cni_plugins.steps.routing_tables import guarded, vrf_table
from cni_plugins.steps.step import Step, step

ALIAS = "mesokit"


def find(netlink: Netlink, name: str) -> Link | None:
    """The VRF called `name`. CniError 7 if that is another kind of link."""
    link = links.find(netlink, name)
    if link is not None and link.kind != "vrf":
        kind = link.kind or "a physical device"
        raise CniError(Code.INVALID_CONFIG, f"vrfname is {name!r}, but that link is {kind} and no VRF")
    return link


@step
class VrfPort(Step):
    """The container's interface `ifname` in the VRF `vrf`, which has the table `table`; `mac` is what the VRF
    gets if it has to be made.
    """

    vrf: str
    table: int
    mac: str
    ifname: str

    def apply(self, context: Context) -> None:
        """The lock of the container's tables is held. CniError 7 or 999."""
        netlink = context.sandbox
        vrf = find(netlink, self.vrf) or self._make(netlink)
        port = links.find(netlink, self.ifname)
        if port is None:
            raise CniError(Code.INTERNAL, f"the container has no interface {self.ifname} any more")
        if port.master == vrf.index:
            return
        if port.master:
            master = links.find_index(netlink, port.master)
            raise CniError(
                Code.INVALID_CONFIG,
                f"interface {self.ifname} has already a master set: "
                f"{master.name if master is not None else port.master}",
            )
        # An interface that changes its domain goes down for a moment, and loses what hangs on it.
        held = list(link_state.held_addresses(netlink, port.index))
        routed = list(link_state.link_routes(netlink, port.index))
        netlink.request(links.set_master(self.ifname, port.index, vrf.index))
        link_state.give_addresses(netlink, port.index, held)
        netlink.request(
            *(
                replace(item, route=replace(item.route, table=self._table_of(item.route))).add(port.index)
                for item in link_state.by_reach(routed)
                if item.protocol != routes.PROTOCOL_KERNEL
            )
        )

    def _table_of(self, route: Route) -> int | None:
        """The VRF's for what was in the main table; a table that somebody chose stays."""
        return self.table if route.table in (None, routes.MAIN_TABLE) else route.table

    def _make(self, netlink: Netlink) -> Link:
        message = link_kinds.vrf(self.vrf, self.table, mac=self.mac)
        netlink.request(message)
        netlink.request(links.change(self.vrf, 0, set_flags=links.IFF_UP, ifalias=ALIAS))
        made = find(netlink, self.vrf)
        if made is None:
            raise CniError(Code.INTERNAL, f"VRF {self.vrf} vanished as soon as it was made")
        return made

    def undo(self, context: Context) -> None:
        """Take the interface out, and remove the VRF when it was the last."""
        if context.sandbox_namespace is None:
            return
        netlink = context.sandbox
        with guarded(context.call, context.sandbox_namespace, undoing=True):
            vrf = links.find(netlink, self.vrf)
            if vrf is None or vrf.kind != "vrf":
                return
            port = links.find(netlink, self.ifname)
            if port is not None and port.master == vrf.index:
                netlink.request(links.set_master(self.ifname, port.index, 0).unless_gone())
            if vrf.alias != ALIAS and vrf.mac != self.mac:
                return
            if not links.every(netlink, master=vrf.index):
                links.remove(netlink, vrf.name, vrf.index)
            elif not vrf.alias:
                # Its maker died before it could mark it; whoever is the last removes it then.
                netlink.request(links.change(vrf.name, vrf.index, ifalias=ALIAS).unless_gone())

    def check(self, context: Context) -> None:
        netlink = context.sandbox
        vrf, port = find(netlink, self.vrf), links.find(netlink, self.ifname)
        if vrf is None:
            raise CniError(Code.INTERNAL, f"VRF {self.vrf} is gone from the container")
        if self.table and vrf_table(vrf) != self.table:
            raise CniError(
                Code.INTERNAL, f"VRF {self.vrf} has table {vrf_table(vrf)}, and was made with {self.table}"
            )
        if not vrf.up:
            raise CniError(Code.INTERNAL, f"VRF {self.vrf} is down", f"ip link set {self.vrf} up")
        if port is None or port.master != vrf.index:
            raise CniError(Code.INTERNAL, f"{self.ifname} is not in VRF {self.vrf}")
