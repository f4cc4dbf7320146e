"""bridge: a veth pair between the container and a bridge of the host.

Makes the bridge when it is missing, a veth pair with one end in the container (CNI_IFNAME) and one in the
bridge, and gives the container's end the addresses and routes of the `ipam` plugin; without `ipam` the
attachment is of layer 2 alone. With `isGateway` the bridge gets the gateway's addresses and the host
forwards. A bridge that this plugin made goes with its last port. When the port forwards, the addresses are
announced to everybody on the bridge (ARP, neighbour advertisement). The port itself has no IPv6 of its own on
the host (`disable_ipv6`): what passes it belongs to the bridge. The container's MAC address is a random
one unless CNI_ARGS `MAC`, `args.cni.mac` or `runtimeConfig.mac` asks for one (the last of them wins). A `dns`
object replaces what `ipam` found.

    {"name": "app-net", "type": "bridge", "bridge": "app0", "isDefaultGateway": true, "ipMasq": true,
     "ipam": {"type": "host-local", "subnet": "10.50.0.0/16"}}
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from cni_plugins.attach import delegation, masquerade, spoof
from cni_plugins.attach.context import Context
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import announce, bridges, interface, links, sysctl, verify
from cni_plugins.kernel.links import Link
from cni_plugins.plugins.main import bridge_vlan, legacy, veth
from cni_plugins.plugins.main.bridge_vlan import Trunk
from cni_plugins.plugins.main.requests import (
    configured_dns,
    mac_of_address,
    requested_host_interface,
    requested_mac,
)
from cni_plugins.spec.call import Call, Verb
from cni_plugins.spec.config import BOOL, INTERFACE_NAME, integer, list_of, mtu, nested, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Dns, Interface, Result, Route
from cni_plugins.spec.values import IpInterface, first_host, parse_cidr
from cni_plugins.store.locks import locked


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    bridge: str = option("bridge", INTERFACE_NAME, "cni0", "the bridge, made when missing")
    is_gateway: bool = option("isGateway", BOOL, False, "the bridge is the gateway; the host forwards")
    is_default_gateway: bool = option(
        "isDefaultGateway", BOOL, False, "isGateway, and the container's default route goes there"
    )
    force_address: bool = option("forceAddress", BOOL, False, "replace conflicting addresses of the bridge")
    ip_masq: bool = option("ipMasq", BOOL, False, "hide the container's addresses behind the host's")
    ip_masq_backend: str | None = option(
        "ipMasqBackend", masquerade.BACKEND, None, "what ipMasq is done with; default nftables"
    )
    mtu: int = option("mtu", mtu(65535), 0, "MTU of the veth pair and a new bridge; 0 takes the bridge's")
    hairpin: bool = option("hairpinMode", BOOL, False, "the container may reach itself through the bridge")
    promisc: bool = option("promiscMode", BOOL, False, "the bridge is promiscuous; not with hairpinMode")
    vlan: int = option("vlan", integer(0, 4094), 0, "VLAN of the container's untagged frames")
    trunk: tuple[Trunk, ...] = option(
        "vlanTrunk", list_of(nested(Trunk)), (), "VLANs of its tagged frames: `{id}` or `{minID, maxID}`"
    )
    preserve_default_vlan: bool = option(
        "preserveDefaultVlan",
        BOOL,
        False,
        "with vlan or vlanTrunk, keep the port in the bridge's default VLAN too",
    )
    mac_spoof_check: bool = option(
        "macspoofchk", BOOL, False, "drop frames from another MAC address than its own"
    )
    dad: bool = option("enabledad", BOOL, False, "detect duplicate IPv6 addresses, which takes 2 s")
    no_interface: bool = option(
        "disableContainerInterface", BOOL, False, "leave the container's end down; not with ipam"
    )
    isolated: bool = option(
        "portIsolation", BOOL, False, "isolated ports of the bridge do not reach each other"
    )

    host_interface: str = option(
        "hostInterface",
        INTERFACE_NAME,
        "",
        "name of the host's end (`args.cni` and `runtimeConfig` may give it too); default a random one",
    )
    mac_from_ip: bool = option("macFromIP", BOOL, False, "make the MAC address of the first IP address")

    @property
    def gateway(self) -> bool:
        return self.is_gateway or self.is_default_gateway

    @property
    def vlans(self) -> bool:
        return bool(self.vlan or self.trunk)


@dataclass(frozen=True, slots=True)
class Port:
    """What was made at the bridge."""

    bridge: Link
    name: str
    mac: str
    peer_mac: str


def validate(call: Call, config: BridgeConfig) -> None:
    if config.hairpin and config.promisc:
        raise CniError(
            Code.INVALID_CONFIG, "hairpinMode and promiscMode are both true: a bridge port has one of them"
        )
    if config.no_interface and delegation.ipam_type(call):
        raise CniError(
            Code.INVALID_CONFIG,
            "disableContainerInterface is true and there is an ipam",
            "an interface that is down has no use for addresses",
        )
    bridge_vlan.validate(config.trunk)
    requested_mac(call)
    requested_host_interface(call, config.host_interface)
    configured_dns(call, Dns())
    if config.vlan and config.gateway:
        bridge_vlan.gateway_name(config.bridge, config.vlan)


def add(call: Call, config: BridgeConfig, tx: Transaction) -> Result:
    interface.require_free(tx.context.inside, call.ifname)
    ipam = delegation.ipam_add(call, tx) if delegation.ipam_type(call) else Result()
    ips = _with_gateways(config, ipam.ips)
    mac = requested_mac(call) or (mac_of_address(ips) if config.mac_from_ip else None)
    routes = (*ipam.routes, *_default_routes(config, ips, ipam.routes))
    with locked(bridges.lock_path(call.roots.run, config.bridge), call.deadline):
        port = _attach(call, config, tx, mac)
        extra = _gateways(config, tx, port, ips)
    if config.mac_spoof_check:
        spoof.add(tx, port.name, port.peer_mac)
    plan = interface.Plan(call.ifname, ips, routes, dad=config.dad, up=not config.no_interface, notify=False)
    interface.configure(tx.context.sandbox, plan, call.deadline)
    if config.ip_masq and ips:
        masquerade.add(tx, [entry.address for entry in ips], config.ip_masq_backend)
    if not config.no_interface:
        interface.wait_forwarding(tx.context.host, port.name, call.deadline)
    if ips:
        sysctl.put(tx.context.inside, interface.notify(plan))
        call.later.append(announce.prepared(tx.context.inside, call.ifname, call.deadline))
    return Result(
        interfaces=(
            Interface(config.bridge, port.bridge.mac),
            Interface(port.name, port.mac),
            Interface(call.ifname, port.peer_mac, call.netns_path),
            *extra,
        ),
        ips=tuple(replace(entry, interface=2) for entry in ips),
        routes=routes,
        dns=configured_dns(call, ipam.dns),
    )


def _with_gateways(config: BridgeConfig, ips: Sequence[Address]) -> tuple[Address, ...]:
    """The addresses, each with a gateway if the bridge is one: the IPAM plugin's, else the subnet's first
    host.
    """
    if not config.gateway:
        return tuple(ips)
    return tuple(
        entry if entry.gateway is not None else replace(entry, gateway=first_host(entry.address))
        for entry in ips
    )


def _default_routes(config: BridgeConfig, ips: Sequence[Address], routes: Sequence[Route]) -> list[Route]:
    """isDefaultGateway's routes: one for each family that has no default route with a gateway yet."""
    if not config.is_default_gateway:
        return []
    made: dict[int, Route] = {}
    for entry in ips:
        version = entry.address.version
        everywhere = parse_cidr("0.0.0.0/0" if version == 4 else "::/0")
        if not any(route.dst == everywhere and route.gw is not None for route in routes):
            made.setdefault(version, Route(everywhere, entry.gateway))
    return list(made.values())


def _attach(call: Call, config: BridgeConfig, tx: Transaction, mac: str | None) -> Port:
    """Make the bridge if need be, and the veth pair with one end in it."""
    netlink = tx.context.host
    chosen = links.random_mac()
    tx.intend("bridge.release", name=config.bridge, mac=chosen)
    if config.vlan and config.gateway:  # before the port, which has to be gone when this is replayed
        tx.intend("vlan.release", bridge=config.bridge, vid=config.vlan)
    bridge = bridges.find(netlink, config.bridge)
    if bridge is None:
        bridges.create(
            netlink,
            config.bridge,
            chosen,
            mtu=config.mtu,
            promisc=config.promisc,
            vlan_filtering=config.vlans,
        )
        bridge = bridges.find(netlink, config.bridge)
    if bridge is None:
        raise CniError(Code.INTERNAL, f"bridge {config.bridge} vanished as soon as it was made")
    wanted = links.IFF_UP | (links.IFF_PROMISC if config.promisc else 0)
    ours = bridge.alias == bridges.ALIAS
    if wanted & ~bridge.flags:
        netlink.request(links.change(bridge.name, bridge.index, set_flags=wanted))
    if config.gateway and not ours:  # a MAC address that is set does not follow the ports' any more
        netlink.request(links.change(bridge.name, bridge.index, address=bridge.mac))
    if config.vlans:
        bridge_vlan.require_filtering(bridge)
    peer_mac = mac or links.random_mac()
    host_mac = links.random_mac()
    mtu = config.mtu or bridge.mtu
    wished = requested_host_interface(call, config.host_interface)
    name = veth.create(tx, mtu=mtu, mac=host_mac, peer_mac=peer_mac, master=bridge.index, host_name=wished)
    # What passes a port belongs to the bridge. An IPv6 stack of its own would give every port three routes of
    # the host, and the kernel walks all of them whenever any port goes.
    sysctl.put(call.host, {f"ipv6/conf/{name}/disable_ipv6": "1"})
    sysctl.ensure(call.host, {f"ipv6/conf/{bridge.name}/accept_ra": "0"}, optional=True)
    if config.hairpin or config.isolated or config.vlans:
        index = interface.index_of(call.host, name)
        if config.hairpin or config.isolated:
            netlink.request(links.change_port(name, index, hairpin=config.hairpin, isolated=config.isolated))
        if config.vlans:
            keep = config.preserve_default_vlan
            netlink.request(
                *bridge_vlan.membership(bridge, name, index, config.vlan, config.trunk, keep=keep)
            )
    if not ours:
        bridge = bridges.find(netlink, config.bridge) or bridge
    return Port(bridge, name, host_mac, peer_mac)


def _gateways(
    config: BridgeConfig, tx: Transaction, port: Port, ips: Sequence[Address]
) -> tuple[Interface, ...]:
    """Give the bridge (or the interface of its VLAN) the gateways' addresses; further interfaces for the
    result.
    """
    gateways = _gateway_addresses(config, ips)
    if not gateways:
        return ()
    target = port.bridge
    extra: tuple[Interface, ...] = ()
    if config.vlan:
        target = bridge_vlan.gateway_link(tx.context, port.bridge, config.vlan, config.mtu or port.bridge.mtu)
        extra = (Interface(target.name, target.mac),)
    bridges.give_addresses(tx.context.host, target, gateways, force=config.force_address, dad=config.dad)
    forward = {"ipv4/ip_forward": "1"} if any(item.version == 4 for item in gateways) else {}
    if any(item.version == 6 for item in gateways):
        forward["ipv6/conf/all/forwarding"] = "1"
    sysctl.ensure(tx.context.call.host, forward)
    return extra


def _gateway_addresses(config: BridgeConfig, ips: Sequence[Address]) -> list[IpInterface]:
    if not config.gateway:
        return []
    return [
        ip_interface(f"{entry.gateway}/{entry.address.network.prefixlen}")
        for entry in ips
        if entry.gateway is not None
    ]


def check(call: Call, config: BridgeConfig, context: Context) -> None:
    delegation.ipam_forward(Verb.CHECK, call, context)
    result = call.previous or Result()
    bridge = bridges.find(context.host, config.bridge)
    if bridge is None:
        raise CniError(Code.INTERNAL, f"bridge {config.bridge} is gone")
    entry = next(
        (item for item in result.interfaces if item.name == config.bridge and not item.sandbox), None
    )
    if entry is not None and bridge.alias == bridges.ALIAS and entry.mac.lower() not in {"", bridge.mac}:
        raise CniError(
            Code.INTERNAL,
            f"{config.bridge} has MAC address {bridge.mac}, prevResult says {entry.mac}: it was made anew",
        )
    if config.promisc and not bridge.flags & links.IFF_PROMISC:
        raise CniError(Code.INTERNAL, f"bridge {config.bridge} is not promiscuous")
    link = verify.link(context.sandbox, call.ifname, "veth", result)
    port = links.find_index(context.host, link.peer)
    if port is None or port.kind != "veth" or port.master != bridge.index:
        raise CniError(Code.INTERNAL, f"the other end of {call.ifname} is no port of bridge {config.bridge}")
    _check_port(call, config, context, port, link)
    _check_addresses(call, config, context, bridge, link)


def _check_port(call: Call, config: BridgeConfig, context: Context, port: Link, link: Link) -> None:
    if config.hairpin and not port.hairpin:
        raise CniError(Code.INTERNAL, f"bridge port {port.name} is not in hairpin mode")
    if config.isolated and not port.isolated:
        raise CniError(Code.INTERNAL, f"bridge port {port.name} is not isolated")
    if config.vlans:
        bridge_vlan.check(context, port, config.vlan, config.trunk)
    if config.mac_spoof_check:
        spoof.check(call, port.name, link.mac)


def _check_addresses(call: Call, config: BridgeConfig, context: Context, bridge: Link, link: Link) -> None:
    result = call.previous or Result()
    verify.ips(context.sandbox, link, result)
    verify.route_list(context.sandbox, result.routes)
    gateways = _gateway_addresses(config, result.ips)
    if gateways:
        name = bridge_vlan.gateway_name(config.bridge, config.vlan) if config.vlan else config.bridge
        target = links.find(context.host, name) if config.vlan else bridge
        if target is None:
            raise CniError(Code.INTERNAL, f"the gateway's interface {name} is gone")
        verify.has_addresses(context.host, target, gateways)
    if config.ip_masq and result.ips:
        masquerade.check(call, [entry.address for entry in result.ips], config.ip_masq_backend)


def remove_legacy(call: Call, config: BridgeConfig, context: Context) -> None:
    """Remove what the reference plugin made: its veth pair, its reservation, its rules."""
    legacy.each(
        lambda: _adopt_link(call, config, context),
        lambda: delegation.ipam_forward(Verb.DEL, call, context),
        lambda: masquerade.remove_legacy(call),
        lambda: spoof.remove_legacy(call),
    )


def _adopt_link(call: Call, config: BridgeConfig, context: Context) -> None:
    """Delete CNI_IFNAME if it is a veth whose other end is in this network's bridge, or in none, and nobody's
    here.
    """
    if context.sandbox_namespace is None:
        return
    link = links.find(context.sandbox, call.ifname)
    if link is None or link.kind != "veth":
        return
    peer = links.find_index(context.host, link.peer)
    if peer is None or peer.kind != "veth" or legacy.is_ours(call):
        return
    if peer.master:
        master = links.find_index(context.host, peer.master)
        if master is not None and master.name != config.bridge:
            return
    links.remove(context.host, peer.name)


def gc(call: Call, config: BridgeConfig, context: Context) -> None:
    legacy.each(
        lambda: masquerade.collect(call),
        lambda: spoof.collect(call),
        lambda: delegation.ipam_forward(Verb.GC, call, context),
    )


def status(call: Call, config: BridgeConfig, context: Context) -> None:
    bridges.find(context.host, config.bridge)
    delegation.ipam_forward(Verb.STATUS, call, context)


PLUGIN = Plugin(
    name="bridge",
    kind=Kind.MAIN,
    about="a veth pair between a container and a bridge of the host",
    config=BridgeConfig,
    add=add,
    check=check,
    remove_legacy=remove_legacy,
    gc=gc,
    status=status,
    validate=validate,
    args=True,
)
