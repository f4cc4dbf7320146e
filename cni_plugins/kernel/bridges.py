"""Bridges: made when missing, removed with their last port when they are ours.

Ours is a bridge that carries the alias `mesokit`, or (until the alias is on) the MAC address that its maker
wrote down before it made it. A lock per bridge keeps the making of the bridge and of its first port apart
from the removal of its last.
"""

import ctypes
import errno
import fcntl
import struct
import sys
from _socket import AF_UNIX, SOCK_DGRAM, socket
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any

from cni_plugins.kernel import addresses, links
from cni_plugins.kernel.links import IFF_PROMISC, IFF_UP, Link
from cni_plugins.kernel.namespace import entered
from cni_plugins.kernel.netlink.route import Message, Netlink, answered
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.values import IpInterface

ALIAS = "mesokit"

STAYS = "mesokit, stays"
"""The alias of a bridge that its network wants to keep without ports."""
# linux/if_link.h
_VLAN_FILTERING, _DEFAULT_PVID = 7, 39
# linux/if_bridge.h, linux/sockios.h; a port's number has ten bits, as 802.1D's port identifiers
_BRCTL_GET_PORT_LIST, _SIOCDEVPRIVATE, _PORTS = 7, 0x89F0, 1024
_SIOCGIFHWADDR = 0x8927  # netdevice(7)
_NO_QUESTION = frozenset((errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENODEV))


def lock_path(run: Path, name: str) -> str:
    return f"{run}/locks/bridge-{name}"


def find(netlink: Netlink, name: str) -> Link | None:
    """The bridge called `name`. CniError 7 if that is another kind of link."""
    link = links.find(netlink, name)
    if link is not None and link.kind != "bridge":
        kind = link.kind or "a physical device"
        raise CniError(
            Code.INVALID_CONFIG,
            f'"{name}" already exists but is not a bridge',
            f"bridge is {name!r}, but that link is {kind} and no bridge",
        )
    return link


def filters_vlans(bridge: Link) -> bool:
    return bridge.data.get(_VLAN_FILTERING, b"\0")[0] == 1


def default_vlan(bridge: Link) -> int:
    """The VLAN that the bridge gives every new port, 0 for none."""
    return int.from_bytes(bridge.data.get(_DEFAULT_PVID, b"\1\0")[:2], sys.byteorder)


def create(netlink: Netlink, name: str, mac: str, *, mtu: int, promisc: bool, vlan_filtering: bool) -> bool:
    """Make a bridge of ours, up; False if somebody was faster. CniError 7 where the kernel cannot filter
    VLANs, else 999.
    """
    data: list[tuple[str, Any]] = [("IFLA_BR_VLAN_FILTERING", 1)] if vlan_filtering else []
    size = {"mtu": mtu} if mtu else {}
    flags = IFF_UP | (IFF_PROMISC if promisc else 0)
    message = links.create(name, "bridge", data, address=mac, flags=flags, **size)
    allowed = frozenset((errno.EEXIST, errno.EOPNOTSUPP) if vlan_filtering else (errno.EEXIST,))
    answer = answered(netlink.request(replace(message, allow=allowed)))
    if answer.error == errno.EOPNOTSUPP:
        raise CniError(
            Code.INVALID_CONFIG,
            f"bridge {name} cannot filter VLANs, as vlan and vlanTrunk need: this kernel was built without",
            "leave the key out, or use a kernel with CONFIG_BRIDGE_VLAN_FILTERING",
        )
    if answer.error:
        return False
    netlink.request(links.change(name, 0, ifalias=ALIAS))
    return True


def give_addresses(
    netlink: Netlink,
    bridge: Link,
    gateways: Sequence[IpInterface],
    *,
    force: bool,
    dad: bool,
    several: bool = False,
) -> None:
    """Put the gateways on a bridge, or on the interface that stands for one of its VLANs.

    CniError 7 when it has other addresses that conflict (any other IPv4 address, an IPv6 address of an
    overlapping subnet; with `several` only one of those), unless `force`, which takes those away. The
    bridge's MAC address is pinned, so that it stops following its ports'.
    """
    there = {
        item.address for item in addresses.of_link(netlink, bridge.index) if item.scope == addresses.GLOBAL
    }
    missing = [gateway for gateway in gateways if gateway not in there]
    if not missing:
        return
    changes: list[Message] = []
    for old in there.difference(gateways):
        if not any(_conflict(old, gateway, several=several) for gateway in missing):
            continue
        if not force:
            raise CniError(
                Code.INVALID_CONFIG,
                f'failed to set bridge addr: "{bridge.name}" already has an IP address different from '
                f"{missing[0]}",
                f"{bridge.name} has address {old}, which conflicts with gateway {missing[0]}; "
                "forceAddress: true replaces it",
            )
        changes.append(addresses.delete(bridge.index, old))
    changes += [addresses.add(bridge.index, gateway, dad=dad) for gateway in missing]
    if bridge.alias in {ALIAS, STAYS} and not dad and any(gateway.version == 6 for gateway in missing):
        changes.append(addresses.own(bridge.index, bridge.mac))
    netlink.request(*changes, links.change(bridge.name, bridge.index, address=bridge.mac))


def address(netlink: Netlink, bridge: Link) -> None:
    """Give a bridge of ours its link-local address, which the kernel does when a port has a carrier. CniError
    999."""
    if bridge.alias in {ALIAS, STAYS}:
        netlink.request(addresses.own(bridge.index, bridge.mac))


def _conflict(old: IpInterface, new: IpInterface, *, several: bool) -> bool:
    if isinstance(old, IPv4Interface):
        return isinstance(new, IPv4Interface) and not (several and not old.network.overlaps(new.network))
    return isinstance(new, IPv6Interface) and old.network.overlaps(new.network)


def has_ports(netlink: Netlink, name: str) -> bool:
    """Whether a bridge has any port. CniError 999.

    A dump of links, filtered or not, visits every link of the node (0.25 ms with a thousand). brctl's
    question goes to the bridge itself and costs a tenth of that; its table must have room for every port
    number there is. A kernel that does not know the question any more is asked for the dump.
    """
    found = _ports(netlink, name)
    if found is not None:
        return bool(found)
    bridge = links.find(netlink, name)
    return bridge is not None and bool(links.every(netlink, master=bridge.index))


def _ports(netlink: Netlink, name: str) -> set[int] | None:
    """Indices of a bridge's ports by brctl's question, None where the kernel does not know it, or no such
    bridge. CniError 999.
    """
    indices = ctypes.create_string_buffer(4 * _PORTS)
    question = (ctypes.c_ulong * 4)(_BRCTL_GET_PORT_LIST, ctypes.addressof(indices), _PORTS, 0)
    request = struct.pack("16sP16x", name.encode(), ctypes.addressof(question))
    try:
        with entered(netlink.namespace), closing(socket(AF_UNIX, SOCK_DGRAM)) as asking:
            fcntl.ioctl(asking.fileno(), _SIOCDEVPRIVATE, request)
    except OSError as error:
        if error.errno not in _NO_QUESTION:
            raise CniError(Code.INTERNAL, f"cannot ask bridge {name} for its ports", str(error)) from error
        return None
    found = indices.raw.rstrip(b"\0")  # the lowest free number is given out: hardly anything is left
    found += bytes(-len(found) % 4)
    return set(struct.unpack(f"={len(found) // 4}i", found)) - {0}


def _mac(netlink: Netlink, name: str) -> str:
    """The MAC address of a link, "" without one: asked for without the lock for network configuration."""
    request = struct.pack("16s24x", name.encode())
    with entered(netlink.namespace), closing(socket(AF_UNIX, SOCK_DGRAM)) as asking:
        try:
            return fcntl.ioctl(asking.fileno(), _SIOCGIFHWADDR, request)[18:24].hex(":")
        except OSError:
            return ""


def is_only_port(netlink: Netlink, name: str, index: int) -> bool:
    """Whether a bridge has this port and no other. CniError 999."""
    return _ports(netlink, name) == {index}


def release_with(netlink: Netlink, name: str, port: Link) -> bool:
    """Remove a bridge of ours together with the only port that it has; whether both were removed. Its lock
    must be held. CniError 999.
    """
    bridge = links.find(netlink, name)
    if bridge is None or bridge.kind != "bridge" or bridge.alias != ALIAS or bridge.index != port.master:
        return False
    if not is_only_port(netlink, name, port.index):
        return False
    links.remove_together(netlink, f"{port.name} and {name}", port.index, bridge.index)
    return True


def release(netlink: Netlink, name: str, mac: str) -> bool:
    """Remove a bridge of ours that has no port left; whether it was removed. Its lock must be held. CniError
    999.
    """
    if _mac(netlink, name) != mac and _ports(netlink, name):
        return False  # as most DELs find it
    link = links.find(netlink, name)
    if link is None or link.kind != "bridge" or not (link.alias == ALIAS or link.mac == mac):
        return False
    if link.alias == STAYS:
        return False
    if has_ports(netlink, name):
        if not link.alias:
            # Its maker died before it could mark it; whoever has the last port removes it then.
            netlink.request(links.change(name, link.index, ifalias=ALIAS))
        return False
    links.remove(netlink, name, link.index)
    return True
