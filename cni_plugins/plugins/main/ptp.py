"""ptp: a veth pair between the container and the host, routed, with no bridge.

The container reaches its own subnet and everything else by the gateway, which is the host's end of the pair;
the host has a route to each address of the container and forwards. No packet of one container passes another,
and nothing is flooded. The subnet's own route stands in the container as `GATEWAY dev` and `SUBNET via
GATEWAY`. Without `ipam` both ends are up and have no address.

    {"name": "edge", "type": "ptp", "ipMasq": true,
     "ipam": {"type": "host-local", "subnet": "10.60.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from typing import Any

from cni_plugins.attach import delegation, masquerade
from cni_plugins.attach.context import Context
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import addresses, interface, links, routes, sysctl, verify
from cni_plugins.kernel.interface import Plan
from cni_plugins.kernel.netlink.route import Message
from cni_plugins.plugins.main import legacy, veth
from cni_plugins.plugins.main.requests import (
    configured_dns,
    mac_of_address,
    requested_host_interface,
    requested_mac,
)
from cni_plugins.spec.call import Call, Verb
from cni_plugins.spec.config import BOOL, INTERFACE_NAME, mtu, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Dns, Interface, Result, Route
from cni_plugins.spec.values import Ip, IpInterface, first_host


@dataclass(frozen=True, slots=True)
class PtpConfig:
    ip_masq: bool = option("ipMasq", BOOL, False, "hide the container's addresses behind the host's")
    ip_masq_backend: str | None = option(
        "ipMasqBackend", masquerade.BACKEND, None, "what ipMasq is done with; default nftables"
    )
    mtu: int = option("mtu", mtu(65535), 0, "MTU of the pair; 0 takes the kernel's, 1500")
    dad: bool = option("enabledad", BOOL, False, "detect duplicate IPv6 addresses, which takes 2 s")
    host_interface: str = option(
        "hostInterface",
        INTERFACE_NAME,
        "",
        "name of the host's end (`args.cni` and `runtimeConfig` may give it too); default a random one",
    )
    mac_from_ip: bool = option("macFromIP", BOOL, False, "make the MAC address of the first IP address")


def _whole(ip: Ip) -> IpInterface:
    return ip_interface(f"{ip}/{ip.max_prefixlen}")


def _with_gateways(ips: Sequence[Address]) -> tuple[Address, ...]:
    """Each address with the gateway that it has anyhow: the IPAM plugin's, else its subnet's first host."""
    return tuple(
        entry if entry.gateway is not None else replace(entry, gateway=first_host(entry.address))
        for entry in ips
    )


def _inner_routes(ips: Sequence[Address]) -> list[tuple[Route, Ip]]:
    """The routes that stand for each subnet in the container, with their source address."""
    listed: list[tuple[Route, Ip]] = []
    for entry in ips:
        assert entry.gateway is not None
        source, network = entry.address.ip, entry.address.network
        scope = routes.SCOPE_LINK if source.version == 4 else None
        listed.append((Route(_whole(entry.gateway), scope=scope), source))
        if network.num_addresses > 1:
            listed.append((Route(ip_interface(str(network)), entry.gateway), source))
    return listed


def validate(call: Call, config: PtpConfig) -> None:
    requested_mac(call)
    requested_host_interface(call, config.host_interface)
    configured_dns(call, Dns())


def add(call: Call, config: PtpConfig, tx: Transaction) -> Result:
    interface.require_free(tx.context.inside, call.ifname)
    ipam = delegation.ipam_add(call, tx) if delegation.ipam_type(call) else Result()
    ips = _with_gateways(ipam.ips)
    wished = requested_mac(call) or (mac_of_address(ips) if config.mac_from_ip else None)
    mac, host_mac = wished or links.random_mac(), links.random_mac()
    host_name = requested_host_interface(call, config.host_interface)
    name = veth.create(tx, mtu=config.mtu, mac=host_mac, peer_mac=mac, host_name=host_name)
    _set_up_host(call, tx, name, ips)
    _set_up_container(call, config, tx, ips, ipam.routes)
    if config.ip_masq and ips:
        masquerade.add(tx, [entry.address for entry in ips], config.ip_masq_backend)
    return Result(
        interfaces=(Interface(name, host_mac), Interface(call.ifname, mac, call.netns_path)),
        ips=tuple(replace(entry, interface=1) for entry in ips),
        routes=ipam.routes,
        dns=configured_dns(call, ipam.dns),
    )


def _set_up_host(call: Call, tx: Transaction, name: str, ips: Sequence[Address]) -> None:
    wanted = {f"ipv6/conf/{name}/accept_ra": "0"}
    sysctl.ensure(call.host, wanted, optional=True)
    forward = {"ipv4/ip_forward": "1"} if any(entry.address.version == 4 for entry in ips) else {}
    if any(entry.address.version == 6 for entry in ips):
        forward["ipv6/conf/all/forwarding"] = "1"
    sysctl.ensure(call.host, forward)
    index = interface.index_of(call.host, name)
    batch: list[Message] = []
    for entry in ips:
        assert entry.gateway is not None
        batch.append(addresses.add(index, _whole(entry.gateway), dad=False))
        scope = routes.SCOPE_HOST if entry.address.version == 4 else None
        batch.append(routes.add(Route(_whole(entry.address.ip), scope=scope), index))
    if batch:
        tx.context.host.request(*batch)


def _set_up_container(
    call: Call, config: PtpConfig, tx: Transaction, ips: Sequence[Address], more: Sequence[Route]
) -> None:
    netlink = tx.context.sandbox
    plan = Plan(call.ifname, ips, more, dad=config.dad)
    index = interface.prepare(tx.context.inside, plan)
    first: list[Message] = [
        addresses.add(index, entry.address, dad=config.dad, prefix_route=False) for entry in ips
    ]
    first.append(links.change(call.ifname, index, set_flags=links.IFF_UP))
    late = [routes.add(route, index, source) for route, source in _inner_routes(ips)]
    late += [routes.add(route, index) for route in interface.resolved(plan)]
    waits = config.dad and plan.has(6)
    netlink.request(*first, *(() if waits else late))
    if waits:
        interface.wait_for_dad(netlink, call.ifname, index, call.deadline)
        netlink.request(*late)


def check(call: Call, config: PtpConfig, context: Context) -> None:
    delegation.ipam_forward(Verb.CHECK, call, context)
    result = call.previous or Result()
    link = verify.link(context.sandbox, call.ifname, "veth", result)
    peer = links.find_index(context.host, link.peer)
    if peer is None or peer.kind != "veth":
        raise CniError(Code.INTERNAL, f"the host's end of {call.ifname} is gone")
    ips = _with_gateways([entry for entry in result.ips if entry.interface in {None, _index(result, call)}])
    verify.ips(context.sandbox, link, result)
    verify.route_list(context.sandbox, [*(route for route, _ in _inner_routes(ips)), *result.routes])
    verify.route_list(context.host, [Route(_whole(entry.address.ip)) for entry in ips])
    if config.ip_masq and ips:
        masquerade.check(call, [entry.address for entry in ips], config.ip_masq_backend)


def _index(result: Result, call: Call) -> int:
    for number, item in enumerate(result.interfaces):
        if item.name == call.ifname and item.sandbox:
            return number
    return -1


def remove_legacy(call: Call, config: PtpConfig, context: Context) -> None:
    """Remove what the reference plugin made: its veth pair, its reservation, its rules."""
    legacy.each(
        lambda: delegation.ipam_forward(Verb.DEL, call, context),
        lambda: legacy.delete_link(call, context, "veth"),
        lambda: masquerade.remove_legacy(call),
    )


def gc(call: Call, config: PtpConfig, context: Context) -> None:
    legacy.each(
        lambda: delegation.ipam_forward(Verb.GC, call, context),
        lambda: masquerade.collect(call),
    )


def status(call: Call, config: PtpConfig, context: Context) -> None:
    delegation.ipam_forward(Verb.STATUS, call, context)


PLUGIN: Plugin[Any] = Plugin(
    name="ptp",
    kind=Kind.MAIN,
    about="a routed veth pair between a container and the host",
    config=PtpConfig,
    add=add,
    validate=validate,
    check=check,
    remove_legacy=remove_legacy,
    gc=gc,
    status=status,
)
