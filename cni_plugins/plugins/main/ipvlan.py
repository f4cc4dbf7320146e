"""ipvlan: an interface of the container's own on a link of the host, with that link's MAC address.

For networks that let one MAC address through a port (clouds, wireless). It is made on `master` (unless told,
the link of the first default route) directly in the container's namespace; with `linkInContainer` the master
is looked for there. In mode `l2` frames leave by the master as they are; in `l3` the host's namespace routes
them, without broadcast or ARP, and in `l3s` its packet filter sees them too. There a gateway outside of the
subnet needs no reaching: such routes lead to the interface alone. All ipvlan links of one master have the
mode of the last one made. The host itself does not reach them that way.

After another plugin in a list it stands on the one interface of `prevResult` (unless `master` names one), and
takes its addresses and routes if it has no `ipam` of its own. The addresses are announced in mode `l2`.
Without any the interface is up and has no address.

    {"cniVersion": "1.0.0", "name": "cloud", "type": "ipvlan", "master": "eth0", "mode": "l2",
     "ipam": {"type": "host-local", "subnet": "192.168.7.0/24", "rangeStart": "192.168.7.200"}}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cni_plugins.attach import child_link, delegation, policing, wishes
from cni_plugins.attach.child_link import Child
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel.link_kinds import IpvlanMode
from cni_plugins.plugins.main import legacy
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import BOOL, INTERFACE_NAME, mtu, one_of, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Result
from cni_plugins.steps import registry
from cni_plugins.steps.child_link import Attribute
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step

_MODE = 1  # IFLA_IPVLAN_MODE, linux/if_link.h
_MODES = {mode.name.lower(): mode for mode in IpvlanMode}


@dataclass(frozen=True, slots=True)
class IpvlanConfig:
    master: str | None = option(
        "master", INTERFACE_NAME, None, "the host's link; default prevResult's, else the default route's"
    )
    mode: str = option(
        "mode", one_of(*_MODES), "l2", "who routes: nobody, the host, the host with its filter"
    )
    mtu: int = option("mtu", mtu(65535), 0, "MTU, not above the master's; 0 takes the master's")
    in_container: bool = option("linkInContainer", BOOL, False, "the master is a link of the container")
    dad: bool = option("enabledad", BOOL, False, "detect duplicate IPv6 addresses, which takes 2 s")
    policy: str = option("policy", policing.POLICY, "", policing.POLICY_ABOUT)
    policy_labels: tuple[str, ...] = option("policyLabels", policing.LABELS, (), policing.LABELS_ABOUT)


def _child(call: Call, config: IpvlanConfig, previous: Result | None = None) -> Child:
    mode = _MODES[config.mode].value
    given = previous if previous is not None and previous.ips and not delegation.ipam_type(call) else None
    return Child(
        kind="ipvlan",
        attributes=(Attribute("IFLA_IPVLAN_MODE", mode, _MODE, mode),),
        master=config.master or _only_interface(previous),
        in_container=config.in_container,
        mtu=config.mtu,
        own_mac=False,
        dad=config.dad,
        judged=policing.Judged(config.policy, config.policy_labels),
        routed=config.mode != "l2",
        given=given,
    )


def _only_interface(previous: Result | None) -> str | None:
    if previous is None:
        return None
    names = [item.name for item in previous.interfaces]
    if len(names) != 1 or not names[0]:
        raise CniError(
            Code.INVALID_CONFIG,
            f"master is not given, and prevResult has {len(names)} interfaces ({', '.join(names)}), not one",
            'name the link: "master": "eth0"',
        )
    return names[0]


def validate(call: Call, config: IpvlanConfig) -> None:
    wishes.validate(call)


def add(call: Call, config: IpvlanConfig, tx: Transaction) -> Result:
    return child_link.add(call, _child(call, config, call.previous), tx)


def steps(call: Call, config: IpvlanConfig, context: Context, result: Result) -> Sequence[Step]:
    return child_link.steps(call, _child(call, config), context, result)


def status(call: Call, config: IpvlanConfig, context: Context) -> None:
    if not config.in_container:
        child_link.find_master(_child(call, config), context)


PLUGIN: Plugin[Any] = Plugin(
    name="ipvlan",
    kind=Kind.MAIN,
    about="an interface on a link of the host, with that link's MAC address",
    config=IpvlanConfig,
    add=add,
    kinds=(registry.Kind.POLICY_ENDPOINT,),
    validate=validate,
    steps=steps,
    status=status,
    remove_legacy=legacy.link_of("ipvlan"),
)
