"""vrf: the interface in a routing domain of the container, which has routes of its own.

The VRF `vrfname` is made when the container has none of that name, and is there for all interfaces that name
it; it goes with the last of them. Addresses and routes of the interface move to the table of the VRF:
`table`, or the first from 1 on that no VRF, rule or route has. Programs choose a VRF by binding to it (`ip
vrf exec`, SO_BINDTODEVICE).

    {"cniVersion": "1.0.0", "name": "blue-net", "type": "vrf", "vrfname": "blue",
     "delegate": {"type": "bridge", "bridge": "blue0", "isGateway": true,
                  "ipam": {"type": "host-local", "subnet": "10.50.13.0/24"}}}
"""

from dataclasses import dataclass
from typing import Any

from cni_plugins.attach import policing
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import links
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import INTERFACE_NAME, integer, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.steps import routing_tables
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step
from cni_plugins.steps.vrf import VrfPort, find

_FIRST_TABLE = 1


@dataclass(frozen=True, slots=True)
class VrfConfig:
    vrf: str = option("vrfname", INTERFACE_NAME, "", "name of the VRF in the container (required)")
    table: int = option("table", integer(0, 2**32 - 1), 0, "its routing table; 0 takes a free one")


def validate(call: Call, config: VrfConfig) -> None:
    if not config.vrf:
        raise CniError(
            Code.INVALID_CONFIG,
            "configuration is expected to have a valid vrf name",
            'key \'vrfname\' is missing; name the VRF: "vrfname": "blue"',
        )
    if config.vrf == call.ifname:
        raise CniError(
            Code.INVALID_CONFIG, f"vrfname is {config.vrf!r}, the interface's own name (CNI_IFNAME)"
        )
    if config.table in {253, 254, 255}:
        raise CniError(
            Code.INVALID_CONFIG,
            f"table is {config.table}, which is the container's own (default, main or local)",
        )


def add(call: Call, config: VrfConfig, tx: Transaction) -> Result:
    assert call.previous is not None
    policing.require_not_inside(call, config.vrf)
    with routing_tables.guarded(call, tx.context.inside):
        tx.apply(VrfPort(config.vrf, _table(config, tx.context), links.random_mac(), call.ifname))
    return call.previous


def _table(config: VrfConfig, context: Context) -> int:
    there = find(context.sandbox, config.vrf)
    if there is None:
        return config.table or routing_tables.free(context, _FIRST_TABLE, 1)[0]
    table = routing_tables.vrf_table(there)
    if config.table not in {0, table}:
        raise CniError(
            Code.INVALID_CONFIG,
            f"VRF {config.vrf} already exist with different routing table {table}",
            f"table is {config.table}, and the container has VRF {config.vrf} with table {table} already: "
            "leave table out, or choose another vrfname",
        )
    return table


def steps(call: Call, config: VrfConfig, context: Context, result: Result) -> list[Step]:
    validate(call, config)
    return [VrfPort(config.vrf, config.table, "", call.ifname)]


def remove_legacy(call: Call, config: VrfConfig, context: Context) -> None:
    """Take out what the reference plugin put in, and remove its VRF with the last interface."""
    if config.vrf and context.sandbox_namespace is not None and not context.interface_is_recorded():
        link = links.find(context.sandbox, config.vrf)
        if link is not None and link.kind == "vrf":
            VrfPort(config.vrf, 0, link.mac, call.ifname).undo(context)


PLUGIN: Plugin[Any] = Plugin(
    name="vrf",
    kind=Kind.META,
    about="put an interface into a routing domain of its container",
    config=VrfConfig,
    add=add,
    validate=validate,
    steps=steps,
    remove_legacy=remove_legacy,
)
