"""Routing by source address in a container: what an interface's address sends leaves by that interface.

A rule for each address leads to a table, which has the interface's routes; they leave the main table. All of
it is the container's and goes with it.
"""

import errno
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_interface

from cni_plugins.kernel import interface, routes, rules, verify
from cni_plugins.kernel.rules import Rule
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Address, Route
from cni_plugins.spec.values import Ip, IpInterface, parse_cidr
from cni_plugins.steps import routing_tables
from cni_plugins.steps.addresses import whole
from cni_plugins.steps.context import Context
from cni_plugins.steps.link_state import LinkRoute, by_reach, main_routes
from cni_plugins.steps.step import Step, step

_OUT_OF_REACH = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL))
_ALLOWED = _OUT_OF_REACH | {errno.EEXIST}
_DEFAULT = {4: parse_cidr("0.0.0.0/0"), 6: parse_cidr("::/0")}


@dataclass(frozen=True, slots=True)
class Source:
    """Packets from `address` are looked up in `table`, whose default route leads to `gateway` if one is
    named, else where the interface's does.
    """

    address: IpInterface
    table: int
    gateway: Ip | None = None

    @property
    def rule(self) -> Rule:
        return Rule(self.address.version, self.table, source=whole(self.address.ip))

    def concerns(self, item: LinkRoute) -> bool:
        """Whether a route of the interface is one of this address: it has a source or gateway of its subnet,
        or neither.
        """
        network, gateway = self.address.network, item.route.gw
        if item.source is None and gateway is None:
            return True
        return any(ip is not None and ip in network for ip in (item.source, gateway))


@step
class SourceRouting(Step):
    """`moved` are the routes that are copied to the tables, of which `removed` leave the main table and
    `hints` (subnets with a preferred source) come to it. With none of them the tables are somebody else's.
    """

    ifname: str
    sources: tuple[Source, ...]
    moved: tuple[LinkRoute, ...] = ()
    removed: tuple[LinkRoute, ...] = ()
    hints: tuple[LinkRoute, ...] = ()

    def _routes(self) -> list[LinkRoute]:
        """What the tables hold. A default route of the interface stands behind a gateway that is named."""
        listed = []
        for source in self.sources:
            default = _DEFAULT[source.address.version]
            if source.gateway is not None:
                route = Route(default, source.gateway, table=source.table)
                listed.append(LinkRoute(route, routes.PROTOCOL_BOOT))
            for item in self.moved:
                if source.concerns(item):
                    route = replace(item.route, table=source.table)
                    if source.gateway is not None and route.dst == default:
                        route = replace(route, priority=1 + (route.priority or 0))
                    listed.append(replace(item, route=route))
        return listed

    def apply(self, context: Context) -> None:
        """The lock of the container's tables is held. CniError 999."""
        index = interface.index_of(context.inside, self.ifname)
        if not index:
            raise CniError(Code.INTERNAL, f"the container has no interface {self.ifname} any more")
        leading = [rules.add(source.rule) for source in self.sources]
        filling = [replace(item.add(index), allow=_ALLOWED) for item in self._routes()]
        for message, answer in zip(
            filling, context.sandbox.request(*leading, *filling)[len(leading) :], strict=True
        ):
            if answer.error in _OUT_OF_REACH:
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"cannot {message.doing}: no address of {self.ifname} reaches that gateway",
                    "it comes from gateways, else from prevResult",
                )
        context.sandbox.request(
            *(routes.delete(item.route, index, protocol=item.protocol) for item in self.removed),
            *(item.add(index) for item in self.hints),
        )

    def undo(self, context: Context) -> None:
        if context.sandbox_namespace is None:
            return
        netlink = context.sandbox
        there = [rule for version in (4, 6) for rule in rules.every(netlink, version)]
        for source in self.sources:
            netlink.request(*(rules.delete(rule) for rule in there if _leads(rule, source)))
        index = interface.index_of(context.inside, self.ifname)
        if not index or not self._owns_tables():
            return
        tables = {source.table for source in self.sources}
        for version in {source.address.version for source in self.sources}:
            found = [item for item in routes.every(netlink, version) if item.route.table in tables]
            netlink.request(
                *(
                    routes.delete(item.route, index, protocol=item.protocol)
                    for item in found
                    if item.index == index
                )
            )
        netlink.request(*(routes.delete(item.route, index, protocol=item.protocol) for item in self.hints))
        for item in by_reach(self.removed):
            with suppress(CniError):  # its gateway is out of reach by now: the interface is on its way out
                netlink.request(item.add(index))

    def _owns_tables(self) -> bool:
        return bool(self.moved) or any(source.gateway is not None for source in self.sources)

    def _missing(self, context: Context) -> list[Source]:
        versions = {source.address.version for source in self.sources}
        there = [rule for version in versions for rule in rules.every(context.sandbox, version)]
        return [source for source in self.sources if not any(_leads(rule, source) for rule in there)]

    def check(self, context: Context) -> None:
        for source in self._missing(context):
            raise CniError(
                Code.INTERNAL,
                f"the rule that leads packets from {source.address.ip} to table {source.table} is gone",
                f"ip rule add from {source.address.ip} table {source.table}",
            )
        verify.route_list(context.sandbox, [item.route for item in self._routes()])

    def restore(self, context: Context) -> None:
        missing = self._missing(context)
        index = interface.index_of(context.inside, self.ifname)
        if index:
            there = {item.route for version in (4, 6) for item in routes.every(context.sandbox, version)}
            lost = [item.add(index) for item in by_reach(self._routes()) if item.route not in there]
            context.sandbox.request(*(rules.add(source.rule) for source in missing), *lost)


def _leads(rule: Rule, source: Source) -> bool:
    return rule.table == source.table and rule.source == whole(source.address.ip)


def own_tables(
    context: Context, ifname: str, ips: Sequence[Address], first: int, gateways: Sequence[Ip], *, hints: bool
) -> SourceRouting:
    """The step that gives each address of an interface a table, from `first` on, with a gateway of the family
    out of `gateways` or its own, and moves the interface's routes there; with `hints` those to its subnets
    stay, too. The lock of the container's tables is held. CniError 999.
    """
    index = interface.index_of(context.inside, ifname)
    moved = tuple(main_routes(context.sandbox, index))
    tables = routing_tables.free(context, first, len(ips))
    sources = tuple(_source(entry, table, moved, gateways) for entry, table in zip(ips, tables, strict=True))
    if not hints:
        return SourceRouting(ifname, sources, moved, moved)
    removed = tuple(item for item in moved if item.route.scope != routes.SCOPE_LINK)
    return SourceRouting(ifname, sources, moved, removed, tuple(_hints(ips, moved)))


def _hints(ips: Sequence[Address], there: Sequence[LinkRoute]) -> Iterable[LinkRoute]:
    """The routes to the subnets that are not in the main table with their preferred source already."""
    for entry in ips:
        subnet, source = ip_interface(str(entry.address.network)), entry.address.ip
        if not any(item.route.dst == subnet and item.source == source for item in there):
            scope = routes.SCOPE_LINK if subnet.version == 4 else None
            yield LinkRoute(Route(subnet, scope=scope), routes.PROTOCOL_BOOT, source)


def _source(entry: Address, table: int, there: Iterable[LinkRoute], gateways: Sequence[Ip]) -> Source:
    """Its gateway is one of `gateways`, else prevResult's if the interface has no default route."""
    bare = Source(entry.address, table)
    named = next((ip for ip in gateways if ip.version == entry.address.version), None)
    defaults = [item for item in there if not item.route.dst.network.prefixlen and bare.concerns(item)]
    return replace(bare, gateway=named or (None if defaults else entry.gateway))
