"""IPv4 packets and ARP on a link that may have no address yet: what a DHCP client needs (packet(7)).

A packet socket hears what comes in on its link before any filter or socket of the container does, and sends
what the container's routes would not let go. A filter in the kernel keeps away all that is not meant for us.
"""

import ctypes
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from cni_plugins.kernel.namespace import entered
from cni_plugins.spec.errors import CniError, Code
from cni_plugins.spec.namespace import Namespace

ETH_P_IP, _ETH_P_ARP = 0x0800, 0x0806
EVERYBODY = b"\xff" * 6
_SO_ATTACH_FILTER = 26
_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_PACKET_OUTGOING = 4
_REQUEST = 1
_LARGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Datagram:
    """What came in: the payload of a UDP datagram, and who sent the frame."""

    payload: bytes
    source: IPv4Address
    mac: str


def _program(port: int) -> list[tuple[int, int, int, int]]:
    """Classic BPF on an IP header (SOCK_DGRAM): UDP, not a later fragment, to `port`."""
    return [
        (0x30, 0, 0, 9),  # ldb [9]: protocol
        (0x15, 0, 6, 17),
        (0x28, 0, 0, 6),  # ldh [6]: fragment offset
        (0x45, 4, 0, 0x1FFF),
        (0xB1, 0, 0, 0),  # ldxb 4*([0]&0xf)
        (0x48, 0, 0, 2),  # ldh [x+2]: destination port
        (0x15, 0, 1, port),
        (0x06, 0, 0, _LARGEST),
        (0x06, 0, 0, 0),
    ]


def attach(sock: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Let the kernel keep away what a classic BPF program does not take (socket(7)). OSError."""
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code)
    sock.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(code) // 8, ctypes.addressof(buffer))
    )


def open_filtered(
    namespace: Namespace, ifname: str, ethertype: int, program: Sequence[tuple[int, int, int, int]]
) -> socket.socket:
    """A packet socket on a link for what `program` (BPF) lets through; it does not block. CniError 999."""
    with entered(namespace):
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
            try:
                attach(sock, program)
                sock.bind((ifname, ethertype))
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise CniError(
                Code.INTERNAL, f"cannot open a packet socket on {ifname} in {namespace.path}", str(error)
            ) from error
    return sock


def open_udp(namespace: Namespace, ifname: str, port: int) -> socket.socket:
    """A packet socket for UDP to `port` that comes in on a link; it does not block. CniError 999."""
    return open_filtered(namespace, ifname, ETH_P_IP, _program(port))


def send_udp(
    sock: socket.socket, ifname: str, mac: bytes, *, source: tuple[IPv4Address, int],
    target: tuple[IPv4Address, int], payload: bytes,
) -> None:  # fmt: skip
    """Send a UDP datagram in a frame to `mac`. OSError."""
    udp = _UDP.pack(source[1], target[1], _UDP.size + len(payload), 0)
    pseudo = source[0].packed + target[0].packed + struct.pack("!BBH", 0, 17, len(udp) + len(payload))
    total = checksum(pseudo + udp + payload) or 0xFFFF
    udp = udp[:6] + total.to_bytes(2, "big")
    head = [
        0x45,
        0x10,
        _IP.size + len(udp) + len(payload),
        0,
        0,
        64,
        17,
        0,
        source[0].packed,
        target[0].packed,
    ]
    head[7] = checksum(_IP.pack(*head))
    sock.sendto(_IP.pack(*head) + udp + payload, (ifname, ETH_P_IP, 0, 0, mac))


def receive_udp(sock: socket.socket) -> Datagram | None:
    """The next datagram; None for a packet that is none. BlockingIOError when there is nothing; OSError.

    The UDP checksum is not looked at: a frame from this very machine has none yet, and the message has its
    own identifiers.
    """
    data, (_, _, kind, _, mac) = sock.recvfrom(_LARGEST)
    if kind == _PACKET_OUTGOING or len(data) < _IP.size:
        return None
    size = (data[0] & 0xF) * 4
    total = int.from_bytes(data[2:4], "big")
    if data[0] >> 4 != 4 or size < _IP.size or total > len(data) or total < size + _UDP.size:
        return None
    length = int.from_bytes(data[size + 4 : size + 6], "big")
    if length < _UDP.size or size + length > total:
        return None
    return Datagram(data[size + _UDP.size : size + length], IPv4Address(data[12:16]), mac.hex(":"))


def checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def open_arp(namespace: Namespace, ifname: str) -> socket.socket:
    """A packet socket for ARP on a link; it does not block. CniError 999."""
    with entered(namespace):
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
            try:
                sock.bind((ifname, _ETH_P_ARP))
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise CniError(Code.INTERNAL, f"cannot open an ARP socket on {ifname}", str(error)) from error
    return sock


def probe(sock: socket.socket, ifname: str, mac: bytes, address: IPv4Address) -> None:
    """Ask who has `address`, without one of our own (RFC 5227 section 2.1.1). OSError."""
    body = _ARP.pack(1, ETH_P_IP, 6, 4, _REQUEST, mac, bytes(4), bytes(6), address.packed)
    sock.sendto(body, (ifname, _ETH_P_ARP, 0, 0, EVERYBODY))


def holder(sock: socket.socket, mac: bytes, address: IPv4Address) -> str | None:
    """The MAC address of somebody else who uses `address` or asks for it too, by the next frame. OSError,
    BlockingIOError when there is none.
    """
    data, (_, _, kind, _, _) = sock.recvfrom(256)
    if kind == _PACKET_OUTGOING or len(data) < _ARP.size:
        return None
    hardware, protocol, _, _, operation, sender, source, _, target = _ARP.unpack_from(data)
    if hardware != 1 or protocol != ETH_P_IP or sender == mac:
        return None
    probing = operation == _REQUEST and source == bytes(4) and target == address.packed
    return str(sender.hex(":")) if source == address.packed or probing else None


def open_routed(namespace: Namespace, source: tuple[IPv4Address, int]) -> socket.socket:
    """A socket that sends from an address of the namespace as its routes say. While it is open the kernel
    tells nobody that the port is closed. OSError, also when the container uses the port.
    """
    with entered(namespace):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind((str(source[0]), source[1]))
        except BaseException:
            sock.close()
            raise
    return sock
