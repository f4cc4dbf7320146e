"""A DHCPv6 server, run in a namespace of a node, that answers each question with everything a hostile host of
the link could think of, and then, if told so, with a right answer.

    hostile_dhcp6.py INTERFACE ADDRESS SECONDS WAYS

An ADDRESS with a length is a prefix to delegate.

WAYS, with commas between them: `noise` malformed messages and messages for others before each right answer;
`flood` thousands of refusals, each with a text of its own, and no right answer; `offers` thousands of offers;
`naked` a reply to a renewal that gives the address a lifetime of 0; `aged` one that is not preferred
any more; `moved` another prefix in its place, `taken` one that is in use; `forever` a lifetime without end;
`once` a preference that ends the client's wait for other offers; `deaf` an address that is preferred for a
second, and no answer to renewals; `each` a prefix for each client, whose DUID is the name of another way.
Each right answer is a line on standard output: the kind of message that it answers.
"""

from __future__ import annotations

import ipaddress
import os
import random
import socket
import struct
import sys
from collections.abc import Iterator

SOLICIT, ADVERTISE, REQUEST, RENEW, REBIND, REPLY, RECONFIGURE = 1, 2, 3, 5, 6, 7, 10
NOBODY = b"\0\3\0\1\2\2\2\2\2\2"
SERVER = b"\0\3\0\1\2\0\0\0\0\1"
FLOOD = 20_000
NAMES = "fd77::53"
MOVED, TAKEN = "fd78:0:0:f0::/60", "fd77::/56"
UNUSABLE = [
    *("::/0", "::/64", "fd79:bad::/129", "fd79:bad::/255", "fd79:bad::/0", "fd79:bad::/127", "fd00::/8"),
    *("2000::/3", "fe80::/64", "ff02::/64", "ff00::/32", "::ffff:0:0/96", "::1/64"),
]


def option(number: int, value: bytes) -> bytes:
    return struct.pack("!HH", number, len(value)) + value


def address(text: str, preferred: int, valid: int, inside: bytes = b"") -> bytes:
    """An address, or a prefix where `text` has a length, of any number from 0 to 255."""
    first, slash, length = text.partition("/")
    packed, times = ipaddress.IPv6Address(first).packed, struct.pack("!II", preferred, valid)
    if slash:
        return option(26, times + bytes((int(length),)) + packed + inside)
    return option(5, packed + times + inside)


def ia(iaid: bytes, inside: bytes, t1: int = 0, t2: int = 0) -> bytes:
    """An IA_PD if a prefix is in it, else an IA_NA."""
    number = 25 if inside[:2] == b"\0\x1a" else 3
    return option(number, iaid + struct.pack("!II", t1, t2) + inside)


def options(data: bytes) -> dict[int, bytes]:
    found, at = {}, 4
    while at < len(data):
        number, length = struct.unpack_from("!HH", data, at)
        found[number] = data[at + 4 : at + 4 + length]
        at += 4 + length
    return found


class Server:
    def __init__(self, ifname: str, given: str, seconds: int, ways: set[str]) -> None:
        self.given, self.seconds, self.ways = given, seconds, ways
        self.first, self.clients = ways, dict[bytes, str]()
        self.dice = random.Random(7)
        self.sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode())
        self.sock.bind(("::", 547))
        group = ipaddress.IPv6Address("ff02::1:2").packed + struct.pack("@I", socket.if_nametoindex(ifname))
        self.sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)

    def serve(self) -> None:
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        while True:
            question, peer = self.sock.recvfrom(65535)
            for answer in self.answers(question):
                self.sock.sendto(answer, peer)

    def answers(self, question: bytes) -> Iterator[bytes]:
        kind, number, asked = question[0], question[1:4], options(question)
        who, iaid = asked[1], asked.get(25, asked.get(3, b""))[:4]
        answer = ADVERTISE if kind == SOLICIT else REPLY
        if "each" in self.first:
            self.given = self.clients.setdefault(who, f"fd78:0:0:{len(self.clients) + 1:x}0::/60")
            self.ways = {*self.first, who.decode("ascii", "replace")}
        right = self.head(answer, number, who)
        if "flood" in self.ways:
            for count in range(FLOOD):
                said = option(
                    13,
                    (b"\0\6" if 25 in asked else b"\0\2")
                    + f"no {count} ".encode()
                    + os.urandom(30).hex().encode(),
                )
                yield right + (option(25, iaid + bytes(8) + said) if 25 in asked else ia(iaid, said))
            return
        if "offers" in self.ways and kind == SOLICIT:
            for count in range(FLOOD):
                padding = option(4000, bytes(1000))
                yield right + ia(iaid, address(f"fd77::bad:{count % 65536:x}", 60, 60)) + padding
        if "noise" in self.ways:
            yield from self.noise(answer, number, who, iaid, right)
        if "deaf" in self.ways and kind in {RENEW, REBIND}:
            return
        yield right + option(23, ipaddress.IPv6Address(NAMES).packed) + ia(iaid, self.lease(kind))
        sys.stdout.write(f"{kind}\n")
        sys.stdout.flush()

    def head(self, kind: int, number: bytes, who: bytes, server: bytes = SERVER) -> bytes:
        preference = option(7, b"\xff") if "once" in self.ways else b""
        return bytes((kind,)) + number + option(1, who) + option(2, server) + preference

    def lease(self, kind: int) -> bytes:
        if "naked" in self.ways and kind == RENEW:
            return address(self.given, 0, 0)
        if "moved" in self.ways and kind == RENEW:
            return address(self.given, 0, 0) + address(MOVED, self.seconds, self.seconds)
        if "taken" in self.ways and kind == RENEW:
            return address(TAKEN, self.seconds, self.seconds)
        if "aged" in self.ways and kind == RENEW:
            return address(self.given, 0, self.seconds)
        seconds = 0xFFFFFFFF if "forever" in self.ways else self.seconds
        if "deaf" in self.ways:
            return address(self.given, 1, 600)
        return address(self.given, seconds, seconds)

    def noise(self, kind: int, number: bytes, who: bytes, iaid: bytes, right: bytes) -> Iterator[bytes]:
        wrong = "fd79:bad::/60" if "/" in self.given else "fd77::bad"
        bad = ia(iaid, address(wrong, 3000, 3000))
        other = bytes((number[0] ^ 1,)) + number[1:]
        yield b""
        yield from (bytes(count) for count in (1, 3, 4, 5, 1400))
        yield from (os.urandom(count) for count in (4, 60, 1400))
        yield right + bad[:-3]  # an option that is cut off
        yield right + struct.pack("!HH", 3, 65535) + b"x"
        yield right + bytes(1200)  # 300 empty options
        yield self.head(kind, other, who) + bad  # another transaction
        yield self.head(kind, number, NOBODY) + bad  # another client
        yield self.head(kind, number, who, b"") + bad  # no server's identifier
        yield self.head(kind, number, who, b"x" * 200) + bad
        yield bytes((kind,)) + number + option(1, who) + bad
        yield self.head(RECONFIGURE, number, who) + bad
        yield self.head(REPLY if kind == ADVERTISE else ADVERTISE, number, who) + bad  # no rapid commit
        yield self.head(99, number, who) + bad
        yield right + ia(b"none", address(wrong, 3000, 3000))  # another association
        yield right + ia(iaid, address(wrong, 3000, 3000), 500, 100)  # T1 after T2
        yield right + ia(iaid, address(wrong, 3000, 30))  # preferred for longer than valid
        yield right + ia(iaid, address(wrong, 3000, 3000, option(13, b"\0\5")))
        if kind == ADVERTISE:  # the reply to a request ends it, and the client asks all anew
            yield from (right + ia(iaid, address(item, 3000, 3000)) for item in ("ff02::1", "::", "::1"))
            yield right + ia(iaid, address("fe80::1", 3000, 3000))
            yield right + ia(iaid, address("::ffff:10.0.0.1", 3000, 3000))
            yield right + ia(iaid, address(wrong, 0, 0))
            if "/" in self.given:
                yield from (right + ia(iaid, address(item, 3000, 3000)) for item in UNUSABLE)
            yield right + option(13, b"\0\2no \x1b[31m\n\0address") + bad
            yield right + option(13, b"\0") + bad


if __name__ == "__main__":
    _, link, offered, lasting, how = sys.argv
    Server(link, offered, int(lasting), set(how.split(","))).serve()
