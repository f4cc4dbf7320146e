"""macvlan: an interface of the container's own on a link of the host, with a MAC address of its own.

It is made on `master` (unless told, the link of the first default route) directly in the container's
namespace; with `linkInContainer` the master is looked for there. Frames leave by the master as they are, so
the network sees the container as one more machine; the host itself does not reach it that way. The addresses
are announced (ARP, neighbour advertisement). Without `ipam` the interface is up and has no address.

    {"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "eth0", "mode": "bridge",
     "ipam": {"type": "host-local", "subnet": "192.168.7.0/24", "rangeStart": "192.168.7.200"}}
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
from cni_plugins.spec.config import BOOL, INTERFACE_NAME, MAC_ADDRESS, integer, mtu, one_of, option
from cni_plugins.spec.result import Result
from cni_plugins.steps import registry
from cni_plugins.steps.child_link import Attribute
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step

# linux/if_link.h
_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
_MODE, _QUEUE = 1, 7


@dataclass(frozen=True, slots=True)
class MacvlanConfig:
    master: str | None = option(
        "master", INTERFACE_NAME, None, "the host's link; default that of the first default route"
    )
    mode: str = option("mode", one_of(*_MODES), "bridge", "who of one master reaches whom")
    mtu: int = option("mtu", mtu(65535), 0, "MTU, not above the master's; 0 takes the master's")
    mac: str | None = option("mac", MAC_ADDRESS, None, "MAC address; default a random one")
    mac_from_ip: bool = option("macFromIP", BOOL, False, "make the MAC address of the first IP address")
    in_container: bool = option("linkInContainer", BOOL, False, "the master is a link of the container")
    queue: int = option(
        "bcqueuelen", integer(0, 2**32 - 1), 0, "queue for broadcast frames; 0 takes the kernel's, 1000"
    )
    dad: bool = option("enabledad", BOOL, False, "detect duplicate IPv6 addresses, which takes 2 s")
    policy: str = option("policy", policing.POLICY, "", policing.POLICY_ABOUT)
    policy_labels: tuple[str, ...] = option("policyLabels", policing.LABELS, (), policing.LABELS_ABOUT)


def validate(call: Call, config: MacvlanConfig) -> None:
    wishes.validate(call, mac_address=config.mac)


def _child(config: MacvlanConfig) -> Child:
    mode = Attribute("IFLA_MACVLAN_MODE", config.mode, _MODE, _MODES[config.mode])
    queue = Attribute("IFLA_MACVLAN_BC_QUEUE_LEN", config.queue, _QUEUE)
    return Child(
        kind="macvlan",
        attributes=(mode, queue) if config.queue else (mode,),
        master=config.master,
        in_container=config.in_container,
        mtu=config.mtu,
        mac=config.mac,
        mac_from_ip=config.mac_from_ip,
        own_mac=config.mode != "passthru",
        dad=config.dad,
        judged=policing.Judged(config.policy, config.policy_labels),
    )


def add(call: Call, config: MacvlanConfig, tx: Transaction) -> Result:
    return child_link.add(call, _child(config), tx)


def steps(call: Call, config: MacvlanConfig, context: Context, result: Result) -> Sequence[Step]:
    return child_link.steps(call, _child(config), context, result)


def status(call: Call, config: MacvlanConfig, context: Context) -> None:
    if not config.in_container:
        child_link.find_master(_child(config), context)


PLUGIN: Plugin[Any] = Plugin(
    name="macvlan",
    kind=Kind.MAIN,
    about="an interface with a MAC address of its own on a link of the host",
    config=MacvlanConfig,
    add=add,
    kinds=(registry.Kind.POLICY_ENDPOINT,),
    validate=validate,
    steps=steps,
    status=status,
    remove_legacy=legacy.link_of("macvlan"),
    args=True,
)
