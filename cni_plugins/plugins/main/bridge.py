"""bridge: a veth pair between the container and a bridge of the host.

Makes the bridge when it is missing, a veth pair with one end in the container (CNI_IFNAME) and one in the
bridge, and gives the container's end the addresses and routes of the `ipam` plugin; without `ipam` the
attachment is of layer 2 alone. With `isGateway` the bridge gets the gateway's addresses and the host
forwards. A bridge that this plugin made goes with its last port, unless `keepBridge`. When the port forwards,
the addresses are announced to everybody on the bridge (ARP, neighbour advertisement). The port itself has no
IPv6 of its own on the host (`disable_ipv6`): what passes it belongs to the bridge. The container's MAC
address is a random one unless CNI_ARGS `MAC`, `args.cni.mac` or `runtimeConfig.mac` asks for one (the last of
them wins). A `dns` object replaces what `ipam` found.

    {"cniVersion": "1.0.0", "name": "app-net", "type": "bridge", "bridge": "app0",
     "isDefaultGateway": true, "ipMasq": true,
     "ipam": {"type": "host-local", "subnet": "10.50.0.0/16"}}
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cni_plugins.attach import added, delegation, policing, translation, veth, wishes
from cni_plugins.attach.forwarding import forward
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import announce, bridges, interface, links, sysctl
from cni_plugins.kernel.links import Link
from cni_plugins.plugins.main import bridge_vlan
from cni_plugins.plugins.main.bridge_vlan import Trunk
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import BOOL, INTERFACE_NAME, integer, list_of, mtu, nested, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Interface, Result, Route
from cni_plugins.spec.values import IpInterface, interface_of, parse_cidr
from cni_plugins.steps import registry
from cni_plugins.steps.addresses import Addresses
from cni_plugins.steps.bridge import Bridge, BridgePort, Gateway
from cni_plugins.steps.context import Context
from cni_plugins.steps.forwarding import Forwarding
from cni_plugins.steps.masquerade import BACKEND
from cni_plugins.steps.step import Step
from cni_plugins.steps.veth import Veth
from cni_plugins.store.locks import locked

if TYPE_CHECKING:
    from cni_plugins.spec.nptv6 import PrefixPair
    from cni_plugins.steps.spoof import SpoofCheck
    from cni_plugins.steps.vlan import VlanGateway


@dataclass(frozen=True, slots=True)
class BridgeConfig:
    bridge: str = option("bridge", INTERFACE_NAME, "cni0", "the bridge, made when missing")
    is_gateway: bool = option("isGateway", BOOL, False, "the bridge is the gateway; the host forwards")
    is_default_gateway: bool = option(
        "isDefaultGateway", BOOL, False, "isGateway, and the container's default route goes there"
    )
    force_address: bool = option("forceAddress", BOOL, False, "replace conflicting addresses of the bridge")
    several_subnets: bool = option(
        "severalSubnets", BOOL, False, "a bridge with the gateway of another subnet gets this one's as well"
    )
    ip_masq: bool = option("ipMasq", BOOL, False, "hide the container's addresses behind the host's")
    ip_masq_backend: str | None = option(
        "ipMasqBackend", BACKEND, None, "what ipMasq is done with; default nftables"
    )
    nptv6: "tuple[PrefixPair, ...]" = option("nptv6", translation.NPTV6, (), translation.NPTV6_ABOUT)
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
    keep_bridge: bool = option(
        "keepBridge", BOOL, False, "a bridge that this plugin made stays when its last port goes"
    )
    policy: str = option("policy", policing.POLICY, "", policing.POLICY_ABOUT)
    policy_labels: tuple[str, ...] = option("policyLabels", policing.LABELS, (), policing.LABELS_ABOUT)

    @property
    def gateway(self) -> bool:
        return self.is_gateway or self.is_default_gateway

    @property
    def vlans(self) -> bool:
        return bool(self.vlan or self.trunk)


def validate(call: Call, config: BridgeConfig) -> None:
    if config.hairpin and config.promisc:
        raise CniError(
            Code.INVALID_CONFIG,
            "cannot set hairpin mode and promiscuous mode at the same time",
            "hairpinMode and promiscMode are both true: a bridge port has one of them",
        )
    if config.no_interface and delegation.ipam_type(call):
        raise CniError(
            Code.INVALID_CONFIG,
            "cannot use IPAM when DisableContainerInterface flag is set",
            "disableContainerInterface is true and there is an ipam: an interface that is down has no use "
            "for addresses",
        )
    bridge_vlan.validate(config.trunk)
    wishes.validate(call, host_name=config.host_interface)
    translation.validate(call, config.nptv6)
    if config.gateway:
        _gateway_name(config)


def add(call: Call, config: BridgeConfig, tx: Transaction) -> Result:
    interface.require_free(tx.context.inside, call.ifname)
    late = delegation.needs_link(call, tx.context.plugins, mac_from_ip=config.mac_from_ip)
    ipam = Result() if late else delegation.addresses(call, tx)
    mac = wishes.mac(call) or (wishes.mac_of_address(ipam.ips) if config.mac_from_ip else None)
    lock = partial(locked, bridges.lock_path(call.roots.run, config.bridge), call.deadline)
    with lock():
        bridge, pair = _attach(call, config, tx, mac)
        ips, extra = _with_gateways(config, tx, bridge, ipam)
    if late:
        _await_port(tx, pair)
        ipam = delegation.addresses(call, tx)
        with lock():
            ips, extra = _with_gateways(config, tx, bridge, ipam)
    default = added.behind(call, tx.context, _default_routes(config, ips, ipam.routes))
    routes = (*ipam.routes, *default)
    if config.mac_spoof_check:
        tx.apply(_spoof_check(pair.name, pair.peer_mac))
    judged = _judged(call, config, ips, pair.name)
    if judged is not None:
        tx.apply(judged)
    addresses = Addresses(call.ifname, ips, routes, config.dad, up=not config.no_interface, notify=False)
    tx.apply(addresses)
    for step in _translation(call, config, ips):
        tx.apply(step)
    if config.no_interface:
        bridges.address(tx.context.host, bridge)
    else:
        interface.wait_forwarding(tx.context.host, pair.name, call.deadline)
    if ips:
        sysctl.put(tx.context.inside, interface.notify(addresses.plan()))
        call.later.append(announce.prepared(tx.context.inside, call.ifname))
    return Result(
        interfaces=(
            Interface(config.bridge, bridge.mac),
            Interface(pair.name, pair.mac),
            Interface(call.ifname, pair.peer_mac, call.netns_path),
            *extra,
        ),
        ips=tuple(replace(entry, interface=2) for entry in ips),
        routes=routes,
        dns=wishes.dns(call, ipam.dns),
    )


def _with_gateways(
    config: BridgeConfig, tx: Transaction, bridge: Link, ipam: Result
) -> tuple[tuple[Address, ...], tuple[Interface, ...]]:
    """The addresses, each with the gateway that the bridge has by now, and further interfaces for the
    result.
    """
    ips = delegation.with_gateways(ipam.ips) if config.gateway else ipam.ips
    return ips, _give_gateways(config, tx, bridge, ips)


def _await_port(tx: Transaction, pair: Veth) -> None:
    """Bring up the container's end, and wait until the bridge passes what it sends. CniError 11."""
    netlink = tx.context.sandbox
    netlink.request(links.change(pair.ifname, 0, set_flags=links.IFF_UP))
    interface.wait_forwarding(tx.context.host, pair.name, tx.context.deadline)


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


def _attach(call: Call, config: BridgeConfig, tx: Transaction, mac: str | None) -> tuple[Link, Veth]:
    """Make the bridge if need be, and the veth pair with one end in it."""
    made = _bridge(config, links.random_mac())
    tx.intend(made)
    if config.vlan and config.gateway:  # before the port, which has to be gone when this is undone
        tx.intend(_vlan_gateway(config))
    bridge = made.make(tx.context)
    if config.vlans:
        bridge_vlan.require_filtering(bridge)
    pair = veth.create(
        tx,
        partial(
            Veth,
            mac=links.random_mac(),
            ifname=call.ifname,
            peer_mac=mac or links.random_mac(),
            mtu=config.mtu or bridge.mtu,
            bridge=config.bridge,
        ),
        bridge.index,
        wishes.host_interface(call, config.host_interface),
    )
    port = _port(config, pair.name, pair.mac)
    tx.intend(port)
    port.make(tx.context, bridge)
    if bridge.alias != bridges.ALIAS:  # an address that is not set follows the ports'
        bridge = bridges.find(tx.context.host, config.bridge) or bridge
    return bridge, pair


def _judged(call: Call, config: BridgeConfig, ips: Sequence[Address], port: str) -> Step | None:
    return policing.step(
        call,
        config.policy,
        config.policy_labels,
        ips,
        link=_gateway_name(config) if config.gateway else config.bridge,
        port=port,
        bridged=True,
    )


def _spoof_check(port: str, mac: str) -> "SpoofCheck":
    from cni_plugins.steps.spoof import SpoofCheck

    return SpoofCheck(port, mac)


def _vlan_gateway(config: BridgeConfig) -> "VlanGateway":
    from cni_plugins.steps.vlan import VlanGateway

    return VlanGateway(config.bridge, config.vlan)


def _gateway_name(config: BridgeConfig) -> str:
    """The interface that has the gateway's addresses. CniError 7 when its name does not fit."""
    if not config.vlan:
        return config.bridge
    from cni_plugins.steps.vlan import gateway_name

    return gateway_name(config.bridge, config.vlan)


def _bridge(config: BridgeConfig, mac: str) -> Bridge:
    return Bridge(
        config.bridge,
        mac,
        config.mtu,
        config.promisc,
        config.vlans,
        pinned=config.gateway,
        stays=config.keep_bridge,
    )


def _port(config: BridgeConfig, name: str, mac: str) -> BridgePort:
    return BridgePort(
        name,
        mac,
        config.bridge,
        hairpin=config.hairpin,
        isolated=config.isolated,
        filtered=config.vlans,
        vid=config.vlan,
        trunks=bridge_vlan.ranges(config.trunk),
        keep=config.preserve_default_vlan,
    )


def _translation(call: Call, config: BridgeConfig, ips: Sequence[Address]) -> list[Step]:
    return translation.steps(
        call, ips, ip_masq=config.ip_masq, backend=config.ip_masq_backend, pairs=config.nptv6
    )


def _give_gateways(
    config: BridgeConfig, tx: Transaction, bridge: Link, ips: Sequence[Address]
) -> tuple[Interface, ...]:
    """Give the bridge (or the interface of its VLAN) the gateways' addresses; further interfaces for the
    result.
    """
    gateways = _gateway_addresses(config, ips)
    if not gateways:
        return ()
    target = bridge
    extra: tuple[Interface, ...] = ()
    if config.vlan:
        target = _vlan_gateway(config).make(tx.context, bridge, config.mtu or bridge.mtu)
        extra = (Interface(target.name, target.mac),)
    gateway, forwarding = _gateway(config, gateways)
    tx.intend(gateway)
    gateway.make(tx.context, target)
    forward(tx, forwarding)
    return extra


def _gateway(config: BridgeConfig, gateways: Sequence[IpInterface]) -> tuple[Gateway, Forwarding]:
    name = _gateway_name(config)
    return (
        Gateway(name, tuple(gateways), config.force_address, config.dad, config.several_subnets),
        Forwarding(tuple(sorted({item.version for item in gateways}))),
    )


def _gateway_addresses(config: BridgeConfig, ips: Sequence[Address]) -> list[IpInterface]:
    if not config.gateway:
        return []
    return [
        interface_of(entry.gateway.packed, entry.address.network.prefixlen)
        for entry in ips
        if entry.gateway is not None
    ]


def steps(call: Call, config: BridgeConfig, context: Context, result: Result) -> list[Step]:
    """The steps behind a result; the host's end is the first interface of it that is not the bridge."""
    port, inside = result.host_interface(config.bridge), result.container_interface(call.ifname)
    mac = port.mac.lower()
    ips = result.ips_of(call.ifname)
    pair = Veth(port.name, mac, call.ifname, inside.mac, config.mtu, config.bridge)
    listed: list[Step] = [_bridge(config, ""), pair, _port(config, port.name, mac)]
    if config.mac_spoof_check:
        listed.append(_spoof_check(port.name, inside.mac.lower()))
    judged = _judged(call, config, ips, port.name)
    if judged is not None:
        listed.append(judged)
    listed.append(Addresses(call.ifname, ips, result.routes, config.dad, up=not config.no_interface))
    gateways = _gateway_addresses(config, ips)
    if gateways:
        listed += _gateway(config, gateways)
    return listed + _translation(call, config, ips)


def remove_legacy(call: Call, config: BridgeConfig, context: Context) -> None:
    """Delete CNI_IFNAME if it is a veth whose other end is in this network's bridge, or in none, and nobody's
    here.
    """
    if context.sandbox_namespace is None:
        return
    link = links.find(context.sandbox, call.ifname)
    if link is None or link.kind != "veth":
        return
    peer = links.other_end(context.host, context.sandbox, link)
    if peer is None or context.interface_is_recorded():
        return
    if peer.master:
        master = links.find_index(context.host, peer.master)
        if master is not None and master.name != config.bridge:
            return
    links.remove(context.host, peer.name, peer.index)


def status(call: Call, config: BridgeConfig, context: Context) -> None:
    bridges.find(context.host, config.bridge)
    policing.require_between_ports(call, config.policy)


PLUGIN: Plugin[Any] = Plugin(
    name="bridge",
    kind=Kind.MAIN,
    about="a veth pair between a container and a bridge of the host",
    config=BridgeConfig,
    add=add,
    kinds=(
        registry.Kind.MASQUERADE,
        registry.Kind.NPTV6,
        registry.Kind.SPOOF_CHECK,
        registry.Kind.POLICY_ENDPOINT,
    ),
    steps=steps,
    remove_legacy=remove_legacy,
    status=status,
    validate=validate,
    args=True,
)
