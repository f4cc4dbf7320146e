"""Plans for addresses and routes of a container, and what the host has for them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import ip_interface

from cni_plugins.attach.changes import Changes
from cni_plugins.attach.plans import checks
from cni_plugins.attach.plans.plan import Operation, Plan, documents, put
from cni_plugins.kernel import addresses, interface, links
from cni_plugins.kernel.nft.ports import Publication
from cni_plugins.kernel.routes import SCOPE_LINK
from cni_plugins.spec.mesos import is_mesos
from cni_plugins.spec.result import Address, Route, decode_route
from cni_plugins.spec.values import Ip, IpInterface, JsonObject, fold
from cni_plugins.steps.addresses import Addresses, whole
from cni_plugins.steps.change import (
    AddedAddresses,
    AddedHostRoutes,
    AddedRoutes,
    ReplacedRoute,
)
from cni_plugins.steps.context import Context
from cni_plugins.steps.firewall import Admit
from cni_plugins.steps.host_routes import HostRoutes
from cni_plugins.steps.masquerade import Masquerade
from cni_plugins.steps.nptv6 import Nptv6
from cni_plugins.steps.policy import PolicyChange, PolicyEndpoint
from cni_plugins.steps.ports import Ports
from cni_plugins.steps.reservation import Reservation
from cni_plugins.steps.step import Step
from cni_plugins.steps.veth import Veth


def change_routes(made: Plan, changes: Changes, context: Context) -> None:
    old = made.first(Addresses)
    if old is None:
        made.problems.append("routes: this network gives the container no addresses, so it has no routes")
        return
    ips = tuple(_with_gateway(entry, changes, made, old) for entry in old.ips)
    gone = {item.network for item in changes.no_routes}
    missing = gone - {route.dst.network for route in old.routes}
    if missing:
        listed = ", ".join(sorted(map(str, missing)))
        made.problems.append(f"routes-={listed}: the attachment has no such route")
    _judge_routes(made, changes, ips, old)
    moved = {entry.gateway: new.gateway for entry, new in zip(old.ips, ips, strict=True) if entry.gateway}
    kept = [
        replace(route, gw=moved.get(route.gw, route.gw)) if route.gw is not None else route
        for route in old.routes
        if route.dst.network not in gone
    ]
    for route in changes.routes:
        kept = [item for item in kept if _key(item) != _key(route)] + [route]
    new = replace(old, ips=ips, routes=tuple(kept))
    _route_operations(made, old, new)
    made.swap(old, new)
    _rewrite_result(made, old, new)
    if changes.routes or changes.no_routes:
        _configure_routes(made, changes)


def _judge_routes(made: Plan, changes: Changes, ips: tuple[Address, ...], old: Addresses) -> None:
    """Problems of routes that no kernel would take, or that would cut the container off."""
    own = [entry.address for entry in ips]
    if old.by_gateway:
        leads = [whole(entry.gateway).network for entry in ips if entry.gateway is not None]
    else:
        leads = [item.network for item in own]
    leads += [route.dst.network for route in old.routes if (route.scope or 0) >= SCOPE_LINK]
    families = {item.version for item in own}
    for gateway in changes.gateways:
        if gateway.version not in families:
            made.problems.append(f"gateway {gateway}: the container has no IPv{gateway.version} address")
    for route in changes.routes:
        if route.dst.version not in families:
            made.problems.append(f"routes+={route.dst}: the container has no IPv{route.dst.version} address")
        elif any(route.dst.network == item.network for item in own):
            made.problems.append(f"routes+={route.dst}: the container is in that network itself")
        elif route.gw is not None and (why := checks.gateway_problem(route.gw, own, leads)):
            made.problems.append(f"routes+={route.dst}@{route.gw}: gateway {route.gw} {why}")


def _key(route: Route) -> tuple[object, ...]:
    return route.dst.network, route.table, route.priority


def _configure_routes(made: Plan, changes: Changes) -> None:
    """The routes of the configuration's `ipam`, which are not all that the container has."""
    replaced = {str(item.network) for item in changes.no_routes}
    replaced |= {str(route.dst.network) for route in changes.routes}
    for document in documents(made.config):
        ipam = fold(document, "ipam")
        if not isinstance(ipam, dict):
            continue
        listed = fold(ipam, "routes")
        kept = [
            item for item in listed or () if str(decode_route(item, "routes").dst.network) not in replaced
        ]
        put(ipam, "routes", kept + [_as_json(route) for route in changes.routes])


def _with_gateway(entry: Address, changes: Changes, made: Plan, old: Addresses) -> Address:
    wanted = next((item for item in changes.gateways if item.version == entry.address.version), None)
    if wanted is None or wanted == entry.gateway:
        return entry
    if old.by_gateway:
        made.problems.append("gateway: on a routed network the host's end of the pair is the gateway")
    elif why := checks.gateway_problem(wanted, [item.address for item in old.ips], [entry.address.network]):
        made.problems.append(f"gateway {wanted} {why}")
    return replace(entry, gateway=wanted)


def _route_operations(made: Plan, old: Addresses, new: Addresses) -> None:
    before = {_key(route): route for route in interface.resolved(old.plan())}
    after = {_key(route): route for route in interface.resolved(new.plan())}
    added = [route for key, route in after.items() if key not in before]
    if added:
        listed = ", ".join(str(route.dst.network) for route in added)
        made.additions.append(Operation(AddedRoutes(old.ifname, tuple(added)), f"route to {listed}"))
    for key, route in after.items():
        if key in before and before[key] != route:
            what = f"route to {route.dst.network} by {before[key].gw} → {route.gw}"
            made.switches.append(Operation(ReplacedRoute(old.ifname, before[key], route), what))
    removed = [route for key, route in before.items() if key not in after]
    if removed:
        listed = ", ".join(str(route.dst.network) for route in removed)
        step = AddedRoutes(old.ifname, tuple(removed))
        effect = "packets to it take the next best route, or none"
        made.removals.append(Operation(step, f"no route to {listed}", effect))


def _as_json(route: Route) -> JsonObject:
    document: JsonObject = {"dst": str(route.dst)}
    if route.gw is not None:
        document["gw"] = str(route.gw)
    for key in ("mtu", "advmss", "priority", "table", "scope"):
        value = getattr(route, key)
        if value is not None:
            document[key] = value
    return document


def _rewrite_result(made: Plan, old: Addresses, new: Addresses) -> None:
    """The result's addresses and routes, where they are this interface's."""
    index = next(
        (
            number
            for number, item in enumerate(made.result.interfaces)
            if item.name == old.ifname and item.sandbox
        ),
        None,
    )
    others = tuple(entry for entry in made.result.ips if entry.interface not in {None, index})
    own = tuple(replace(entry, interface=index) for entry in new.ips)
    made.result = replace(made.result, ips=own + others, routes=new.routes)


def change_addresses(made: Plan, changes: Changes, context: Context, *, force: bool) -> None:
    old = made.first(Addresses)
    if old is None or not old.ips:
        made.problems.append("addresses: this network gives the container none, it is of layer 2 alone")
        return
    there = {entry.address.ip for entry in old.ips}
    _others(made, changes, there, context)
    for ip in changes.no_addresses:
        if ip not in there:
            made.problems.append(f"addresses-={ip}: the attachment does not have it")
    ips = [entry for entry in old.ips if entry.address.ip not in changes.no_addresses]
    if not ips and not changes.addresses:
        made.problems.append("addresses: the last one cannot be taken away: detach the container instead")
        return
    fresh = [_new_address(made, old, item) for item in changes.addresses if item.ip not in there]
    reserved = made.first(Reservation)
    for entry in fresh:
        for holder in checks.holders(entry.address.ip, reserved.directory if reserved else "", context):
            made.problems.append(f"address {entry.address.ip} is in use by container {holder}")
    _first_of_family(made, old, [*ips, *fresh], context, force=force)
    new = replace(old, ips=(*ips, *fresh))
    gone = [entry for entry in old.ips if entry.address.ip in changes.no_addresses]
    if fresh:
        _add_addresses(made, old, fresh, context)
    if gone:
        _remove_addresses(made, old, gone, ips)
    _judge(made, old, new)
    made.swap(old, new)
    _rewrite_result(made, old, new)
    _rewrite_hosts(made, old, new)


def _others(made: Plan, changes: Changes, ours: set[Ip], context: Context) -> None:
    """An address that somebody else gave the interface is not ours to take away later."""
    link = links.find(context.sandbox, context.call.ifname)
    found = addresses.of_link(context.sandbox, link.index) if link is not None else []
    for item in found:
        if item.address.ip not in ours and item.address.ip in {entry.ip for entry in changes.addresses}:
            made.problems.append(
                f"addresses+={item.address}: {context.call.ifname} already has it, and not by us"
            )


def _new_address(made: Plan, old: Addresses, wanted: IpInterface) -> Address:
    """With the gateway of its subnet, where the container has one there already."""
    gateway = None
    if why := checks.unusable(wanted):
        made.problems.append(f"addresses+={wanted}: {why}")
    for entry in old.ips:
        if wanted.ip in entry.address.network:
            gateway = entry.gateway
            if wanted.ip == gateway:
                made.problems.append(f"addresses+={wanted}: it is the gateway of {entry.address.network}")
            if wanted.network != entry.address.network:
                made.problems.append(
                    f"addresses+={wanted}: its subnet is {entry.address.network} here, "
                    f"write {wanted.ip}/{entry.address.network.prefixlen}"
                )
    mapped = made.first(Nptv6)
    if mapped is not None and mapped.those([wanted]) and not mapped.maps(wanted):
        made.problems.append(
            f"addresses+={wanted}: nptv6 cannot translate it, it is all ones where it counts"
        )
    if wanted.version == 6 and not any(entry.address.version == 6 for entry in old.ips):
        made.problems.append(
            f"addresses+={wanted}: the container has no IPv6, which is switched on before its interface "
            "is up: give the network a range, and attach the container anew"
        )
    return Address(wanted, gateway)


def _first_of_family(
    made: Plan, old: Addresses, new: list[Address], context: Context, *, force: bool
) -> None:
    for version in (4, 6):
        before = next((item.address.ip for item in old.ips if item.address.version == version), None)
        after = next((item.address.ip for item in new if item.address.version == version), None)
        if before is None or before == after:
            continue
        if is_mesos(context.call.config) and not force:
            made.problems.append(
                f"{before} is what Mesos tells frameworks as this task's address, for as long as it runs; "
                "--force changes it all the same"
            )
        published = [item for item in (*made.steps, *made.others) if isinstance(item, Ports)]
        if any(_leads_to(item.wanted, str(before)) for item in published):
            made.problems.append(f"published ports lead to {before}: remove them first, with ports-=")


def _leads_to(wanted: Publication, ip: str) -> bool:
    return any(str(item.target.ip) == ip for item in wanted.forwards)


def _add_addresses(made: Plan, old: Addresses, fresh: list[Address], context: Context) -> None:
    reserved = made.first(Reservation)
    for entry in fresh:
        if reserved is not None:
            step = replace(reserved, address=str(entry.address.ip))
            made.additions.append(Operation(step, f"reservation of {entry.address.ip}"))
            made.add(step, Reservation)
    hosts = made.first(HostRoutes)
    if hosts is not None:
        pair = made.first(Veth)
        shared = tuple(
            ip_interface(f"{item.gateway}/{item.gateway.max_prefixlen}") for item in hosts.ips if item.gateway
        )
        way = AddedHostRoutes(hosts.name, pair.mac if pair is not None else "", tuple(fresh), shared)
        made.additions.append(Operation(way, "the host's routes to it"))
    listed = tuple(entry.address for entry in fresh)
    named = ", ".join(map(str, listed))
    step_ = AddedAddresses(old.ifname, listed, prefix_route=not old.by_gateway)
    made.additions.append(Operation(step_, f"address {named} on {old.ifname}"))
    admitted = made.first(Admit)
    made.additions += [Operation(made_step, what) for made_step, what in _translations(made, listed)]
    if admitted is not None:
        more = replace(admitted, addresses=tuple(item.ip for item in listed))
        made.additions.append(Operation(more, f"the firewall lets {named} forward"))


def _remove_addresses(made: Plan, old: Addresses, gone: list[Address], left: list[Address]) -> None:
    listed = tuple(entry.address for entry in gone)
    named = ", ".join(str(item.ip) for item in listed)
    effect = f"every flow that uses {named} ends at once"
    made.disruptions.append(f"{effect}, for good")
    admitted = made.first(Admit)
    made.removals += [Operation(made_step, f"no {what}") for made_step, what in _translations(made, listed)]
    if admitted is not None:
        less = replace(admitted, addresses=tuple(item.ip for item in listed))
        made.removals.append(Operation(less, f"the firewall does not let {named} forward"))
    step = AddedAddresses(old.ifname, listed, prefix_route=not old.by_gateway)
    made.removals.append(Operation(step, f"no address {named} on {old.ifname}", effect))
    hosts, pair = made.first(HostRoutes), made.first(Veth)
    if hosts is not None:
        shared = tuple(
            ip_interface(f"{item.gateway}/{item.gateway.max_prefixlen}") for item in left if item.gateway
        )
        way = AddedHostRoutes(hosts.name, pair.mac if pair is not None else "", tuple(gone), shared)
        made.removals.append(Operation(way, f"no route of the host to {named}", effect))
    for item in list(made.steps):
        if isinstance(item, Reservation) and item.address in {str(entry.ip) for entry in listed}:
            made.removals.append(Operation(item, f"no reservation of {item.address}"))
            made.swap(item, None)


def _translations(made: Plan, listed: Sequence[IpInterface]) -> Iterator[tuple[Step, str]]:
    """The steps that translate some addresses, each with what it does."""
    hidden, mapped = made.first(Masquerade), made.first(Nptv6)
    rest = _hidden(made, listed)
    own = tuple(item for item in listed if item not in rest)
    if mapped is not None and own:
        yield replace(mapped, addresses=own), f"translation of {', '.join(map(str, own))}"
    if hidden is not None and rest:
        yield replace(hidden, addresses=rest), f"masquerading of {', '.join(map(str, rest))}"


def _judge(made: Plan, old: Addresses, new: Addresses) -> None:
    """Policy knows an address before it is in service, and until it is not any more."""
    endpoint = made.first(PolicyEndpoint)
    if endpoint is None:
        return
    between = replace(endpoint, ips=tuple(dict.fromkeys((*old.ips, *new.ips))))
    final = replace(endpoint, ips=new.ips)
    if between != endpoint:
        step = PolicyChange(endpoint, between)
        made.additions.insert(0, Operation(step, "policy judges all addresses"))
    if final != between:
        # Taken away by its undo, after the addresses themselves are gone.
        made.removals.append(Operation(PolicyChange(final, between), "policy forgets what is gone"))
    made.swap(endpoint, final)


def _hidden(made: Plan, listed: Sequence[IpInterface]) -> tuple[IpInterface, ...]:
    """Those of a container's addresses that masquerading is for."""
    mapped = made.first(Nptv6)
    own = () if mapped is None else mapped.those(listed)
    return tuple(item for item in listed if item not in own)


def _rewrite_hosts(made: Plan, old: Addresses, new: Addresses) -> None:
    """The other steps that name all addresses of the container."""
    for item in list(made.steps):
        if isinstance(item, HostRoutes):
            made.swap(item, replace(item, ips=new.ips))
        elif isinstance(item, Nptv6):
            made.swap(item, replace(item, addresses=item.those([entry.address for entry in new.ips])))
        elif isinstance(item, Masquerade):
            made.swap(item, replace(item, addresses=_hidden(made, [entry.address for entry in new.ips])))
        elif isinstance(item, Admit):
            made.swap(item, replace(item, addresses=tuple(entry.address.ip for entry in new.ips)))
    for document in documents(made.config):
        ipam = fold(document, "ipam")
        if isinstance(ipam, dict) and fold(ipam, "type") == "static":
            listed = [
                {"address": str(entry.address)} | ({"gateway": str(entry.gateway)} if entry.gateway else {})
                for entry in new.ips
            ]
            put(ipam, "addresses", listed)
