"""Frames of a container that may send whatever it likes (packet sockets), each with its name in it, and who
gets them.

python3 policy_attack.py listen IFNAME    -> a line for each name that comes in by an interface
python3 policy_attack.py hear             -> by any, for this machine, past its own filter
python3 policy_attack.py send IFNAME JSON {"mine": [MAC, IPv4, IPv6], "his": […], "gateway": [IPv4, IPv6],
                                           "others": [addresses of his], "flow": [IPv4, IPv6 of his flow]}
"""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from ipaddress import ip_address

_NAME = re.compile(rb"<([a-z0-9 .:-]+)>")
_V4, _V6, _ARP = 0x0800, 0x86DD, 0x0806
_UDP, _ICMP6 = 17, 58
_PROTOCOLS = (_UDP, 4, 41, 47, 132, 136, 253)
Host = tuple[str, str, str]  #: MAC, IPv4 and IPv6 address
Frame = tuple[str, str, int, bytes]  #: name, target MAC address ("" for his), ether type, what is in it


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _sum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


def _pseudo(source: str, target: str, protocol: int, size: int) -> bytes:
    return ip_address(source).packed + ip_address(target).packed + struct.pack(">II", size, protocol)


def udp(name: str, source: str, target: str, port: int = 1234, *, from_port: int = 4321) -> bytes:
    """A datagram with its checksum."""
    data = f"<{name}>".encode()
    head = struct.pack(">HHH", from_port, port, 8 + len(data))
    return head + _sum(_pseudo(source, target, _UDP, 8 + len(data)) + head + bytes(2) + data) + data


def icmp6(kind: int, source: str, target: str, body: bytes) -> bytes:
    head = bytes((kind, 0))
    return head + _sum(_pseudo(source, target, _ICMP6, 4 + len(body)) + head + bytes(2) + body) + body


def ipv4(
    source: str, target: str, protocol: int, data: bytes, *, options: bytes = b"", place: int = 0
) -> bytes:
    """`place`: the fragment's offset and flags, as they stand in the header."""
    size = 20 + len(options)
    fields = (0x40 | size // 4, 0, size + len(data), 77, place, 64, protocol)
    head = struct.pack(">BBHHHBB", *fields)
    ends = ip_address(source).packed + ip_address(target).packed + options
    return head + _sum(head + bytes(2) + ends) + ends + data


def ipv6(source: str, target: str, following: int, data: bytes, hops: int = 255) -> bytes:
    head = struct.pack(">IHBB", 0x60000000, len(data), following, hops)
    return head + ip_address(source).packed + ip_address(target).packed + data


def _named(name: str, size: int) -> bytes:
    return f"<{name}>".encode().ljust(size, b"\0")


def frames(mine: Host, his: Host, gateway: tuple[str, str]) -> Iterator[Frame]:
    yield from _wrapped(mine, his)
    yield from _addressed(mine, his, gateway)
    yield from _of_neighbours(mine, his, gateway)


def to_others(mine: Host, others: list[str]) -> Iterator[Frame]:
    """To addresses that a machine has at other interfaces, or that are for all who listen."""
    _, a4, a6 = mine
    for target in others:
        name = f"other {target}"
        if ":" in target:
            yield name, "", _V6, ipv6(a6, target, _UDP, udp(name, a6, target))
        else:
            yield name, "", _V4, ipv4(a4, target, _UDP, udp(name, a4, target))


def errors(mine: Host, flow: tuple[str, str]) -> Iterator[Frame]:
    """About a flow of his with somebody else, from one who has no part in it."""
    _, a4, a6 = mine
    quoted = ipv4(flow[0], "192.0.2.1", _UDP, struct.pack(">HHHH", 7777, 9, 24, 0) + bytes(16))
    body = struct.pack(">HH", 0, 552) + quoted.ljust(60, b"\0") + _named("error", 14)
    data = b"\3\4" + _sum(b"\3\4\0\0" + body) + body
    yield "error", "", _V4, ipv4(a4, flow[0], 1, data)
    quoted = ipv6(flow[1], "2001:db8::1", _UDP, struct.pack(">HHHH", 7777, 9, 24, 0) + bytes(16))
    body = struct.pack(">I", 1280) + quoted + _named("error6", 14)
    yield "error6", "", _V6, ipv6(a6, flow[1], _ICMP6, icmp6(2, a6, flow[1], body))


def _local(mac: str) -> str:
    """The link-local address of an interface."""
    first = f"{int(mac[:2], 16) ^ 2:02x}{mac[3:5]}"
    return f"fe80::{first}:{mac[6:8]}ff:fe{mac[9:11]}:{mac[12:14]}{mac[15:]}"


def _wrapped(mine: Host, his: Host) -> Iterator[Frame]:
    """A datagram in whatever a frame can hold."""
    (_, a4, a6), (_, b4, b6) = mine, his
    for tag in (0x8100, 0x88A8, 0x9100, 0x9200):
        for vlan in (0, 5):
            name = f"tag {tag:x} {vlan}"
            data = ipv4(a4, b4, _UDP, udp(name, a4, b4))
            yield name, "", tag, struct.pack(">HH", vlan, _V4) + data
    name = "two tags"
    data = ipv4(a4, b4, _UDP, udp(name, a4, b4))
    yield name, "", 0x88A8, struct.pack(">HHHH", 0, 0x8100, 0, _V4) + data
    yield "ether type", "", 0x88B5, _named("ether type", 60)
    yield "mpls", "", 0x8847, struct.pack(">I", 16 << 12 | 0x1FF) + ipv4(a4, b4, _UDP, udp("mpls", a4, b4))
    inner = ipv4(a4, b4, _UDP, udp("pppoe", a4, b4))
    yield "pppoe", "", 0x8864, struct.pack(">BBHHH", 0x11, 0, 1, len(inner) + 2, 0x21) + inner
    yield "llc", "", 50, bytes((0xAA, 0xAA, 3)) + _named("llc", 47)
    yield "udp4", "", _V4, ipv4(a4, b4, _UDP, udp("udp4", a4, b4))
    yield "udp6", "", _V6, ipv6(a6, b6, _UDP, udp("udp6", a6, b6))
    yield "options", "", _V4, ipv4(a4, b4, _UDP, udp("options", a4, b4), options=b"\x83\x07\x04\0\0\0\0\0")
    data = udp("fragments", a4, b4).ljust(32, b".")
    yield "fragments", "", _V4, ipv4(a4, b4, _UDP, data[:8], place=0x2000)
    yield "fragments", "", _V4, ipv4(a4, b4, _UDP, data[8:], place=1)
    yield "fragment", "", _V4, ipv4(a4, b4, _UDP, _named("fragment", 24), place=0x2040)
    data = udp("fragments6", a6, b6).ljust(32, b".")
    for number, part in ((1, data[:8]), (8, data[8:])):
        yield "fragments6", "", _V6, ipv6(a6, b6, 44, struct.pack(">BBHI", _UDP, 0, number, 9) + part)
    rest = struct.pack(">BBHI", _UDP, 0, 8 * 9 | 1, 10) + _named("fragment6", 24)
    yield "fragment6", "", _V6, ipv6(a6, b6, 44, rest)
    yield from _of_six(a6, b6)
    for kind, label in ((0, "hop by hop"), (60, "destination"), (43, "routing"), (135, "mobility")):
        more = bytes((_UDP, 0, 1, 4, 0, 0, 0, 0)) if kind != 43 else bytes((_UDP, 0, 4, 0, 0, 0, 0, 0))
        yield label, "", _V6, ipv6(a6, b6, kind, more + udp(label, a6, b6))
    for protocol, label in (
        (47, "gre"),
        (4, "ipip"),
        (132, "sctp"),
        (136, "udplite"),
        (253, "unknown"),
        (41, "six"),
    ):
        inner = udp(label, a4, b4)
        data = ipv4(a4, b4, _UDP, inner) if protocol == 4 else inner
        yield label, "", _V4, ipv4(a4, b4, protocol, data)
        yield f"{label}6", "", _V6, ipv6(a6, b6, protocol, udp(f"{label}6", a6, b6))


def _of_six(a6: str, b6: str) -> Iterator[Frame]:
    """Ports behind headers that hide them, or that say them twice."""
    shown = struct.pack(">HHHH", 4321, 9, 24, 0) + bytes(16)
    yield "esp6", "", _V6, ipv6(a6, b6, 50, struct.pack(">II", 7, 1) + udp("esp6", a6, b6))
    yield "ah6", "", _V6, ipv6(a6, b6, 51, struct.pack(">BBHIII", _UDP, 2, 0, 7, 1, 0) + udp("ah6", a6, b6))
    twice = struct.pack(">BBHI", 44, 0, 0, 21) + struct.pack(">BBHI", _UDP, 0, 0, 22)
    yield "two atoms6", "", _V6, ipv6(a6, b6, 44, twice + udp("two atoms6", a6, b6))
    # A whole one in pieces, the first of which has a fragment header of its own and shows another port.
    inner = struct.pack(">BBHI", _UDP, 0, 0, 23) + udp("inner6", a6, b6).ljust(32, b".")
    for number, part in ((1, inner[:8]), (8, inner[8:])):
        yield "inner6", "", _V6, ipv6(a6, b6, 44, struct.pack(">BBHI", 44, 0, number, 24) + part)
    # Ports that come with the second piece.
    options, data = bytes((_UDP, 0, 1, 4, 0, 0, 0, 0)), udp("late ports6", a6, b6)
    for number, part in ((1, options), (8, data)):
        yield "late ports6", "", _V6, ipv6(a6, b6, 44, struct.pack(">BBHI", 60, 0, number, 25) + part)
    # Two first pieces, of which each has ports.
    data = udp("overlap6", a6, b6).ljust(32, b".")
    for number, part in ((1, shown), (0, data)):
        yield "overlap6", "", _V6, ipv6(a6, b6, 44, struct.pack(">BBHI", _UDP, 0, number, 26) + part)


def _addressed(mine: Host, his: Host, gateway: tuple[str, str]) -> Iterator[Frame]:
    """From and to addresses that are not those of the two."""
    (mac, a4, a6), (_, b4, b6) = mine, his
    net4, local = a4.rpartition(".")[0], _local(mac)
    for source, label in (("0.0.0.0", "nobody4"), ("127.0.0.1", "loopback4"), (gateway[0], "gateway4")):
        yield label, "", _V4, ipv4(source, b4, _UDP, udp(label, source, b4))
    for source, label in (
        *(("::", "nobody6"), ("::1", "loopback6"), (gateway[1], "gateway6"), (f"::ffff:{a4}", "mapped")),
        (local, "link-local source"),
    ):
        yield label, "", _V6, ipv6(source, b6, _UDP, udp(label, source, b6))
    for target, to in (
        *(("255.255.255.255", "ff:ff:ff:ff:ff:ff"), (f"{net4}.255", "ff:ff:ff:ff:ff:ff")),
        *(
            ("224.0.0.251", "01:00:5e:00:00:fb"),
            (f"{net4}.200", ""),
            ("255.255.255.255", ""),
            ("127.0.0.1", ""),
        ),
        (f"{net4}.255", ""),
    ):
        label = f"to {target} {to[:5]}".strip()
        yield label, to, _V4, ipv4(a4, target, _UDP, udp(label, a4, target))
    for target, to in (
        ("ff02::fb", "33:33:00:00:00:fb"),
        ("ff05::1:3", ""),
        ("fd09::c8", ""),
        ("fe80::1234", ""),
    ):
        label = f"to {target} {to[:5]}".strip()
        yield label, to, _V6, ipv6(a6, target, _UDP, udp(label, a6, target))


def _of_neighbours(mine: Host, his: Host, gateway: tuple[str, str]) -> Iterator[Frame]:
    """What misleads a neighbour."""
    (mac, _, a6), (_, b4, b6) = mine, his
    local = _local(mac)
    told = b"\2\1" + _mac(mac) + b"\xfd\2" + _named("neighbour", 14)
    body = b"\x20\0\0\0" + ip_address(gateway[1]).packed + told
    yield "neighbour", "", _V6, ipv6(a6, b6, _ICMP6, icmp6(136, a6, b6, body))
    told = b"\2\1" + _mac(mac) + b"\xfd\2" + _named("local nd", 14)
    body = b"\x20\0\0\0" + ip_address(gateway[1]).packed + told
    yield "local nd", "", _V6, ipv6(local, b6, _ICMP6, icmp6(136, local, b6, body))
    body = bytes((64, 0, 7, 8)) + bytes(8) + b"\xfd\2" + _named("router", 14)
    yield "router", "", _V6, ipv6(local, b6, _ICMP6, icmp6(134, local, b6, body))
    head = struct.pack(">HHBBH", 1, _V4, 6, 4, 2)
    ends = _mac(mac) + ip_address(gateway[0]).packed + _mac(his[0]) + ip_address(b4).packed
    yield "arp", "", _ARP, head + ends + _named("arp", 18)
    yield "rarp", "", 0x8035, head + ends + _named("rarp", 18)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def send(ifname: str, said: Mapping[str, list[str]]) -> None:
    mine, his, gateway = tuple(said["mine"]), tuple(said["his"]), tuple(said["gateway"])
    flow = tuple(said.get("flow", his[1:]))
    assert len(mine) == len(his) == 3 and len(gateway) == len(flow) == 2
    listed = [*frames(mine, his, gateway), *to_others(mine, said.get("others", [])), *errors(mine, flow)]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((ifname, 0))
        for name, target, kind, data in listed:
            out.send(_mac(target or his[0]) + _mac(mine[0]) + struct.pack(">H", kind) + data)
            say(name)


def listen(ifname: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as heard:
        heard.bind((ifname, 3))
        say("ready")
        while True:
            data, where = heard.recvfrom(4096)
            if where[2] != socket.PACKET_OUTGOING:
                for name in _NAME.findall(data):
                    say(name.decode())


def hear() -> None:
    """Behind the input of IP: all protocols of both families, whatever the port and the address."""
    kinds = ((socket.AF_INET, (*_PROTOCOLS, 1, 2)), (socket.AF_INET6, (*_PROTOCOLS, _ICMP6)))
    heard = [socket.socket(family, socket.SOCK_RAW, each) for family, listed in kinds for each in listed]
    say("ready")
    while True:
        for each in select.select(heard, [], [])[0]:
            for name in _NAME.findall(each.recv(4096)):
                say(name.decode())


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen(sys.argv[2])
    elif sys.argv[1] == "hear":
        hear()
    else:
        send(sys.argv[2], json.loads(sys.argv[3]))
