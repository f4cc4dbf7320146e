"""Plugins whose interface is a link of the container's on a link of the host: macvlan, ipvlan, VLANs, or on
none: dummy.

The plugin says what its kind of link needs (`Child`); its master, MTU, MAC address, addresses and result are
the same for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cni_plugins.attach import delegation, wishes
from cni_plugins.attach.policing import Judged, judged
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import interface, links, routes
from cni_plugins.kernel.links import Link
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import quoted
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Interface, Result
from cni_plugins.steps.addresses import Addresses
from cni_plugins.steps.child_link import Attribute, ChildLink
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step


@dataclass(frozen=True, slots=True)
class Child:
    """What is asked for. `master` None is the link of the default route, "" none at all; `mtu` 0 is the
    master's; `own_mac`: whether the link has a MAC address of its own, else it has its master's. `routed`:
    the master's namespace routes, so that a gateway outside of the subnet needs no address and no reaching.
    `given` are addresses that a plugin before in the list found, for want of an `ipam`. `judged`: what the
    configuration says of policy, None for a kind of link that has none.
    """

    kind: str
    attributes: tuple[Attribute, ...] = ()
    master: str | None = None
    in_container: bool = False
    mtu: int = 0
    mac: str | None = None
    mac_from_ip: bool = False
    own_mac: bool = True
    dad: bool = False
    routed: bool = False
    given: Result | None = None
    judged: Judged | None = None


def add(call: Call, child: Child, tx: Transaction) -> Result:
    """ADD of such a plugin: the link, its addresses, and the result. CniError."""
    interface.require_free(tx.context.inside, call.ifname)
    master = find_master(child, tx.context)
    late = child.given is None and delegation.needs_link(
        call, tx.context.plugins, mac_from_ip=child.mac_from_ip
    )
    ipam = child.given or (Result() if late else delegation.addresses(call, tx))
    mac = wishes.mac(call, child.mac) or (wishes.mac_of_address(ipam.ips) if child.mac_from_ip else None)
    if child.own_mac:
        mac = mac or links.random_mac()
    policy = judged(call, child.judged, ipam.ips)
    if policy is not None:
        tx.apply(policy)
    step = _link(call, child, master, mac or "")
    tx.apply(step)
    if late:
        ipam = delegation.addresses(call, tx)
        known = judged(call, child.judged, ipam.ips)
        if policy is not None and known is not None:
            tx.renew(policy, known)
    made = mac or (links.find(tx.context.sandbox, call.ifname) or master or _gone(call)).mac
    tx.apply(_addresses(call, child, ipam))
    return Result(
        interfaces=(Interface(call.ifname, made, call.netns_path),),
        ips=tuple(replace(entry, interface=0) for entry in ipam.ips),
        routes=ipam.routes,
        dns=wishes.dns(call, ipam.dns),
    )


def _addresses(call: Call, child: Child, found: Result) -> Addresses:
    ips = tuple(
        replace(entry, gateway=None)
        if child.routed and entry.gateway is not None and entry.gateway not in entry.address.network
        else entry
        for entry in found.ips
    )
    return Addresses(call.ifname, ips, found.routes, dad=child.dad)


def _gone(call: Call) -> Link:
    raise CniError(Code.INTERNAL, f"{call.ifname} vanished as soon as it was made")


def _link(call: Call, child: Child, master: Link | None, mac: str) -> ChildLink:
    return ChildLink(
        kind=child.kind,
        ifname=call.ifname,
        temporary=links.random_name(),
        mac=mac,
        master=master.name if master is not None else "",
        master_index=master.index if master is not None else 0,
        in_container=child.in_container,
        mtu=child.mtu or (master.mtu if master is not None else 0),
        attributes=child.attributes,
        master_up=master is None or master.up,
    )


def steps(call: Call, child: Child, context: Context, result: Result) -> Sequence[Step]:
    """The steps behind a result, for a CHECK without a record. A master that is not named is the one that the
    link has: the default route may have moved since.
    """
    inside = result.container_interface(call.ifname)
    if child.master is None:
        link = links.find(context.sandbox, call.ifname)
        netlink = context.sandbox if child.in_container else context.host
        master = links.find_index(netlink, link.peer) if link is not None and link.peer else None
    else:
        master = find_master(child, context)
    made = replace(_link(call, child, master, inside.mac), mtu=child.mtu, master_up=True)
    ips = result.ips_of(call.ifname)
    policy = judged(call, child.judged, ips)
    first = [] if policy is None else [policy]
    return [*first, made, _addresses(call, child, replace(result, ips=ips))]


def find_master(child: Child, context: Context) -> Link | None:
    """The link that `child` stands on. CniError 7 when there is none, or its MTU is too small."""
    if child.master == "":
        return None
    netlink = context.sandbox if child.in_container else context.host
    name = child.master or _default_master(netlink)
    link = links.find(netlink, name)
    if link is None:
        where = "the container" if child.in_container else "the host"
        raise CniError(
            Code.INVALID_CONFIG,
            f"failed to lookup master {quoted(name)}: Link not found",
            f"master is {name!r}, and {where} has no such link",
        )
    if link.flags & links.IFF_LOOPBACK:
        raise CniError(
            Code.INVALID_CONFIG,
            f"master is {name!r}, which is the loopback interface: no link can stand on it",
        )
    if child.mtu > link.mtu:
        raise CniError(
            Code.INVALID_CONFIG,
            f"invalid MTU {child.mtu}, must be [0, master MTU({link.mtu})]",
            f"the master is {name}: give mtu at most {link.mtu}, or raise the master's",
        )
    return link


def _default_master(netlink: Netlink) -> str:
    """The link of the default route with the lowest metric, IPv4 before IPv6. CniError 7 without one."""
    for version in (4, 6):
        index = routes.default_link(netlink, version)
        link = links.find_index(netlink, index) if index else None
        if link is not None:
            return link.name
    raise CniError(
        Code.INVALID_CONFIG,
        "no default route interface found",
        f"master is not given, and {netlink.namespace.path} has no default route to take it from; name the "
        'link: "master": "eth0"',
    )
