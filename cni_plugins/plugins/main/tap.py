"""tap: a TAP device in the container, for a virtual machine or another program that reads and writes frames.

It stays when nobody has it open. Who may open it beside root is `owner` and `group`; with `multiQueue` it is
opened once for each queue, and has to be. With `bridge` it is a port of a bridge that the container has; the
machine behind it then has the addresses, so leave `ipam` out. Without `ipam` it is up and has no address.
`selinuxContext` needs a node with SELinux, and ip(8).

    {"cniVersion": "1.0.0", "name": "vm", "type": "tap", "multiQueue": true,
     "owner": 107, "group": 107, "mtu": 1400}
"""

from dataclasses import dataclass, replace
from typing import Any

from cni_plugins.attach import delegation, wishes
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import interface, links
from cni_plugins.plugins.main import legacy
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import BOOL, INTERFACE_NAME, MAC_ADDRESS, TEXT, integer, mtu, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Interface, Result
from cni_plugins.steps.addresses import Addresses
from cni_plugins.steps.context import Context
from cni_plugins.steps.step import Step
from cni_plugins.steps.tap import Tap

_ID = integer(0, 2**32 - 2)
_SELINUX = "/sys/fs/selinux/enforce"


@dataclass(frozen=True, slots=True)
class TapConfig:
    multi_queue: bool = option("multiQueue", BOOL, False, "it may be opened several times, a queue each")
    mtu: int = option("mtu", mtu(65521), 0, "MTU; 0 takes the kernel's, 1500")
    mac: str | None = option("mac", MAC_ADDRESS, None, "MAC address; default a random one")
    owner: int | None = option("owner", _ID, None, "id of the user who may open it")
    group: int | None = option("group", _ID, None, "id of the group that may open it")
    label: str = option("selinuxContext", TEXT, "", "its SELinux context, such as a container's")
    bridge: str = option("bridge", INTERFACE_NAME, "", "a bridge of the container, whose port it becomes")


def validate(call: Call, config: TapConfig) -> None:
    wishes.validate(call, mac_address=config.mac)
    if config.label and not call.roots.relocate(_SELINUX).exists():
        raise CniError(
            Code.INVALID_CONFIG,
            f"selinuxContext is {config.label!r}, and this node has no SELinux ({_SELINUX} is not there)",
            "leave the key out, or boot the node with SELinux",
        )
    if config.bridge == call.ifname:
        raise CniError(
            Code.INVALID_CONFIG, f"bridge is {config.bridge!r}, the name that the device gets (CNI_IFNAME)"
        )


def _step(call: Call, config: TapConfig, mac: str) -> Tap:
    return Tap(
        ifname=call.ifname,
        temporary=links.random_name(),
        mac=mac,
        mtu=config.mtu,
        owner=-1 if config.owner is None else config.owner,
        group=-1 if config.group is None else config.group,
        multi_queue=config.multi_queue,
        label=config.label,
        bridge=config.bridge,
    )


def add(call: Call, config: TapConfig, tx: Transaction) -> Result:
    interface.require_free(tx.context.inside, call.ifname)
    late = delegation.needs_link(call, tx.context.plugins)
    ipam = Result() if late else delegation.addresses(call, tx)
    mac = wishes.mac(call, config.mac) or links.random_mac()
    tx.apply(_step(call, config, mac))
    if late:
        ipam = delegation.addresses(call, tx)
    result = Result(
        interfaces=(Interface(call.ifname, mac, call.netns_path),),
        ips=tuple(replace(entry, interface=0) for entry in ipam.ips),
        routes=ipam.routes,
        dns=wishes.dns(call, ipam.dns),
    )
    tx.apply(_addresses(call, result))
    return result


def _addresses(call: Call, result: Result) -> Addresses:
    return Addresses(call.ifname, result.ips_of(call.ifname), result.routes)


def steps(call: Call, config: TapConfig, context: Context, result: Result) -> list[Step]:
    return [_step(call, config, result.container_interface(call.ifname).mac), _addresses(call, result)]


PLUGIN: Plugin[Any] = Plugin(
    name="tap",
    kind=Kind.MAIN,
    about="a TAP device, for a virtual machine or another program",
    config=TapConfig,
    add=add,
    validate=validate,
    steps=steps,
    remove_legacy=legacy.link_of("tun"),
    args=True,
)
