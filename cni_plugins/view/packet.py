"""What the headers of a packet say, in words. Pure; what is cut off or odd is left out, nothing raises."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cni_plugins.spec.values import Ip

_ICMP, _TCP, _UDP, _ICMPV6, _SCTP = 1, 6, 17, 58, 132
_PROTOCOLS: Mapping[int, str] = {
    _ICMP: "icmp",
    2: "igmp",
    _TCP: "tcp",
    _UDP: "udp",
    47: "gre",
    50: "esp",
    _ICMPV6: "icmpv6",
    _SCTP: "sctp",
}
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")
_TYPES: Mapping[tuple[int, int], str] = {
    (_ICMP, 0): "echo-reply",
    (_ICMP, 3): "destination-unreachable",
    (_ICMP, 5): "redirect",
    (_ICMP, 8): "echo-request",
    (_ICMP, 11): "time-exceeded",
    (_ICMPV6, 1): "destination-unreachable",
    (_ICMPV6, 2): "packet-too-big",
    (_ICMPV6, 3): "time-exceeded",
    (_ICMPV6, 128): "echo-request",
    (_ICMPV6, 129): "echo-reply",
    (_ICMPV6, 135): "neighbour-solicitation",
    (_ICMPV6, 136): "neighbour-advertisement",
}


@dataclass(frozen=True, slots=True)
class Headers:
    """`port`s are 0 where the protocol has none, `icmp` the type of one, `hops` how many are left (TTL).
    `mark` is the same for the same packet in another chain, as long as nobody translates it.
    """

    source: Ip
    target: Ip
    protocol: int
    source_port: int
    target_port: int
    icmp: int
    flags: str
    size: int
    hops: int
    mark: bytes

    @property
    def name(self) -> str:
        return _PROTOCOLS.get(self.protocol, f"protocol {self.protocol}")

    def __str__(self) -> str:
        """`10.9.0.2:40112 -> 10.9.0.3:80 tcp SYN`."""
        ends = (_end(self.source, self.source_port), _end(self.target, self.target_port))
        what = [self.name, self.flags or _TYPES.get((self.protocol, self.icmp), "")]
        if self.protocol in {_ICMP, _ICMPV6} and not what[1]:
            what[1] = f"type {self.icmp}"
        return " ".join((" -> ".join(ends), *(word for word in what if word)))


def _end(address: Ip, port: int) -> str:
    if not port:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def headers(network: bytes, transport: bytes) -> Headers | None:
    """Of an IPv4 or IPv6 header and what follows it; None for anything else."""
    if len(network) >= 20 and network[0] >> 4 == 4:
        source: Ip = IPv4Address(network[12:16])
        target: Ip = IPv4Address(network[16:20])
        protocol, size, mark = network[9], int.from_bytes(network[2:4], "big"), network[4:8]
        hops = network[8]
        if int.from_bytes(network[6:8], "big") & 0x1FFF:  # a later fragment has no header to follow
            transport = b""
    elif len(network) >= 40 and network[0] >> 4 == 6:
        source, target = IPv6Address(network[8:24]), IPv6Address(network[24:40])
        protocol, size, mark = network[6], 40 + int.from_bytes(network[4:6], "big"), network[1:4]
        hops = network[7]
    else:
        return None
    ports = struct.unpack_from(">HH", transport) if len(transport) >= 4 else (0, 0)
    has_ports = protocol in {_TCP, _UDP, _SCTP}
    flags = ""
    if protocol == _TCP and len(transport) >= 14:
        flags = ",".join(name for number, name in enumerate(_FLAGS) if transport[13] & 1 << number)
    return Headers(
        source,
        target,
        protocol,
        ports[0] if has_ports else 0,
        ports[1] if has_ports else 0,
        transport[0] if transport and protocol in {_ICMP, _ICMPV6} else 0,
        flags,
        size,
        hops,
        b"".join((mark, source.packed, target.packed, transport[:8])),
    )
