"""host-device: a network device of the host, moved into the container.

It is the one that `device`, `hwaddr`, `kernelpath` or `pciBusID` names (the first of them that is given), or
`runtimeConfig.deviceID` (PCI or auxiliary bus), which counts before them. DEL gives it back with the name,
MTU, MAC address, addresses, routes and state that it had, whatever the task called it; if another link of the
host has its name by then, DEL fails and the device stays in the container. A physical device also comes back
from a namespace that is gone; the kernel destroys a virtual one with it. Without `ipam` it is up and has no
address. A device that a userspace driver has (vfio-pci, uio_pci_generic, igb_uio) is left alone: the
container gets addresses in the result only.

    {"name": "fast", "type": "host-device", "pciBusID": "0000:3d:00.1",
     "ipam": {"type": "static", "addresses": [{"address": "192.0.2.9/24", "gateway": "192.0.2.1"}]}}
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cni_plugins.attach import delegation, wishes
from cni_plugins.attach.plugin import Kind, Plugin
from cni_plugins.attach.transaction import Transaction
from cni_plugins.kernel import devices, interface, links
from cni_plugins.kernel.links import Link
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import INTERFACE_NAME, MAC_ADDRESS, TEXT, is_interface_name, option
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.result import Interface, Result
from cni_plugins.steps.addresses import Addresses
from cni_plugins.steps.context import Context
from cni_plugins.steps.host_device import HostDevice, moved
from cni_plugins.steps.step import Step

_BUSES = {"pci": "/sys/bus/pci/devices", "auxiliary": "/sys/bus/auxiliary/devices"}
_DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class HostDeviceConfig:
    device: str = option("device", INTERFACE_NAME, "", "its name on the host")
    mac: str | None = option("hwaddr", MAC_ADDRESS, None, "its MAC address")
    path: str = option("kernelpath", TEXT, "", "its directory below /sys/devices/")
    pci: str = option("pciBusID", TEXT, "", "its PCI address, such as 0000:3d:00.1")


def validate(call: Call, config: HostDeviceConfig) -> None:
    wishes.validate(call)
    _place(call, config)


def _place(call: Call, config: HostDeviceConfig) -> tuple[str, Path] | None:
    """The key that names hardware, and where sysfs has it; None when a name or MAC address is given."""
    asked = call.runtime("deviceID")
    if asked:
        for bus in _BUSES.values():
            place = call.roots.relocate(f"{bus}/{_plain('runtimeConfig.deviceID', asked)}")
            if place.exists():
                return "runtimeConfig.deviceID", place
        raise CniError(
            Code.INVALID_CONFIG,
            f"runtimeConfig.deviceID is {asked!r}: no device on a bus of this node",
        )
    if config.device or config.mac:
        return None
    if config.path:
        if not config.path.startswith("/sys/devices/") or ".." in config.path.split("/"):
            raise CniError(Code.INVALID_CONFIG, f"kernelpath is {config.path!r}, not below /sys/devices/")
        return "kernelpath", call.roots.relocate(config.path)
    if config.pci:
        return "pciBusID", call.roots.relocate(f"{_BUSES['pci']}/{_plain('pciBusID', config.pci)}")
    raise CniError(
        Code.INVALID_CONFIG,
        "no device is named",
        'specify either "device", "hwaddr", "kernelpath" or "pciBusID", or runtimeConfig.deviceID',
    )


def _plain(key: str, value: object) -> str:
    if not isinstance(value, str) or not _DEVICE_ID.fullmatch(value):
        raise CniError(Code.INVALID_CONFIG, f"{key} is {value!r}, not a device's name on a bus")
    return value


def _is_userspace(call: Call, config: HostDeviceConfig) -> bool:
    found = _place(call, config)
    return found is not None and devices.driver(found[1]) in devices.USERSPACE_DRIVERS


def _find(call: Call, config: HostDeviceConfig, context: Context) -> Link:
    """The device on the host. CniError 7 when it is not there."""
    found = _place(call, config)
    if found is not None:
        key, value = found[0], str(found[1])
        name = devices.interface_of(found[1])
        link = links.find(context.host, name) if name else None
    elif config.device:
        key, value, link = "device", config.device, links.find(context.host, config.device)
    else:
        key, value = "hwaddr", str(config.mac)
        link = next((item for item in links.every(context.host) if item.mac == config.mac), None)
    if link is None:
        raise CniError(
            Code.INVALID_CONFIG,
            f"{key} is {value}, and the host has no such network device",
            "it may be in another container already",
        )
    if link.flags & links.IFF_LOOPBACK:
        raise CniError(Code.INVALID_CONFIG, f"{key} is {value}: the loopback interface cannot leave the host")
    return link


def add(call: Call, config: HostDeviceConfig, tx: Transaction) -> Result:
    interface.require_free(tx.context.inside, call.ifname)
    link = None if _is_userspace(call, config) else _find(call, config, tx.context)
    late = delegation.needs_link(call, tx)
    ipam = Result() if late else delegation.addresses(call, tx)
    mac = link.mac if link is not None else ""
    if link is not None:
        tx.apply(moved(tx.context, link, call.ifname))
    if late:
        ipam = delegation.addresses(call, tx)
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
    if not inside.mac and _is_userspace(call, config):
        return []
    device = HostDevice(config.device, call.ifname, 0, "", inside.mac, 0, 0)
    return [device, Addresses(call.ifname, result.ips_of(call.ifname), result.routes)]


def check(call: Call, config: HostDeviceConfig, context: Context) -> None:
    """The MAC address is prevResult's."""
    wanted = (call.previous or Result()).container_interface(call.ifname).mac.lower()
    link = links.find(context.sandbox, call.ifname)
    if wanted and link is not None and link.mac != wanted:
        raise CniError(Code.INTERNAL, f"{call.ifname} has MAC address {link.mac}, prevResult says {wanted}")


def status(call: Call, config: HostDeviceConfig, context: Context) -> None:
    if not _is_userspace(call, config):
        _find(call, config, context)


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
    validate=validate,
    check=check,
    steps=steps,
    status=status,
    remove_legacy=remove_legacy,
)
