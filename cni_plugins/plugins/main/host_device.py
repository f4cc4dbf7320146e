"""host-device: a network device of the host, moved into the container.

It is the one that `device`, `hwaddr`, `kernelpath` or `pciBusID` names (the first of them that is given), or
`runtimeConfig.deviceID` (PCI or auxiliary bus), which counts before them. DEL gives it back with the name,
MTU, MAC address, addresses, routes and state that it had, whatever the task called it; if another link of the
host has its name by then, DEL fails and the device stays in the container. A physical device also comes back
from a namespace that is gone; the kernel destroys a virtual one with it. Without `ipam` it is up and has no
address. A device that a userspace driver has (vfio-pci, uio_pci_generic, igb_uio) is left alone: the
container gets addresses in the result only.

    {"cniVersion": "1.0.0", "name": "fast", "type": "host-device", "pciBusID": "0000:3d:00.1",
     "ipam": {"type": "static", "addresses": [{"address": "192.0.2.9/24", "gateway": "192.0.2.1"}]}}
"""

from dataclasses import dataclass, replace
from typing import Any

from cni_plugins.attach import delegation, hardware, policing, wishes
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import devices, interface, links
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import INTERFACE_NAME, MAC_ADDRESS, TEXT, is_interface_name, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Interface, Result
from cni_plugins.steps import registry
from cni_plugins.steps.addresses import Addresses
from cni_plugins.steps.context import Context
from cni_plugins.steps.host_device import HostDevice, moved
from cni_plugins.steps.step import Step


@dataclass(frozen=True, slots=True)
class HostDeviceConfig:
    device: str = option("device", INTERFACE_NAME, "", "its name on the host")
    mac: str | None = option("hwaddr", MAC_ADDRESS, None, "its MAC address")
    path: str = option("kernelpath", TEXT, "", "its directory below /sys/devices/")
    pci: str = option("pciBusID", TEXT, "", "its PCI address, such as 0000:3d:00.1")
    policy: str = option("policy", policing.POLICY, "", policing.POLICY_ABOUT)
    policy_labels: tuple[str, ...] = option("policyLabels", policing.LABELS, (), policing.LABELS_ABOUT)


def _wanted(config: HostDeviceConfig) -> hardware.Wanted:
    return hardware.Wanted(config.device, config.mac, config.path, config.pci)


def validate(call: Call, config: HostDeviceConfig) -> None:
    wishes.validate(call)
    hardware.place(call, _wanted(config))


def add(call: Call, config: HostDeviceConfig, tx: Transaction) -> Result:
    interface.require_free(tx.context.inside, call.ifname)
    wanted = _wanted(config)
    link = None if hardware.is_userspace(call, wanted) else hardware.find(call, wanted, tx.context)
    late = delegation.needs_link(call, tx.context.plugins)
    ipam = Result() if late else delegation.addresses(call, tx)
    mac = link.mac if link is not None else ""
    said = policing.Judged(config.policy, config.policy_labels)
    policy = policing.judged(call, said, ipam.ips) if link is not None else None
    if policy is not None:
        tx.apply(policy)
    if link is not None:
        tx.apply(moved(tx.context, link, call.ifname))
    if late:
        ipam = delegation.addresses(call, tx)
        known = policing.judged(call, said, ipam.ips)
        if policy is not None and known is not None:
            tx.renew(policy, known)
    if link is not None:
        tx.apply(Addresses(call.ifname, ipam.ips, ipam.routes))
    return Result(
        interfaces=(Interface(call.ifname, mac, call.netns_path),),
        ips=tuple(replace(entry, interface=0) for entry in ipam.ips),
        routes=ipam.routes,
        dns=wishes.dns(call, ipam.dns),
    )


def steps(call: Call, config: HostDeviceConfig, context: Context, result: Result) -> list[Step]:
    inside = result.container_interface(call.ifname)
    if not inside.mac and hardware.is_userspace(call, _wanted(config)):
        return []
    device = HostDevice(config.device, call.ifname, 0, "", inside.mac, 0, 0)
    ips = result.ips_of(call.ifname)
    policy = policing.judged(call, policing.Judged(config.policy, config.policy_labels), ips)
    first = [] if policy is None else [policy]
    return [*first, device, Addresses(call.ifname, ips, result.routes)]


def check(call: Call, config: HostDeviceConfig, context: Context) -> None:
    """The MAC address is prevResult's."""
    wanted = (call.previous or Result()).container_interface(call.ifname).mac.lower()
    link = links.find(context.sandbox, call.ifname)
    if wanted and link is not None and link.mac != wanted:
        raise CniError(Code.INTERNAL, f"{call.ifname} has MAC address {link.mac}, prevResult says {wanted}")


def status(call: Call, config: HostDeviceConfig, context: Context) -> None:
    wanted = _wanted(config)
    if not hardware.is_userspace(call, wanted):
        hardware.find(call, wanted, context)


def remove_legacy(call: Call, config: HostDeviceConfig, context: Context) -> None:
    """Give back what the reference plugin moved: the alias is the name that it had. A virtual device whose
    alias is not the configured name may be the task's own.
    """
    if context.sandbox_namespace is None or context.interface_is_recorded():
        return
    link = links.find(context.sandbox, call.ifname)
    if link is not None and is_interface_name(link.alias) and (not link.kind or link.alias == config.device):
        known = devices.identity(context.inside, link.name)
        HostDevice(link.alias, link.name, known, link.kind, link.mac, link.mtu, link.queue).undo(context)


PLUGIN: Plugin[Any] = Plugin(
    name="host-device",
    kind=Kind.MAIN,
    about="a network device of the host, moved into the container",
    config=HostDeviceConfig,
    add=add,
    kinds=(registry.Kind.POLICY_ENDPOINT,),
    validate=validate,
    check=check,
    steps=steps,
    status=status,
    remove_legacy=remove_legacy,
)
