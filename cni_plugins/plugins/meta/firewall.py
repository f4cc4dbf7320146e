"""firewall: what a container may forward through the host, and which containers it is kept from.

The addresses of the container are let through a host that drops what it forwards (Docker's `FORWARD DROP`,
firewalld), and with an `ingressPolicy` its network is kept from the other guarded networks of the host.

    {"cniVersion": "1.0.0", "name": "web-net", "plugins": [
      {"type": "bridge", "isDefaultGateway": true, "ipMasq": true,
       "ipam": {"type": "host-local", "subnet": "10.60.0.0/24"}},
      {"type": "firewall", "ingressPolicy": "same-bridge"}]}

| ingressPolicy | who reaches the container through the host's forwarding |
|---|---|
| `open` | everybody |
| `same-bridge` | everybody but containers of other guarded bridges |
| `isolated` | as before, and no other isolated container of its own bridge |

A container behind a bridge is guarded by the bridge, any other by the host's end of its pair.

The backend is firewalld where that runs, else iptables where it is installed, else nf_tables. With iptables
the rules are the reference plugin's, in its chains (CNI-FORWARD, the administrator's CNI-ADMIN before it,
CNI-ISOLATION-STAGE-1 and -2); the frame of chains stays. With firewalld each address is a source of a zone.
With nf_tables it is an element a container in the sets of `inet mesokit`: what other tables drop stays
dropped then, and a warning says so. Under `isolated` bridged frames are dropped by `bridge mesokit`, with
every backend, whether or not br_netfilter is there.
"""

from dataclasses import dataclass
from typing import Any

from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import firewalld, iptables_filter, links
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import TEXT, one_of, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.spec.values import Ip
from cni_plugins.steps import registry
from cni_plugins.steps.context import Context
from cni_plugins.steps.firewall import BUS, Admit, Backend, Fence, by_family
from cni_plugins.steps.step import Step

_OPEN, _SAME_BRIDGE, _ISOLATED = "open", "same-bridge", "isolated"
_CHAIN_BYTES = 28


@dataclass(frozen=True, slots=True)
class FirewallConfig:
    backend: str = option(
        "backend",
        one_of(*(item.value for item in Backend)),
        "",
        "who keeps the rules; firewalld if it runs, else iptables if it is installed, else nftables",
    )
    admin_chain: str = option(
        "iptablesAdminChainName", TEXT, "CNI-ADMIN", "the chain of yours that is asked first (iptables only)"
    )
    zone: str = option(
        "firewalldZone", TEXT, "trusted", "the zone of the container's addresses (firewalld only)"
    )
    ingress_policy: str = option(
        "ingressPolicy", one_of(_OPEN, _SAME_BRIDGE, _ISOLATED), _OPEN, "which containers are kept away"
    )


def validate(call: Call, config: FirewallConfig) -> None:
    """CniError 7 for names that iptables or firewalld cannot have."""
    chain = config.admin_chain
    if (
        len(chain.encode()) > _CHAIN_BYTES
        or not chain.isprintable()
        or chain.startswith(("-", "!"))
        or (set(chain) & set(" \t\"'\\:"))
    ):
        raise CniError(
            Code.INVALID_CONFIG,
            f"iptablesAdminChainName is {chain!r}, which cannot be the name of a chain",
            f"it has at most {_CHAIN_BYTES} bytes, no space, quote or colon, and no '-' or '!' in front",
        )
    if chain in {iptables_filter.FORWARD, iptables_filter.STAGE1, iptables_filter.STAGE2, "FORWARD"}:
        raise CniError(
            Code.INVALID_CONFIG,
            f"iptablesAdminChainName is {chain!r}, the name of a chain that has another purpose",
        )


def _backend(call: Call, config: FirewallConfig) -> Backend:
    """The one that is asked for, or the first that is there."""
    if config.backend:
        return Backend(config.backend)
    if firewalld.running(call.deadline, call.env.get(BUS, "")):
        return Backend.FIREWALLD
    return Backend.IPTABLES if iptables_filter.installed(4) else Backend.NFTABLES


def _addresses(result: Result) -> tuple[Ip, ...]:
    return tuple(dict.fromkeys(entry.address.ip for entry in result.ips))


def _wanted(call: Call, config: FirewallConfig, context: Context, result: Result) -> list[Step]:
    backend, addresses = _backend(call, config), _addresses(result)
    wanted: list[Step] = []
    if addresses:
        chain = (config.admin_chain or "CNI-ADMIN") if backend is Backend.IPTABLES else ""
        zone = (config.zone or "trusted") if backend is Backend.FIREWALLD else ""
        wanted.append(Admit(backend, addresses, chain, zone))
    if config.ingress_policy != _OPEN:
        wanted.append(_fence(call, config, context, backend, result))
    return wanted


def _fence(call: Call, config: FirewallConfig, context: Context, backend: Backend, result: Result) -> Fence:
    """CniError 7 when nothing on the host leads to the container."""
    link = links.find(context.sandbox, call.ifname)
    port = links.other_end(context.host, context.sandbox, link) if link is not None else None
    master = links.find_index(context.host, port.master) if port is not None and port.master else None
    if port is None:
        raise CniError(
            Code.INVALID_CONFIG,
            f"ingressPolicy is {config.ingress_policy}, and {call.ifname} has no end on the host to guard",
            "it needs a veth pair: use it after bridge or ptp, or leave it out",
        )
    closed = config.ingress_policy == _ISOLATED
    versions = tuple(by_family(_addresses(result))) or (4, 6)
    if master is None:
        return Fence(backend, port.name, closed, "", versions)
    return Fence(backend, master.name, closed, port.name if closed else "", versions)


def add(call: Call, config: FirewallConfig, tx: Transaction) -> Result:
    assert call.previous is not None
    wanted = _wanted(call, config, tx.context, call.previous)
    for step in wanted:
        tx.apply(step)
        if isinstance(step, Admit) and step.backend is Backend.NFTABLES:
            _warn_of_drops(call, step.addresses)
    return call.previous


def _warn_of_drops(call: Call, addresses: tuple[Ip, ...]) -> None:
    for version in by_family(addresses):
        if iptables_filter.drops_forwarded(call.host, version):
            call.warn(
                f"the IPv{version} chain FORWARD of iptables drops by policy, and what it drops, no rule of "
                "another table lets through: packets of the container are not forwarded; set backend to "
                "iptables, or the policy to ACCEPT"
            )


def steps(call: Call, config: FirewallConfig, context: Context, result: Result) -> list[Step]:
    return _wanted(call, config, context, result)


def status(call: Call, config: FirewallConfig, context: Context) -> None:
    """CniError 50 when the backend that is asked for is not there."""
    backend = _backend(call, config)
    if backend is Backend.FIREWALLD and not firewalld.running(call.deadline, call.env.get(BUS, "")):
        raise CniError(Code.NOT_AVAILABLE, "backend is 'firewalld', which is not on the system bus")
    if backend is Backend.IPTABLES and not iptables_filter.installed(4):
        raise CniError(Code.NOT_AVAILABLE, "backend is 'iptables', which is not installed")
    with Nfnetlink(call.host) as socket:
        if backend is Backend.NFTABLES and not socket.supported:
            raise CniError(Code.NOT_AVAILABLE, "backend is 'nftables', and this kernel has no nf_tables")


PLUGIN: Plugin[Any] = Plugin(
    name="firewall",
    kind=Kind.META,
    about="let a container's packets through the host, and keep its network from others",
    config=FirewallConfig,
    add=add,
    kinds=(registry.Kind.ADMIT, registry.Kind.FENCE),
    steps=steps,
    status=status,
    validate=validate,
)
