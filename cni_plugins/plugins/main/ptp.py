"""ptp: a veth pair between the container and the host, routed, with no bridge.

The container reaches its own subnet and everything else by the gateway, which is the host's end of the pair;
the host has a route to each address of the container and forwards. No packet of one container passes another,
and nothing is flooded. The subnet's own route stands in the container as `GATEWAY dev` and `SUBNET via
GATEWAY`. Without `ipam` both ends are up and have no address.

    {"cniVersion": "1.0.0", "name": "edge", "type": "ptp", "ipMasq": true,
     "ipam": {"type": "host-local", "subnet": "10.60.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}}
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cni_plugins.attach import delegation, policing, translation, veth, wishes
from cni_plugins.attach.forwarding import forward
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import addresses, interface, links, sysctl
from cni_plugins.plugins.main import legacy
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import BOOL, INTERFACE_NAME, mtu, option
from cni_plugins.spec.result import Interface, Result
from cni_plugins.steps import registry
from cni_plugins.steps.addresses import Addresses
from cni_plugins.steps.context import Context
from cni_plugins.steps.forwarding import Forwarding
from cni_plugins.steps.host_routes import HostRoutes
from cni_plugins.steps.masquerade import BACKEND
from cni_plugins.steps.step import Step
from cni_plugins.steps.veth import Veth

if TYPE_CHECKING:
    from cni_plugins.spec.nptv6 import PrefixPair

_MTU = 1500  # the kernel's for a veth


@dataclass(frozen=True, slots=True)
class PtpConfig:
    ip_masq: bool = option("ipMasq", BOOL, False, "hide the container's addresses behind the host's")
    ip_masq_backend: str | None = option(
        "ipMasqBackend", BACKEND, None, "what ipMasq is done with; default nftables"
    )
    nptv6: "tuple[PrefixPair, ...]" = option("nptv6", translation.NPTV6, (), translation.NPTV6_ABOUT)
    mtu: int = option("mtu", mtu(65535), 0, "MTU of the pair; 0 takes the kernel's, 1500")
    dad: bool = option("enabledad", BOOL, False, "detect duplicate IPv6 addresses, which takes 2 s")
    host_interface: str = option(
        "hostInterface",
        INTERFACE_NAME,
        "",
        "name of the host's end (`args.cni` and `runtimeConfig` may give it too); default a random one",
    )
    mac_from_ip: bool = option("macFromIP", BOOL, False, "make the MAC address of the first IP address")
    policy: str = option("policy", policing.POLICY, "", policing.POLICY_ABOUT)
    policy_labels: tuple[str, ...] = option("policyLabels", policing.LABELS, (), policing.LABELS_ABOUT)


def validate(call: Call, config: PtpConfig) -> None:
    wishes.validate(call, host_name=config.host_interface)
    translation.validate(call, config.nptv6)


def add(call: Call, config: PtpConfig, tx: Transaction) -> Result:
    interface.require_free(tx.context.inside, call.ifname)
    ipam = delegation.addresses(call, tx)
    ips = delegation.with_gateways(ipam.ips)
    mac = wishes.mac(call) or (wishes.mac_of_address(ips) if config.mac_from_ip else None)
    mac, host_mac = mac or links.random_mac(), links.random_mac()
    pair = veth.create(
        tx,
        lambda name: Veth(name, host_mac, call.ifname, mac, config.mtu or _MTU),
        host_name=wishes.host_interface(call, config.host_interface),
    )
    sysctl.ensure(call.host, {f"ipv6/conf/{pair.name}/accept_ra": "0"}, optional=True)
    if not config.dad and any(entry.address.version == 6 for entry in ips):
        index = interface.index_of(call.host, pair.name)
        tx.context.host.request(addresses.own(index, host_mac))
    result = Result(
        interfaces=(Interface(pair.name, host_mac), Interface(call.ifname, mac, call.netns_path)),
        ips=tuple(replace(entry, interface=1) for entry in ips),
        routes=ipam.routes,
        dns=wishes.dns(call, ipam.dns),
    )
    for step in _after_the_pair(config, call, result):
        if isinstance(step, Forwarding):
            forward(tx, step)
        else:
            tx.apply(step)
    return result


def steps(call: Call, config: PtpConfig, context: Context, result: Result) -> list[Step]:
    """The steps behind a result; the host's end is the first interface of it."""
    host, inside = result.host_interface(), result.container_interface(call.ifname)
    pair = Veth(host.name, host.mac.lower(), call.ifname, inside.mac, config.mtu)
    return [pair, *_after_the_pair(config, call, result)]


def _after_the_pair(config: PtpConfig, call: Call, result: Result) -> list[Step]:
    ips = delegation.with_gateways(result.ips_of(call.ifname))
    listed: list[Step] = []
    if ips:
        listed.append(Forwarding(tuple(sorted({entry.address.version for entry in ips}))))
        listed.append(HostRoutes(result.host_interface().name, ips))
    name = result.host_interface().name
    judged = policing.step(call, config.policy, config.policy_labels, ips, link=name, port=name)
    if judged is not None:
        listed.append(judged)
    listed.append(Addresses(call.ifname, ips, result.routes, dad=config.dad, by_gateway=True))
    return listed + translation.steps(
        call, ips, ip_masq=config.ip_masq, backend=config.ip_masq_backend, pairs=config.nptv6
    )


PLUGIN: Plugin[Any] = Plugin(
    name="ptp",
    kind=Kind.MAIN,
    about="a routed veth pair between a container and the host",
    config=PtpConfig,
    add=add,
    kinds=(registry.Kind.MASQUERADE, registry.Kind.NPTV6, registry.Kind.POLICY_ENDPOINT),
    steps=steps,
    validate=validate,
    remove_legacy=legacy.link_of("veth"),
)
