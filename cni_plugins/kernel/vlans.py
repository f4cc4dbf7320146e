"""VLANs of bridge ports (802.1Q filtering inside a bridge)."""

import errno
import struct
import sys
from collections.abc import Iterable

from cni_plugins.kernel.netlink.codec import attributes, encode, every_attribute
from cni_plugins.kernel.netlink.layouts import LINK
from cni_plugins.kernel.netlink.route import RTM_DELLINK, RTM_GETLINK, RTM_SETLINK, Message, Netlink
from cni_plugins.spec.errors import CniError

_AF_BRIDGE = 7
# linux/if_bridge.h, linux/rtnetlink.h
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 0x2, 0x4, 0x8, 0x10
_FILTER_BRVLAN = 2
_IFLA_MASTER, _IFLA_AF_SPEC, _VLAN_INFO = 10, 26, 2
_HEADER = 32
_RTM_GETVLAN, _ENTRY, _ENTRY_INFO, _ENTRY_RANGE = 114, 1, 1, 2
_VLAN_HEADER = struct.Struct("=BxxxI")


def _message(
    doing: str, kind: int, index: int, infos: Iterable[tuple[int, int]], allow: frozenset[int]
) -> Message:
    listed = [("IFLA_BRIDGE_VLAN_INFO", {"flags": flags, "vid": vid}) for flags, vid in infos]
    body = encode(LINK, {"family": _AF_BRIDGE, "index": index}, [("IFLA_AF_SPEC", {"attrs": listed})])
    return Message(doing, kind, 0, body, allow)


def access(port: str, index: int, vid: int) -> Message:
    """Make `vid` the VLAN of a port's untagged frames, both ways."""
    return _message(
        f"put port {port} into VLAN {vid}", RTM_SETLINK, index, [(_PVID | _UNTAGGED, vid)], frozenset()
    )


def trunk(port: str, index: int, first: int, last: int) -> Message:
    """Let a port take part in the VLANs `first` to `last`, tagged."""
    infos = [(0, first)] if first == last else [(_RANGE_BEGIN, first), (_RANGE_END, last)]
    return _message(f"add VLANs {first}-{last} to port {port}", RTM_SETLINK, index, infos, frozenset())


def leave(port: str, index: int, vid: int) -> Message:
    """Take a port out of a VLAN; that it is not in it is an answer."""
    gone = frozenset((errno.ENOENT, errno.EINVAL))
    return _message(f"take port {port} out of VLAN {vid}", RTM_DELLINK, index, [(0, vid)], gone)


def of_ports(netlink: Netlink, bridge: int) -> dict[int, frozenset[int]]:
    """The VLANs of each port of a bridge, by the port's index. CniError 999."""
    body = encode(LINK, {"family": _AF_BRIDGE}, [("IFLA_EXT_MASK", _FILTER_BRVLAN)])
    found: dict[int, frozenset[int]] = {}
    for packet in netlink.dump("list the VLANs of bridge ports", RTM_GETLINK, body):
        (index,) = struct.unpack_from("=i", packet, 20)
        master, vids = 0, frozenset[int]()
        for kind, payload in every_attribute(packet, _HEADER):
            if kind == _IFLA_MASTER:
                (master,) = struct.unpack_from("=I", payload)
            elif kind == _IFLA_AF_SPEC:
                vids = frozenset(
                    struct.unpack_from("=HH", info)[1]
                    for number, info in every_attribute(payload)
                    if number == _VLAN_INFO
                )
        if master == bridge and index != bridge:
            found[index] = vids
    return found


def of_port(netlink: Netlink, port: int, bridge: int) -> frozenset[int]:
    """The VLANs of one port. CniError 999.

    Kernels before 5.6 cannot be asked for one: there every port of the node is listed.
    """
    body = _VLAN_HEADER.pack(_AF_BRIDGE, port)
    try:
        packets = netlink.dump("list the VLANs of a bridge port", _RTM_GETVLAN, body)
    except CniError:
        return of_ports(netlink, bridge).get(port, frozenset())
    found: set[int] = set()
    for packet in packets:
        for kind, entry in every_attribute(packet, 16 + _VLAN_HEADER.size):
            if kind != _ENTRY:
                continue
            fields = attributes(entry)
            first = struct.unpack_from("=HH", fields[_ENTRY_INFO])[1]
            last = int.from_bytes(fields.get(_ENTRY_RANGE, b""), sys.byteorder) or first
            found.update(range(first, last + 1))
    return frozenset(found)
