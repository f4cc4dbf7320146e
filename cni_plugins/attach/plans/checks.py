"""What an update refuses before it changes anything: what an ADD with the new configuration would refuse, and
addresses and gateways that cannot be a container's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from cni_plugins.attach import delegation
from cni_plugins.attach.plans.plan import Plan
from cni_plugins.kernel import addresses, links
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.values import Ip, IpInterface, IpNetwork, JsonObject, fold
from cni_plugins.steps.addresses import Addresses
from cni_plugins.steps.context import Context
from cni_plugins.steps.veth import Veth
from cni_plugins.store import records
from cni_plugins.store.reservations import read_reservation

_ANEW = "attach it anew"


def require_acceptable(made: Plan, context: Context) -> None:
    """Of the new configuration what the plugins refuse, unless they refuse the old one just so: what an older
    release took is no reason to change nothing.
    """
    new = _refusal(made.config, context)
    if new and new != _refusal(context.call.config, context):
        made.problems.append(new)


def _refusal(config: JsonObject, context: Context) -> str:
    call = replace(context.call, config=config)
    members = fold(config, "plugins")
    try:
        if isinstance(members, list):
            for member in members:
                delegation.validate(call, delegation.inherit(call, member), context)
        else:
            delegation.validate(call, config, context)
    except CniError as error:
        return str(error)
    return ""


def missing(made: Plan, context: Context, *, routes: bool) -> Iterator[str]:
    """What the container has taken away of its interface, without which it cannot be changed: itself, and for
    `routes` its being up and its addresses.
    """
    name = context.call.ifname
    link, pair = links.find(context.sandbox, name), made.first(Veth)
    if link is None:
        yield f"the container has no interface {name} any more: {_ANEW}"
        return
    outside = links.other_end(context.host, context.sandbox, link) if pair is not None else None
    if pair is not None and (outside is None or outside.mac != pair.mac):
        yield f"{name} of the container is not the interface that it was given: {_ANEW}"
        return
    if not routes:
        return
    if not link.up:
        yield f"{name} of the container is down: `ip link set {name} up` in it, or attach it anew"
    there = {item.address.ip for item in addresses.of_link(context.sandbox, link.index)}
    old = made.first(Addresses)
    gone = [
        str(item.address.ip) for item in (old.ips if old is not None else ()) if item.address.ip not in there
    ]
    if gone:
        yield f"{name} of the container does not have {', '.join(gone)} any more: {_ANEW}"


def unusable(address: IpInterface) -> str:
    """Why no container can have an address; "" if one can."""
    ip, network = address.ip, address.network
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback:
        kind = "the unspecified" if ip.is_unspecified else "a multicast" if ip.is_multicast else "a loopback"
        return f"it is {kind} address"
    if ip.version == 6 and ip.is_link_local:
        return "the kernel gives an interface its link-local address itself"
    return reserved_in(ip, network)


def reserved_in(ip: Ip, network: IpNetwork) -> str:
    """Why an address of a subnet is nobody's; "" if it can be somebody's."""
    if ip.max_prefixlen - network.prefixlen < 2 or ip not in network:
        return "it is everybody's address" if str(ip) == "255.255.255.255" else ""
    if ip == network.network_address:
        name = "the network's" if ip.version == 4 else "the routers' anycast (RFC 4291)"
        return f"it is {name} address of {network}"
    if ip.version == 4 and ip == network.broadcast_address:
        return f"it is the broadcast address of {network}"
    return ""


def gateway_problem(gateway: Ip, own: Sequence[IpInterface], links: Sequence[IpNetwork]) -> str:
    """Why a container with addresses `own`, whose interface leads to `links` directly, cannot have a gateway;
    "" if it can.
    """
    if any(gateway == item.ip for item in own):
        return "is the container's own address"
    if gateway.version == 6 and gateway.is_link_local:
        return ""
    within = [network for network in links if gateway.version == network.version and gateway in network]
    if not within:
        listed = ", ".join(str(item) for item in links if item.version == gateway.version)
        return f"is not in {listed or 'any subnet of its family'}, where the container is"
    return next((f"cannot be one: {why}" for item in within if (why := reserved_in(gateway, item))), "")


def holders(address: Ip, directory: str, context: Context) -> Iterator[str]:
    """Who else of the network has an address, by host-local's files (`directory`, "" for none) or records."""
    call = context.call
    if directory:
        held = read_reservation(f"{directory}/{address}", str(address))
        if held is not None and held.container_id != call.container_id:
            yield held.container_id
            return
    for _, contents in records.every(call.roots, call.network):
        ips = (contents.result or {}).get("ips", ())
        there = any(str(entry.get("address", "")).partition("/")[0] == str(address) for entry in ips)
        if there and contents.identity != call.identity:
            yield contents.identity.container_id
            return
