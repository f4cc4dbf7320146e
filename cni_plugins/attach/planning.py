"""How one attachment gets what an operator wants: the difference of two lists of steps.

The steps of the record are rewritten as an ADD with the changed configuration would have made them; what
leads from one list to the other are operations, in the order in which nothing is missing meanwhile: first
what is added, then what changes in place, then (when the record has the new list) what is taken away. What
cannot be changed in place is told with the reason, and so is what costs packets or flows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, TypeVar

from cni_plugins.attach import wishes
from cni_plugins.attach.changes import Changes, PortMap
from cni_plugins.kernel import interface, links, sysctl
from cni_plugins.kernel.nft.ports import Forward, Hide, Publication
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.mesos import is_mesos
from cni_plugins.spec.result import Address, Dns, Result, Route
from cni_plugins.spec.values import IpInterface, JsonObject, fold
from cni_plugins.steps import dns_file
from cni_plugins.steps.addresses import Addresses
from cni_plugins.steps.bridge import Bridge, BridgePort
from cni_plugins.steps.change import (
    AddedAddresses,
    AddedHostRoutes,
    AddedRoutes,
    BucketChange,
    PortFlags,
    ReplacedRoute,
)
from cni_plugins.steps.child_link import ChildLink
from cni_plugins.steps.context import Context
from cni_plugins.steps.dns_file import DnsFile
from cni_plugins.steps.host_routes import HostRoutes
from cni_plugins.steps.link_settings import LinkSettings, Settings
from cni_plugins.steps.masquerade import Masquerade
from cni_plugins.steps.ports import PortClaims, Ports, PortsChange, claims_of, localnet_of, without
from cni_plugins.steps.reservation import Reservation
from cni_plugins.steps.shaping import LimitReceiving, LimitSending
from cni_plugins.steps.spoof import SpoofCheck
from cni_plugins.steps.step import Step
from cni_plugins.steps.sysctl import Sysctl
from cni_plugins.steps.veth import Veth

S = TypeVar("S", bound=Step)

NOTHING_LOST = "no packet is lost"
#: Where a Mesos agent keeps the files that it mounts over /etc of a container, below MESOKIT_ROOT.
MESOS_FILES = ("/var/run/mesos/isolators/network/cni", "/run/mesos/isolators/network/cni")


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of an update; `effect` is what a user of the container feels."""

    step: Step
    what: str
    effect: str = NOTHING_LOST


@dataclass(slots=True)
class Plan:
    """`steps`, `result` and `config` are those of the new form. `problems` are reasons why it cannot be,
    `disruptions` what is lost on the way.
    """

    steps: list[Step]
    result: Result
    config: JsonObject
    additions: list[Operation] = field(default_factory=list)
    switches: list[Operation] = field(default_factory=list)
    removals: list[Operation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    disruptions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def operations(self) -> list[Operation]:
        return [*self.additions, *self.switches, *self.removals]

    def first(self, kind: type[S]) -> S | None:
        return next((item for item in self.steps if isinstance(item, kind)), None)

    def swap(self, old: Step, new: Step | None) -> None:
        at = self.steps.index(old)
        self.steps[at : at + 1] = [] if new is None else [new]

    def add(self, new: Step, after: type[Step] | None = None) -> None:
        places = [number for number, item in enumerate(self.steps) if after and isinstance(item, after)]
        self.steps.insert(places[-1] + 1 if places else len(self.steps), new)


def documents(config: JsonObject) -> Iterable[JsonObject]:
    """A configuration, what it delegates to, and the members of its chain."""
    yield config
    inner = fold(config, "delegate")
    if isinstance(inner, dict):
        yield from documents(inner)
    members = fold(config, "plugins")
    for member in members if isinstance(members, list) else ():
        if isinstance(member, dict):
            yield from documents(member)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _of_type(config: JsonObject, *names: str) -> JsonObject | None:
    return next((item for item in documents(config) if fold(item, "type") in names), None)


def _put(document: JsonObject, key: str, value: Any) -> None:
    """Set a key that may be written in other cases."""
    written = next((name for name in document if name.casefold() == key.casefold()), key)
    document[written] = value


def plan(changes: Changes, steps: list[Step], result: Result, context: Context, *, force: bool) -> Plan:
    """What leads from a record's steps and result to those with `changes`. Reads the kernel, changes nothing.
    CniError when the kernel cannot be asked.
    """
    made = Plan(list(steps), result, _copied(context.call.config))
    if context.sandbox_namespace is None:
        made.problems.append("the container's network namespace is gone: DEL is all that is left for it")
        return made
    parts: tuple[tuple[bool, Callable[[Plan, Changes, Context], None]], ...] = (
        (bool(changes.addresses or changes.no_addresses), lambda *args: _addresses(*args, force=force)),
        (bool(changes.gateways or changes.routes or changes.no_routes), _routes),
        (bool(changes.ports or changes.no_ports), _ports),
        (changes.mtu is not None, _mtu),
        (bool(changes.limits), _limits),
        (bool(changes.flags), _flags),
        (bool(changes.sysctls), _sysctls),
        (bool(changes.dns), _dns),
        (changes.groups is not None or bool(changes.labels), _labels),
    )
    for asked, part in parts:
        if asked:
            part(made, changes, context)
    return made


def _mtu(made: Plan, changes: Changes, context: Context) -> None:
    wanted, call = changes.mtu or 0, context.call
    found = links.find(context.sandbox, call.ifname)
    if found is None:
        made.problems.append(f"the container has no interface {call.ifname}")
        return
    try:
        wishes.require_ipv6_mtu(wanted, made.result.ips)
    except CniError as error:
        made.problems.append(f"{error.msg}: {error.details}")
        return
    pair, child = made.first(Veth), made.first(ChildLink)
    if pair is None and child is None and not made.first(LinkSettings):
        made.problems.append("mtu: this network makes no interface whose MTU is its own")
        return
    ends = [LinkSettings(found.name, Settings(mtu=wanted), Settings(mtu=found.mtu))]
    outside = pair.host_end(context) if pair is not None else None
    outside = outside or (links.other_end(context.host, context.sandbox, found) if pair is None else None)
    if outside is not None:
        before = Settings(mtu=outside.mtu)
        ends.append(LinkSettings(outside.name, Settings(mtu=wanted), before, host_mac=outside.mac))
    if wanted > found.mtu:  # who receives is first to take the larger packets, last to refuse them
        ends.reverse()
    for end in ends:
        if end.before.mtu != wanted:
            side = "host's end" if end.host_mac else "container's end"
            effect = "no packet is lost; flows that are there keep their segment size until they restart"
            made.switches.append(
                Operation(end, f"mtu of {end.name} ({side}) {end.before.mtu} → {wanted}", effect)
            )
    _mtu_steps(made, wanted)
    _buckets_for(made, wanted, context)
    made.result = replace(
        made.result,
        interfaces=tuple(
            replace(item, mtu=wanted) if item.name == call.ifname and item.sandbox and item.mtu else item
            for item in made.result.interfaces
        ),
    )
    for document in documents(made.config):
        if fold(document, "mtu") is not None or (
            fold(document, "type") not in {"chain", "tuning", "portmap", "bandwidth", "mesos-cni-port-mapper"}
            and fold(document, "type") is not None
        ):
            _put(document, "mtu", wanted)


def _mtu_steps(made: Plan, wanted: int) -> None:
    for item in list(made.steps):
        if isinstance(item, Veth | ChildLink) or (isinstance(item, Bridge) and item.mtu):
            made.swap(item, replace(item, mtu=wanted))
        elif isinstance(item, LinkSettings) and item.wanted.mtu is not None:
            made.swap(item, replace(item, wanted=replace(item.wanted, mtu=wanted)))


def _bucket(step: LimitReceiving | LimitSending) -> tuple[str, str]:
    """The link with the token bucket, and its MAC address."""
    return (step.name, step.mac) if isinstance(step, LimitReceiving) else (step.ifb, step.ifb_mac)


def _buckets_for(made: Plan, mtu: int, context: Context) -> None:
    """Token buckets have to hold one frame of the new size."""
    for item in made.steps:
        if isinstance(item, (LimitReceiving, LimitSending)) and item.rate and item.burst // 8 < mtu + 14:
            values = (item.rate, item.burst, item.latency)
            name, mac = (
                (item.name, item.mac) if isinstance(item, LimitReceiving) else (item.ifb, item.ifb_mac)
            )
            step = BucketChange(name, mac, mtu, values, values)
            made.switches.insert(0, Operation(step, f"bucket of {name} holds a frame of {mtu} bytes"))


def _key(route: Route) -> tuple[object, ...]:
    return route.dst.network, route.table, route.priority


def _routes(made: Plan, changes: Changes, context: Context) -> None:
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
    document = _of_type(made.config, "host-local", "static")
    for entry in documents(made.config):
        ipam = fold(entry, "ipam")
        document = ipam if isinstance(ipam, dict) and fold(ipam, "type") else document
    if document is not None and (changes.routes or changes.no_routes):
        _put(document, "routes", [_as_json(route) for route in kept])


def _with_gateway(entry: Address, changes: Changes, made: Plan, old: Addresses) -> Address:
    wanted = next((item for item in changes.gateways if item.version == entry.address.version), None)
    if wanted is None or wanted == entry.gateway:
        return entry
    if old.by_gateway:
        made.problems.append("gateway: on a routed network the host's end of the pair is the gateway")
    elif wanted not in entry.address.network:
        made.problems.append(f"gateway {wanted} is not in {entry.address.network}, where the container is")
    elif wanted == entry.address.ip:
        made.problems.append(f"gateway {wanted} is the container's own address")
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


def _addresses(made: Plan, changes: Changes, context: Context, *, force: bool) -> None:
    old = made.first(Addresses)
    if old is None or not old.ips:
        made.problems.append("addresses: this network gives the container none, it is of layer 2 alone")
        return
    there = {entry.address.ip for entry in old.ips}
    for ip in changes.no_addresses:
        if ip not in there:
            made.problems.append(f"addresses-={ip}: the attachment does not have it")
    ips = [entry for entry in old.ips if entry.address.ip not in changes.no_addresses]
    if not ips and not changes.addresses:
        made.problems.append("addresses: the last one cannot be taken away: detach the container instead")
        return
    fresh = [_new_address(made, old, item) for item in changes.addresses if item.ip not in there]
    _first_of_family(made, old, [*ips, *fresh], context, force=force)
    new = replace(old, ips=(*ips, *fresh))
    gone = [entry for entry in old.ips if entry.address.ip in changes.no_addresses]
    if fresh:
        _add_addresses(made, old, fresh, context)
    if gone:
        _remove_addresses(made, old, gone, ips)
    made.swap(old, new)
    _rewrite_result(made, old, new)
    _rewrite_hosts(made, old, new)


def _new_address(made: Plan, old: Addresses, wanted: IpInterface) -> Address:
    """With the gateway of its subnet, where the container has one there already."""
    gateway = None
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
        if any(isinstance(item, Ports) and _leads_to(item.wanted, str(before)) for item in made.steps):
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
    hidden = made.first(Masquerade)
    if hidden is not None:
        made.additions.append(Operation(replace(hidden, addresses=listed), f"masquerading of {named}"))


def _remove_addresses(made: Plan, old: Addresses, gone: list[Address], left: list[Address]) -> None:
    listed = tuple(entry.address for entry in gone)
    named = ", ".join(str(item.ip) for item in listed)
    effect = f"every flow that uses {named} ends at once"
    made.disruptions.append(f"{effect}, for good")
    hidden = made.first(Masquerade)
    if hidden is not None:
        made.removals.append(Operation(replace(hidden, addresses=listed), f"no masquerading of {named}"))
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


def _rewrite_hosts(made: Plan, old: Addresses, new: Addresses) -> None:
    """The other steps that name all addresses of the container."""
    for item in list(made.steps):
        if isinstance(item, HostRoutes):
            made.swap(item, replace(item, ips=new.ips))
        elif isinstance(item, Masquerade):
            made.swap(item, replace(item, addresses=tuple(entry.address for entry in new.ips)))
    for document in documents(made.config):
        ipam = fold(document, "ipam")
        if isinstance(ipam, dict) and fold(ipam, "type") == "static":
            listed = [
                {"address": str(entry.address)} | ({"gateway": str(entry.gateway)} if entry.gateway else {})
                for entry in new.ips
            ]
            _put(ipam, "addresses", listed)


def _ports(made: Plan, changes: Changes, context: Context) -> None:
    document = _of_type(made.config, "portmap", "mesos-cni-port-mapper")
    if document is None:
        made.problems.append("ports: this network has no plugin that publishes any (portmap)")
        return
    old = made.first(Ports)
    if old is not None and old.keys is not None:
        made.problems.append("ports: the rules are of the iptables backend, which makes them once for all")
        return
    before = old.wanted if old is not None else Publication((), Hide.LOCAL)
    targets: dict[int, IpInterface] = {}
    for entry in made.result.ips_of(context.call.ifname):
        targets.setdefault(entry.address.version, entry.address)
    forwards = {_forward_key(item): item for item in before.forwards}
    for port in changes.no_ports:
        doomed = [key for key in forwards if key[:3] == port.key]
        if not doomed:
            made.problems.append(f"ports-={port.host_port}/{port.protocol}: it is not published")
        for key in doomed:
            del forwards[key]
    for port in changes.ports:
        versions = [v for v in targets if port.host_ip is None or port.host_ip.version == v]
        if not versions:
            made.problems.append(f"ports+={port.host_port}: the container has no address of that family")
        for version in versions:
            item = Forward(port.protocol, port.host_ip, port.host_port, targets[version], port.container_port)
            forwards[_forward_key(item)] = item
    after = replace(before, forwards=tuple(forwards.values()))
    _port_operations(made, old, before, after, context)
    _port_config(made, changes)


def _forward_key(item: Forward) -> tuple[str, int, object, int]:
    return item.protocol, item.host_port, item.host_ip, item.target.version


def _port_operations(
    made: Plan, old: Ports | None, before: Publication, after: Publication, context: Context
) -> None:
    fresh = without(after, before)
    if set(after.forwards) - set(before.forwards):
        if old is None and after.hide is not Hide.NOBODY:
            _open_loopback(made, after, context)
        listed = ", ".join(sorted({f"{item.host_port}/{item.protocol}" for item in after.forwards}))
        effect = "connections that are there go on as they are, new ones follow the new map"
        made.switches.append(Operation(PortsChange(before, after), f"published: {listed}", effect))
    gone = without(before, after)
    if gone.forwards:
        listed = ", ".join(sorted({f"{item.host_port}/{item.protocol}" for item in gone.forwards}))
        effect = "connections that are there go on, new ones are refused"
        made.removals.append(Operation(Ports(gone), f"not published any more: {listed}", effect))
    if fresh.forwards or gone.forwards:
        _claims(made, after, context)
    if old is None:
        made.add(Ports(after))
    else:
        made.swap(old, Ports(after) if after.forwards else None)


def _open_loopback(made: Plan, after: Publication, context: Context) -> None:
    for target in after.targets:
        way = localnet_of(context, target) if target.version == 4 else None
        if way is not None:
            made.additions.append(Operation(way, "127.0.0.1 leads to published ports"))
            made.add(way)


def _claims(made: Plan, after: Publication, context: Context) -> None:
    """CniError 103 naming the container that has one of the ports."""
    held = made.first(PortClaims)
    wanted = claims_of(context, after.forwards).claims
    there = held.claims if held is not None else ()
    fresh = tuple(item for item in wanted if item not in there)
    gone = tuple(item for item in there if item not in wanted)
    if fresh:
        made.additions.append(Operation(PortClaims(fresh), "claims of the ports"))
    if gone:
        made.removals.append(Operation(PortClaims(gone), "no claims of the ports"))
    new = PortClaims(wanted) if wanted else None
    if held is not None:
        made.swap(held, new)
    elif new is not None:
        made.add(new)


def _port_config(made: Plan, changes: Changes) -> None:
    runtime = fold(made.config, "runtimeConfig")
    if not isinstance(runtime, dict):
        runtime = {}
        _put(made.config, "runtimeConfig", runtime)
    listed = fold(runtime, "portMappings")
    mappings = listed if isinstance(listed, list) else []
    doomed = {(item.protocol, item.host_port) for item in (*changes.no_ports, *changes.ports)}
    kept = [item for item in mappings if _mapping_key(item) not in doomed]
    _put(runtime, "portMappings", kept + [_mapping(item) for item in changes.ports])


def _mapping_key(item: Any) -> tuple[str, object]:
    return str(fold(item, "protocol") or "tcp").lower(), fold(item, "hostPort")


def _mapping(item: PortMap) -> JsonObject:
    document: JsonObject = {
        "hostPort": item.host_port,
        "containerPort": item.container_port,
        "protocol": item.protocol,
    }
    return document | ({"hostIP": str(item.host_ip)} if item.host_ip is not None else {})


def _limits(made: Plan, changes: Changes, context: Context) -> None:
    document = _of_type(made.config, "bandwidth")
    if document is None:
        made.problems.append("bandwidth: this network has no plugin that limits rates (bandwidth)")
        return
    found = links.find(context.sandbox, context.call.ifname)
    mtu = found.mtu if found is not None else 1500
    receiving, sending = made.first(LimitReceiving), made.first(LimitSending)
    ways: tuple[tuple[str, LimitReceiving | LimitSending | None], ...] = (
        ("ingress", receiving),
        ("egress", sending),
    )
    for way, old in ways:
        asked = [key for key in changes.limits if key.startswith(way) or key == "latency"]
        if not asked:
            continue
        rate = changes.limits.get(f"{way}Rate", old.rate if old is not None else 0)
        burst = changes.limits.get(f"{way}Burst", old.burst if old is not None else 0)
        latency = changes.limits.get("latency", old.latency if old is not None else 25)
        if bool(rate) != bool(burst) and rate:
            made.problems.append(f"{way}Rate is {rate} and {way}Burst 0: a rate needs its burst")
            continue
        if old is None:
            if rate:
                made.problems.append(f"{way}Rate: there is no limit yet that could be changed: attach anew")
            continue
        if not rate:
            name = old.name
            made.removals.append(
                Operation(old, f"no {way} limit of {name}", "what waits in the bucket is lost")
            )
            made.swap(old, None)
            continue
        name, mac = _bucket(old)
        change = BucketChange(name, mac, mtu, (old.rate, old.burst, old.latency), (rate, burst, latency))
        made.switches.append(Operation(change, f"{way}Rate {old.rate} → {rate} bit/s"))
        made.swap(old, replace(old, rate=rate, burst=burst, latency=latency))
    for key, value in changes.limits.items():
        _put(document, key, value)


def _flags(made: Plan, changes: Changes, context: Context) -> None:
    document = _of_type(made.config, "bridge")
    port = made.first(BridgePort)
    if document is None or port is None:
        made.problems.append(f"{', '.join(changes.flags)}: this network is no bridge")
        return
    for key, value in changes.flags.items():
        _put(document, key, value)
        if key == "macspoofchk":
            _spoof(made, port, value, context)
            continue
        flag = "ISOLATED" if key == "portIsolation" else "HAIRPIN"
        before = port.isolated if flag == "ISOLATED" else port.hairpin
        if before == value:
            continue
        step = PortFlags(port.name, port.mac, ((flag, value),), ((flag, before),))
        made.switches.append(Operation(step, f"{key} of {port.name} {before} → {value}".lower()))
        after = replace(port, isolated=value) if flag == "ISOLATED" else replace(port, hairpin=value)
        made.swap(port, after)
        port = after


def _spoof(made: Plan, port: BridgePort, value: bool, context: Context) -> None:
    old = made.first(SpoofCheck)
    if value and old is None:
        found = links.find(context.sandbox, context.call.ifname)
        mac = made.result.container_interface(context.call.ifname).mac.lower()
        if found is not None and found.mac != mac:
            made.problems.append(
                f"macspoofchk: {context.call.ifname} has MAC address {found.mac} and was given {mac}: "
                "all that it sends would be dropped"
            )
            return
        step = SpoofCheck(port.name, mac)
        made.additions.append(Operation(step, f"{port.name} may send from {mac} only"))
        made.add(step, BridgePort)
    elif not value and old is not None:
        made.removals.append(Operation(old, f"{old.port} may send from any MAC address"))
        made.swap(old, None)


def _sysctls(made: Plan, changes: Changes, context: Context) -> None:
    document = _of_type(made.config, "tuning")
    if document is None:
        made.problems.append("sysctl: this network has no plugin that sets sysctls (tuning)")
        return
    listed = dict(fold(document, "sysctl") or {})
    for name, value in changes.sysctls.items():
        path = name.replace("IFNAME", context.call.ifname, 1).translate(str.maketrans("./", "/."))
        if "/" in name:
            path = name.replace("IFNAME", context.call.ifname, 1)
        path = path.lstrip("/")
        if not path.startswith("net/") or any(part in {"", ".", ".."} for part in path.split("/")):
            made.problems.append(f"sysctl {name!r} is not one of the network's")
            continue
        path = path.removeprefix("net/")
        found = sysctl.read(context.inside, path)
        if found is None:
            made.problems.append(f"this kernel has no sysctl net/{path} in the container")
            continue
        old = next((item for item in made.steps if isinstance(item, Sysctl) and item.name == path), None)
        listed[name] = value
        if found.split() != value.split():
            made.switches.append(
                Operation(Sysctl(path, found, value), f"net/{path} {found.strip()} → {value}")
            )
        if old is not None:
            made.swap(old, replace(old, after=value))
        elif found.split() != value.split():
            made.add(Sysctl(path, found, value))
    _put(document, "sysctl", listed)


def _dns(made: Plan, changes: Changes, context: Context) -> None:
    old = made.result.dns
    new = Dns(
        changes.dns.get("nameservers", old.nameservers),
        " ".join(changes.dns.get("domain", (old.domain,) if old.domain else ())),
        changes.dns.get("search", old.search),
        changes.dns.get("options", old.options),
    )
    call = context.call
    for place in MESOS_FILES:
        path = str(call.roots.relocate(f"{place}/{call.container_id}/resolv.conf"))
        text = dns_file.read(path) if Path(path).exists() else None
        if text is None:
            continue
        after = resolv_conf(new)
        if after != text:
            step = DnsFile(path, text, after)
            effect = "no packet is lost; Java, nscd and glibc before 2.26 read it at their start only"
            made.switches.append(Operation(step, f"{path} written in place", effect))
        break
    else:
        made.problems.append(
            f"dns: no agent wrote a resolv.conf for container {call.container_id}: it uses the host's, or "
            "one of its runtime's, which are not ours to change"
        )
    made.result = replace(made.result, dns=new)
    document = next((item for item in documents(made.config) if fold(item, "ipam") is not None), made.config)
    listed = {
        "nameservers": list(new.nameservers),
        "search": list(new.search),
        "options": list(new.options),
    } | ({"domain": new.domain} if new.domain else {})
    _put(document, "dns", {key: value for key, value in listed.items() if value})


def resolv_conf(dns: Dns) -> str:
    """As a Mesos agent writes it."""
    lines = [f"domain {dns.domain}"] if dns.domain else []
    lines += [f"search {' '.join(dns.search)}"] if dns.search else []
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    lines += [f"nameserver {item}" for item in dns.nameservers]
    return "".join(f"{line}\n" for line in lines)


def _labels(made: Plan, changes: Changes, context: Context) -> None:
    """Groups and labels of a Mesos task as the record has them, for whoever enforces what they mean."""
    args = fold(made.config, "args")
    own = args.get("org.apache.mesos") if isinstance(args, dict) else None
    info = fold(own, "network_info") if isinstance(own, dict) else None
    if not isinstance(info, dict):
        made.problems.append("groups and labels are a Mesos task's, and no agent attached this container")
        return
    if changes.groups is not None:
        _put(info, "groups", list(changes.groups))
    if changes.labels:
        labels = fold(info, "labels")
        there = fold(labels, "labels") if isinstance(labels, dict) else None
        listed = [
            item
            for item in (there if isinstance(there, list) else [])
            if isinstance(item, dict) and fold(item, "key") not in changes.labels
        ]
        listed += [{"key": key, "value": value} for key, value in changes.labels.items()]
        _put(info, "labels", {"labels": listed})
