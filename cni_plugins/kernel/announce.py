"""Telling a network that an address has moved to another MAC address: gratuitous ARP, unsolicited neighbour
advertisements.

The kernel can do it (arp_notify), but under its one lock for all network configuration, and a frame to
everybody costs time for each port of the bridge. Here the frames are made by us and sent from inside the
container, when the caller has its answer: sending holds nobody up, nor does closing the socket, which waits
for an RCU grace period.
"""

import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace
from cni_plugins.spec.values import IpInterface

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_BROADCAST = b"\xff" * 6
_ALL_NODES = bytes.fromhex("ff020000000000000000000000000001")
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ICMPV6, _ADVERTISEMENT, _OVERRIDE, _TARGET_ADDRESS = 58, 136, 0x20000000, 2


def prepared(namespace: Namespace, name: str, addresses: Sequence[IpInterface]) -> Callable[[], None]:
    """A function that announces `addresses` of an interface and is done with; it never raises. CniError 5 if
    no socket can be had for it.

    The MAC address is that of the moment of sending: a later plugin of the chain may have set another.
    """
    try:
        with entered(namespace):
            packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except OSError as error:
        raise CniError(Code.IO, f"cannot announce the addresses of {name}", str(error)) from error

    def send() -> None:
        with packet, suppress(OSError):  # the container may be gone already
            packet.bind((name, 0))
            mac: bytes = packet.getsockname()[4]
            for item in addresses:
                packet.send(arp(mac, item) if item.version == 4 else advertisement(mac, item))

    return send


def arp(mac: bytes, address: IpInterface) -> bytes:
    """RFC 5227, section 3: a request for one's own address."""
    ip = address.ip.packed
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    return _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP) + header + mac + ip + bytes(6) + ip


def advertisement(mac: bytes, address: IpInterface) -> bytes:
    """RFC 4861, section 7.2.6: to all nodes, with the override flag and the link-layer address."""
    ip = address.ip.packed
    rest = struct.pack("!I", _OVERRIDE) + ip + bytes((_TARGET_ADDRESS, 1)) + mac
    length = 4 + len(rest)
    pseudo = ip + _ALL_NODES + struct.pack("!II", length, _ICMPV6)
    checksum = _checksum(pseudo + struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + rest)
    packet = struct.pack("!IHBB", 6 << 28, length, _ICMPV6, 255) + ip + _ALL_NODES
    ethernet = _ALL_NODES_MAC + mac + struct.pack("!H", _ETH_P_IPV6)
    return ethernet + packet + struct.pack("!BBH", _ADVERTISEMENT, 0, checksum) + rest


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
