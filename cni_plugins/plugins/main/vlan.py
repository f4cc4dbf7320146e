"""vlan: an interface of the container's own for the frames of one VLAN of a link of the host.

It is made on `master` directly in the container's namespace; with `linkInContainer` the master is looked for
there. A master may itself be a VLAN's link (802.1Q in 802.1Q). A link has each VLAN once, on the whole host:
the second container that asks for it is refused. The MAC address is the master's. The addresses are announced
(ARP, neighbour advertisement). Without `ipam` the interface is up and has no address.

    {"cniVersion": "1.0.0", "name": "storage", "type": "vlan", "master": "eth0", "vlanId": 100,
     "ipam": {"type": "host-local", "subnet": "192.168.100.0/24", "rangeStart": "192.168.100.200"}}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cni_plugins.attach import child_link, policing, wishes
from cni_plugins.attach.child_link import Child
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.plugins.main import legacy
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import BOOL, INTERFACE_NAME, integer, mtu, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.steps import registry
from cni_plugins.steps.child_link import Attribute
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step

_ID = 1  # IFLA_VLAN_ID, linux/if_link.h


@dataclass(frozen=True, slots=True)
class VlanConfig:
    master: str = option("master", INTERFACE_NAME, "", "the host's link (required)")
    vlan: int = option("vlanId", integer(0, 4094), 0, "the VLAN; frames of 0 carry a priority alone")
    mtu: int = option("mtu", mtu(65535), 0, "MTU, not above the master's; 0 takes the master's")
    in_container: bool = option("linkInContainer", BOOL, False, "the master is a link of the container")
    dad: bool = option("enabledad", BOOL, False, "detect duplicate IPv6 addresses, which takes 2 s")
    policy: str = option("policy", policing.POLICY, "", policing.POLICY_ABOUT)
    policy_labels: tuple[str, ...] = option("policyLabels", policing.LABELS, (), policing.LABELS_ABOUT)


def _require_master(config: VlanConfig) -> None:
    if not config.master:
        raise CniError(
            Code.INVALID_CONFIG,
            '"master" field is required. It specifies the host interface name to create the VLAN for',
            'key \'master\' is missing; name the link of the VLAN: "master": "eth0"',
        )


def validate(call: Call, config: VlanConfig) -> None:
    _require_master(config)
    wishes.validate(call)


def _child(config: VlanConfig) -> Child:
    return Child(
        kind="vlan",
        attributes=(Attribute("IFLA_VLAN_ID", config.vlan, _ID, config.vlan),),
        master=config.master,
        in_container=config.in_container,
        mtu=config.mtu,
        own_mac=False,
        dad=config.dad,
        judged=policing.Judged(config.policy, config.policy_labels),
    )


def add(call: Call, config: VlanConfig, tx: Transaction) -> Result:
    return child_link.add(call, _child(config), tx)


def steps(call: Call, config: VlanConfig, context: Context, result: Result) -> Sequence[Step]:
    _require_master(config)
    return child_link.steps(call, _child(config), context, result)


def status(call: Call, config: VlanConfig, context: Context) -> None:
    _require_master(config)
    if not config.in_container:
        child_link.find_master(_child(config), context)


PLUGIN: Plugin[Any] = Plugin(
    name="vlan",
    kind=Kind.MAIN,
    about="an interface for one VLAN of a link of the host",
    config=VlanConfig,
    add=add,
    kinds=(registry.Kind.POLICY_ENDPOINT,),
    validate=validate,
    steps=steps,
    status=status,
    remove_legacy=legacy.link_of("vlan"),
)
