"""Which device of the host is meant: by name, MAC address, directory in sysfs, address on a bus, or the
runtime's device id.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from cni_plugins.kernel import devices, links
from cni_plugins.kernel.links import Link
from cni_plugins.spec.call import Call
from cni_plugins.spec.config import quoted, shown
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.steps.context import Context

_BUSES = {"pci": "/sys/bus/pci/devices", "auxiliary": "/sys/bus/auxiliary/devices"}
_DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The configuration's keys; the first that is given counts, `runtimeConfig.deviceID` before them."""

    device: str
    mac: str | None
    path: str
    pci: str


def place(call: Call, wanted: Wanted) -> tuple[str, Path] | None:
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
    if wanted.device or wanted.mac:
        return None
    if wanted.path:
        if not wanted.path.startswith("/sys/devices/") or ".." in wanted.path.split("/"):
            raise CniError(
                Code.INVALID_CONFIG,
                f"kernel device path {quoted(wanted.path)} must be absolute and begin with /sys/devices/",
                f"kernelpath is {shown(wanted.path)}, not below /sys/devices/",
            )
        return "kernelpath", call.roots.relocate(wanted.path)
    if wanted.pci:
        return "pciBusID", call.roots.relocate(f"{_BUSES['pci']}/{_plain('pciBusID', wanted.pci)}")
    raise CniError(
        Code.INVALID_CONFIG,
        'specify either "device", "hwaddr", "kernelpath" or "pciBusID"',
        "no device is named, by one of these keys or by runtimeConfig.deviceID",
    )


def _plain(key: str, value: object) -> str:
    if not isinstance(value, str) or not _DEVICE_ID.fullmatch(value):
        raise CniError(Code.INVALID_CONFIG, f"{key} is {value!r}, not a device's name on a bus")
    return value


def is_userspace(call: Call, wanted: Wanted) -> bool:
    """Whether the device is a program's (DPDK), and no link of any namespace. CniError 7."""
    found = place(call, wanted)
    return found is not None and devices.driver(found[1]) in devices.USERSPACE_DRIVERS


def find(call: Call, wanted: Wanted, context: Context) -> Link:
    """The device on the host. CniError 7 when it is not there."""
    found = place(call, wanted)
    if found is not None:
        key, value = found[0], str(found[1])
        name = devices.interface_of(found[1])
        link = links.find(context.host, name) if name else None
    elif wanted.device:
        key, value, link = "device", wanted.device, links.find(context.host, wanted.device)
    else:
        key, value = "hwaddr", str(wanted.mac)
        link = next((item for item in links.every(context.host) if item.mac == wanted.mac), None)
    if link is None:
        raise CniError(
            Code.INVALID_CONFIG,
            f"{key} is {value}, and the host has no such network device",
            "it may be in another container already",
        )
    if link.flags & links.IFF_LOOPBACK:
        raise CniError(Code.INVALID_CONFIG, f"{key} is {value}: the loopback interface cannot leave the host")
    return link
