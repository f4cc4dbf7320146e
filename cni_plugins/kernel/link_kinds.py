"""Links of kinds that stand on another link, or on none: the messages that make them.

Each can be made directly in the namespace behind a descriptor (`sandbox`; 0 is the socket's own), while
`master` is an index in the socket's. `mtu` 0 is the master's, `mac` "" the kernel's choice. The kernel looks
for the name in the socket's namespace too: make it under a name that nobody has and rename it there.
"""

from enum import IntEnum
from typing import Any

from cni_plugins.kernel import links
from cni_plugins.kernel.netlink.route import Message


class IpvlanMode(IntEnum):
    """Who routes (ip-link(8), linux/if_link.h): l2 nobody, l3 the master's namespace, l3s with netfilter."""

    L2, L3, L3S = 0, 1, 2


class IpvlanFlag(IntEnum):
    """Who of one master reaches whom: all, none, or through an outer switch."""

    BRIDGE, PRIVATE, VEPA = 0, 1, 2


class MacvlanMode(IntEnum):
    """Who of one master reaches whom; passthru takes the master for itself (ip-link(8))."""

    PRIVATE, VEPA, BRIDGE, PASSTHRU, SOURCE = 1, 2, 4, 8, 16


class VlanProtocol(IntEnum):
    """Of the tag: 802.1Q, or 802.1ad's outer one (linux/if_ether.h)."""

    Q, AD = 0x8100, 0x88A8


def _create(
    name: str,
    kind: str,
    data: list[tuple[str, Any]],
    *,
    master: int = 0,
    sandbox: int = 0,
    mtu: int = 0,
    mac: str = "",
) -> Message:
    values: dict[str, Any] = {"link": master} if master else {}
    values |= {"net_ns_fd": sandbox} if sandbox else {}
    values |= {"mtu": mtu} if mtu else {}
    values |= {"address": mac} if mac else {}
    return links.create(name, kind, data or None, **values)


def ipvlan(
    name: str,
    master: int,
    mode: IpvlanMode = IpvlanMode.L2,
    flag: IpvlanFlag = IpvlanFlag.BRIDGE,
    *,
    sandbox: int = 0,
    mtu: int = 0,
) -> Message:
    """A link with its master's MAC address and addresses of its own."""
    data: list[tuple[str, Any]] = [("IFLA_IPVLAN_MODE", int(mode))]
    if flag:
        data.append(("IFLA_IPVLAN_FLAGS", int(flag)))
    return _create(name, "ipvlan", data, master=master, sandbox=sandbox, mtu=mtu)


def macvlan(
    name: str,
    master: int,
    mode: MacvlanMode = MacvlanMode.BRIDGE,
    *,
    sandbox: int = 0,
    mtu: int = 0,
    mac: str = "",
    queue: int = 0,
) -> Message:
    """A link with a MAC address of its own; `queue` is that for broadcast frames, 0 the kernel's."""
    data: list[tuple[str, Any]] = [("IFLA_MACVLAN_MODE", int(mode))]
    if queue:
        data.append(("IFLA_MACVLAN_BC_QUEUE_LEN", queue))
    return _create(name, "macvlan", data, master=master, sandbox=sandbox, mtu=mtu, mac=mac)


def vlan(
    name: str,
    master: int,
    vid: int,
    protocol: VlanProtocol = VlanProtocol.Q,
    *,
    sandbox: int = 0,
    mtu: int = 0,
    mac: str = "",
) -> Message:
    """A link for the frames of one VLAN of its master."""
    data = [("IFLA_VLAN_ID", vid), ("IFLA_VLAN_PROTOCOL", int(protocol))]
    return _create(name, "vlan", data, master=master, sandbox=sandbox, mtu=mtu, mac=mac)


def dummy(name: str, *, sandbox: int = 0, mtu: int = 0, mac: str = "") -> Message:
    """A link to nowhere."""
    return _create(name, "dummy", [], sandbox=sandbox, mtu=mtu, mac=mac)


def vrf(name: str, table: int, *, sandbox: int = 0, mac: str = "") -> Message:
    """A routing domain: its ports (links.set_master) use the routes of `table` alone."""
    return _create(name, "vrf", [("IFLA_VRF_TABLE", table)], sandbox=sandbox, mac=mac)
