"""DHCPv4 messages as bytes (RFC 2131 section 2, RFC 2132; long options RFC 3396; overload RFC 2132 9.3).

Whoever is on the link can send anything, so decoding bounds what it reads and either yields a whole message
or ValueError. pyroute2's `dhcp4msg` makes the same bytes (a test compares them); reading is our own, because
its decoder stops silently at the first option that it cannot read, joins no long options and knows none of
33, 119 and 121.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address

SERVER_PORT, CLIENT_PORT = 67, 68
_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_REQUEST, _REPLY, _ETHERNET = 1, 2, 1
_BROADCAST = 0x8000
_SHORTEST = 300  # BOOTP relays drop what is shorter (RFC 1542 section 2.1)
_NOBODY = IPv4Address(0)


class Kind(IntEnum):
    """Option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7


class Option(IntEnum):
    """The options that we read or make (RFC 2132; 119 RFC 3397; 121 RFC 3442)."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTERS = 3
    NAME_SERVERS = 6
    HOST_NAME = 12
    DOMAIN = 15
    MTU = 26
    STATIC_ROUTES = 33
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    KIND = 53
    SERVER = 54
    PARAMETERS = 55
    MESSAGE = 56
    LONGEST = 57
    T1 = 58
    T2 = 59
    VENDOR_CLASS = 60
    CLIENT_ID = 61
    USER_CLASS = 77
    SEARCH = 119
    CLASSLESS_ROUTES = 121
    END = 255


@dataclass(frozen=True, slots=True)
class Message:
    """`options` by number, without 53, each with all its bytes; `mac` is the client's hardware address."""

    kind: Kind
    transaction: int
    mac: bytes
    options: Mapping[int, bytes] = field(default_factory=dict)
    client: IPv4Address = _NOBODY
    yours: IPv4Address = _NOBODY
    relay: IPv4Address = _NOBODY
    seconds: int = 0
    broadcast: bool = False

    @property
    def server(self) -> IPv4Address | None:
        """Option 54, None when it is missing or no address."""
        raw = self.options.get(Option.SERVER, b"")
        return IPv4Address(raw) if len(raw) == 4 and any(raw) else None


def encode(message: Message, *, reply: bool = False) -> bytes:
    """The bytes of a message; options over 255 bytes are split (RFC 3396)."""
    header = _HEADER.pack(
        _REPLY if reply else _REQUEST,
        _ETHERNET,
        len(message.mac),
        0,
        message.transaction,
        min(message.seconds, 0xFFFF),
        _BROADCAST if message.broadcast else 0,
        message.client.packed,
        message.yours.packed,
        bytes(4),
        message.relay.packed,
        message.mac,
        b"",
        b"",
        _COOKIE,
    )
    parts = [header, bytes((Option.KIND, 1, message.kind))]
    for number, value in message.options.items():
        for start in range(0, max(1, len(value)), 255):
            piece = value[start : start + 255]
            parts.append(bytes((number, len(piece))) + piece)
    parts.append(bytes((Option.END,)))
    return b"".join(parts).ljust(_SHORTEST, b"\0")


def decode(data: bytes, *, reply: bool = True) -> Message:
    """The message of a UDP payload; `reply` for one of a server. ValueError for what is none."""
    if len(data) < _HEADER.size:
        raise ValueError(f"a DHCP message has {_HEADER.size} bytes at least, this one {len(data)}")
    (
        direction, hardware, length, _, transaction, seconds, flags, client, yours, _, relay, mac, name, file,
        cookie,
    ) = _HEADER.unpack_from(data)  # fmt: skip
    if direction != (_REPLY if reply else _REQUEST):
        raise ValueError("a request where a reply is due, or a reply where a request is")
    if cookie != _COOKIE:
        raise ValueError("not DHCP: the magic cookie is missing")
    if hardware != _ETHERNET or length != 6:
        raise ValueError(f"hardware type {hardware} with addresses of {length} bytes is not Ethernet")
    options: dict[int, bytes] = {}
    _collect(data[_HEADER.size :], options)
    overload = options.get(Option.OVERLOAD, b"\0")[:1]
    if overload in (b"\1", b"\3"):
        _collect(file, options)
    if overload in (b"\2", b"\3"):
        _collect(name, options)
    kind = options.pop(Option.KIND, b"")
    if len(kind) != 1:
        raise ValueError("option 53, the kind of message, is missing")
    return Message(
        Kind(kind[0]),
        transaction,
        mac[:6],
        options,
        IPv4Address(client),
        IPv4Address(yours),
        IPv4Address(relay),
        seconds,
        bool(flags & _BROADCAST),
    )


def _collect(data: bytes, options: dict[int, bytes]) -> None:
    """Add the options of one field; those that come in pieces are joined. ValueError."""
    at = 0
    while at < len(data):
        number = data[at]
        if number == Option.END:
            return
        if number == Option.PAD:
            at += 1
            continue
        if at + 1 >= len(data) or at + 2 + data[at + 1] > len(data):
            raise ValueError(f"option {number} goes past the end of the message")
        end = at + 2 + data[at + 1]
        options[number] = options.get(number, b"") + data[at + 2 : end]
        at = end
