"""IPv6 packets on a link that may have a link-local address alone: what a DHCPv6 client needs (packet(7)).

As `packets` for IPv4: a packet socket hears before any filter or socket of the container does. The kernel
itself answers the neighbour solicitations of whoever answers us, since the link-local address is its own.
"""

import secrets
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv6Address

from cni_plugins.kernel.packets import checksum, open_filtered
from cni_plugins.spec.namespace import Namespace

ETH_P_IPV6 = 0x86DD
_HEADER = struct.Struct("!IHBB16s16s")
_UDP = struct.Struct("!HHHH")
_NDP = struct.Struct("!BBHI16s")
_MEMBERSHIP = struct.Struct("=iHH8s")
_SOL_PACKET, _ADD_MEMBERSHIP, _MULTICAST = 263, 1, 0  # linux/if_packet.h
_PACKET_OUTGOING = 4
_VERSION = 6 << 28
_UDP_NUMBER, _ICMP_NUMBER = 17, 58
_SOLICITATION, _ADVERTISEMENT = 135, 136  # RFC 4861 sections 4.3, 4.4
_NONCE = 14  # RFC 3971 section 5.3.2, RFC 7527
_LARGEST = 1 << 16
_UNSPECIFIED = IPv6Address(0)
_ALL_NODES = IPv6Address("ff02::1")


def _by_port(port: int) -> list[tuple[int, int, int, int]]:
    """Classic BPF on an IPv6 header (SOCK_DGRAM): UDP without extension headers, to `port`."""
    return [
        (0x30, 0, 0, 6),  # ldb [6]: next header
        (0x15, 0, 3, _UDP_NUMBER),
        (0x28, 0, 0, 42),  # ldh [42]: destination port
        (0x15, 0, 1, port),
        (0x06, 0, 0, _LARGEST),
        (0x06, 0, 0, 0),
    ]


def _neighbours() -> list[tuple[int, int, int, int]]:
    """Neighbour solicitations and advertisements."""
    return [
        (0x30, 0, 0, 6),
        (0x15, 0, 4, _ICMP_NUMBER),
        (0x30, 0, 0, 40),  # ldb [40]: ICMPv6 type
        (0x15, 1, 0, _SOLICITATION),
        (0x15, 0, 1, _ADVERTISEMENT),
        (0x06, 0, 0, _LARGEST),
        (0x06, 0, 0, 0),
    ]


def open_udp(namespace: Namespace, ifname: str, port: int) -> socket.socket:
    """A packet socket for UDP to `port` that comes in on a link; it does not block. CniError 999."""
    return open_filtered(namespace, ifname, ETH_P_IPV6, _by_port(port))


def _packet(source: IPv6Address, target: IPv6Address, number: int, limit: int, payload: bytes) -> bytes:
    header = _HEADER.pack(_VERSION, len(payload), number, limit, source.packed, target.packed)
    return header + payload


def _sum(source: IPv6Address, target: IPv6Address, number: int, payload: bytes) -> int:
    """RFC 8200 section 8.1."""
    return checksum(source.packed + target.packed + struct.pack("!II", len(payload), number) + payload)


def _multicast_mac(group: IPv6Address) -> bytes:
    return b"\x33\x33" + group.packed[12:]


def send_udp(
    sock: socket.socket, ifname: str, *, source: tuple[IPv6Address, int], target: tuple[IPv6Address, int],
    payload: bytes,
) -> None:  # fmt: skip
    """Send a UDP datagram to the group `target`. OSError."""
    plain = _UDP.pack(source[1], target[1], _UDP.size + len(payload), 0) + payload
    total = _sum(source[0], target[0], _UDP_NUMBER, plain) or 0xFFFF
    datagram = plain[:6] + total.to_bytes(2, "big") + payload
    packet = _packet(source[0], target[0], _UDP_NUMBER, 1, datagram)
    sock.sendto(packet, (ifname, ETH_P_IPV6, 0, 0, _multicast_mac(target[0])))


def receive_udp(sock: socket.socket, address: IPv6Address) -> bytes | None:
    """The payload of the next datagram to `address`; None for a packet that is none. BlockingIOError when
    there is nothing; OSError. The checksum is not looked at, as in `packets.receive_udp`.
    """
    data, (_, _, kind, _, _) = sock.recvfrom(_LARGEST)
    body = _payload(data, kind, _UDP_NUMBER)
    if body is None or data[24:40] != address.packed or len(body) < _UDP.size:
        return None
    length = int.from_bytes(body[4:6], "big")
    return body[_UDP.size : length] if _UDP.size <= length <= len(body) else None


def _payload(data: bytes, kind: int, number: int) -> bytes | None:
    """What a packet that came in carries, if that is `number`."""
    if kind == _PACKET_OUTGOING or len(data) < _HEADER.size or data[0] >> 4 != 6 or data[6] != number:
        return None
    end = _HEADER.size + int.from_bytes(data[4:6], "big")
    return data[_HEADER.size : end] if end <= len(data) else None


@dataclass(frozen=True, slots=True)
class Probe:
    """Asking whether somebody on the link has `address`, as duplicate address detection does (RFC 4862
    section 5.4): nobody answers for an address that nobody has. `nonce` tells our own questions from those of
    somebody who wants the same address (RFC 7527); the MAC address does not, ipvlan links share it.
    """

    sock: socket.socket
    ifname: str
    address: IPv6Address
    nonce: bytes

    def ask(self) -> None:
        """OSError."""
        group = _solicited_node(self.address)
        option = bytes((_NONCE, 1)) + self.nonce
        plain = _NDP.pack(_SOLICITATION, 0, 0, 0, self.address.packed) + option
        total = _sum(_UNSPECIFIED, group, _ICMP_NUMBER, plain)
        packet = _packet(
            _UNSPECIFIED, group, _ICMP_NUMBER, 255, plain[:2] + total.to_bytes(2, "big") + plain[4:]
        )
        self.sock.sendto(packet, (self.ifname, ETH_P_IPV6, 0, 0, _multicast_mac(group)))

    def holder(self) -> str | None:
        """The MAC address of somebody else who has the address, or wants it too, by the next packet. OSError,
        BlockingIOError when there is none.
        """
        data, (_, _, kind, _, mac) = self.sock.recvfrom(_LARGEST)
        body = _payload(data, kind, _ICMP_NUMBER)
        if body is None or len(body) < _NDP.size or data[7] != 255:
            return None
        number, _, _, _, target = _NDP.unpack_from(body)
        if target != self.address.packed:
            return None
        wants = number == _SOLICITATION and data[8:24] == _UNSPECIFIED.packed and self.nonce not in body
        return mac.hex(":") if number == _ADVERTISEMENT or wants else None


def _solicited_node(address: IPv6Address) -> IPv6Address:
    """RFC 4291 section 2.7.1."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


def open_probe(namespace: Namespace, ifname: str, index: int, address: IPv6Address) -> Probe:
    """A probe of `address`, not sent yet; its socket does not block. CniError 999."""
    sock = open_filtered(namespace, ifname, ETH_P_IPV6, _neighbours())
    for group in (_solicited_node(address), _ALL_NODES):
        with suppress(OSError):  # then the link may still let it through, as a veth does
            member = _MEMBERSHIP.pack(index, _MULTICAST, 6, _multicast_mac(group))
            sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, member)
    return Probe(sock, ifname, address, secrets.token_bytes(6))
