"""sbr: what an address of the interface sends leaves by the interface (source based routing).

For containers with several interfaces: each address gets a rule and a routing table of its own, from 100 on,
the first that no rule, route or VRF has. The table gets a default route by the address's gateway, and the
interface's routes, which leave the main table. `gateways` replaces the gateways that prevResult names, one
for each family. With `addSourceHints` the routes to its subnets stay in the main table, with the address as
preferred source. With `table` there are the rules alone, and the routes of that table are yours (an `ipam`
route's `table`).

    {"cniVersion": "1.0.0", "name": "second", "type": "sbr", "delegate": {"type": "macvlan", "master": "eth1",
     "ipam": {"type": "host-local", "subnet": "192.168.8.0/24", "rangeStart": "192.168.8.200",
              "gateway": "192.168.8.1"}}}
"""

from dataclasses import dataclass
from typing import Any

from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import addresses, interface, links, rules
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import BOOL, IP, integer, list_of, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.spec.values import Ip
from cni_plugins.steps import routing_tables
from cni_plugins.steps.addresses import whole
from cni_plugins.steps.context import Context
from cni_plugins.steps.source_routing import Source, SourceRouting, own_tables
from cni_plugins.steps.step import Step

_FIRST_TABLE = 100


@dataclass(frozen=True, slots=True)
class SbrConfig:
    table: int | None = option(
        "table", integer(1, 2**32 - 1), None, "one table for all addresses; its routes are yours"
    )
    gateways: tuple[Ip, ...] = option(
        "gateways", list_of(IP), (), "gateways instead of prevResult's: at most one for each family"
    )
    hints: bool = option(
        "addSourceHints", BOOL, False, "keep the routes to its subnets in the main table, with a source"
    )


def validate(call: Call, config: SbrConfig) -> None:
    for version in (4, 6):
        named = [str(ip) for ip in config.gateways if ip.version == version]
        if len(named) > 1:
            raise CniError(
                Code.INVALID_CONFIG,
                f"gateways list contains multiple IPv{version} addresses: {' and '.join(named[:2])}",
                f"gateways has multiple IPv{version} addresses: {' and '.join(named)}; each family has one "
                "at most",
            )


def add(call: Call, config: SbrConfig, tx: Transaction) -> Result:
    assert call.previous is not None
    ips = call.previous.ips_of(call.ifname)
    if not call.previous.ips:
        raise CniError(Code.INVALID_CONFIG, f"prevResult has no address, and {call.ifname} needs one")
    if not interface.index_of(tx.context.inside, call.ifname):
        raise CniError(Code.INTERNAL, f"the container has no interface {call.ifname}")
    with routing_tables.guarded(call, tx.context.inside):
        if config.table is not None:
            tx.apply(SourceRouting(call.ifname, tuple(Source(entry.address, config.table) for entry in ips)))
        else:
            tx.apply(
                own_tables(tx.context, call.ifname, ips, _FIRST_TABLE, config.gateways, hints=config.hints)
            )
    return call.previous


def steps(call: Call, config: SbrConfig, context: Context, result: Result) -> list[Step]:
    """Without a record: that there are rules."""
    there = [rule for version in (4, 6) for rule in rules.every(context.sandbox, version)]
    sources = []
    for entry in result.ips_of(call.ifname):
        found = (rule.table for rule in there if rule.source == whole(entry.address.ip))
        table = config.table or next(found, 0)
        sources.append(Source(entry.address, table))
    return [SourceRouting(call.ifname, tuple(sources))]


def remove_legacy(call: Call, config: SbrConfig, context: Context) -> None:
    """The rules that the reference plugin's ADD made: those of the interface's addresses."""
    if context.sandbox_namespace is None or context.interface_is_recorded():
        return
    link = links.find(context.sandbox, call.ifname)
    if link is None:
        return
    held = {whole(item.address.ip) for item in addresses.of_link(context.sandbox, link.index)}
    there = [rule for version in (4, 6) for rule in rules.every(context.sandbox, version)]
    context.sandbox.request(
        *(rules.delete(rule) for rule in there if rule.source in held and config.table in {None, rule.table})
    )


PLUGIN: Plugin[Any] = Plugin(
    name="sbr",
    kind=Kind.META,
    about="route what an interface's addresses send by that interface",
    config=SbrConfig,
    add=add,
    validate=validate,
    steps=steps,
    remove_legacy=remove_legacy,
)
