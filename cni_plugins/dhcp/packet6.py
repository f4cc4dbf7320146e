"""DHCPv6 messages as bytes (RFC 8415 sections 8, 9 and 21; name servers RFC 3646; SOL_MAX_RT RFC 8415 21.24).

Whoever is on the link can send anything: decoding yields a whole message of bounded size or ValueError. What
an option means is said here too, because all that we read of DHCPv6 are addresses, numbers and names.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Interface, IPv6Network

CLIENT_PORT, SERVER_PORT = 546, 547
SERVERS = IPv6Address("ff02::1:2")  # All_DHCP_Relay_Agents_and_Servers
INFINITE = 0xFFFFFFFF
_HEAD = struct.Struct("!HH")
_IA = struct.Struct("!4sII")
_ADDRESS = struct.Struct("!16sII")
_PREFIX = struct.Struct("!IIB16s")
_LARGEST = 1 << 16
_MOST = 256  # options of one message or of one option
_MOST_ADDRESSES = 16
_LONGEST_TEXT = 200
LONGEST_DUID = 130  # RFC 8415 section 11.1: a type of 2 bytes and at most 128


class Kind(IntEnum):
    """msg-type, RFC 8415 section 7.3."""

    SOLICIT = 1
    ADVERTISE = 2
    REQUEST = 3
    CONFIRM = 4
    RENEW = 5
    REBIND = 6
    REPLY = 7
    RELEASE = 8
    DECLINE = 9
    RECONFIGURE = 10
    INFORMATION = 11


class Option(IntEnum):
    """The options that we read or make."""

    CLIENT_ID = 1
    SERVER_ID = 2
    IA_NA = 3
    ADDRESS = 5
    REQUEST = 6
    PREFERENCE = 7
    ELAPSED = 8
    STATUS = 13
    RAPID_COMMIT = 14
    NAME_SERVERS = 23
    SEARCH = 24
    IA_PD = 25
    PREFIX = 26
    SOL_MAX_RT = 82


class Status(IntEnum):
    """RFC 8415 section 21.13; what is not listed counts as UNSPECIFIED."""

    SUCCESS = 0
    UNSPECIFIED = 1
    NO_ADDRESS = 2
    NO_BINDING = 3
    NOT_ON_LINK = 4
    USE_MULTICAST = 5
    NO_PREFIX = 6


@dataclass(frozen=True, slots=True)
class Message:
    """`transaction` has 24 bits; `options` are numbers and bytes in their order."""

    kind: Kind
    transaction: int
    options: tuple[tuple[int, bytes], ...] = ()

    def first(self, number: int) -> bytes:
        """The first option of that number, b"" without one."""
        return next((value for key, value in self.options if key == number), b"")

    def has(self, number: int) -> bool:
        return any(key == number for key, _ in self.options)

    @property
    def client(self) -> bytes:
        return self.first(Option.CLIENT_ID)

    @property
    def server(self) -> bytes:
        """The server's DUID, b"" when it is missing or none."""
        found = self.first(Option.SERVER_ID)
        return found if 3 <= len(found) <= LONGEST_DUID else b""

    @property
    def preference(self) -> int:
        """Option 7: 0 without one; 255 wants to be taken at once."""
        found = self.first(Option.PREFERENCE)
        return found[0] if len(found) == 1 else 0

    @property
    def status(self) -> tuple[Status, str]:
        """What the server says of the whole message, as printable text."""
        return status_of(self.options)


@dataclass(frozen=True, slots=True)
class Given:
    """An address of an IA, or the first one of a prefix of `length` bits, and the seconds that it is
    preferred and valid for (INFINITE for ever).
    """

    address: IPv6Address
    preferred: int
    valid: int
    length: int = 128

    @property
    def interface(self) -> IPv6Interface:
        """An address is alone: what is on the link, routers advertise (RFC 5942 section 4)."""
        return IPv6Interface((self.address, self.length))


@dataclass(frozen=True, slots=True)
class Association:
    """An IA_NA or IA_PD as a server gave it. `addresses` are those that a host can have, or prefixes of such,
    `gone` those whose valid lifetime is 0: they may not be used any more.
    """

    t1: int
    t2: int
    addresses: tuple[Given, ...]
    gone: frozenset[IPv6Address]
    status: Status = Status.SUCCESS
    said: str = ""


def encode(message: Message) -> bytes:
    head = bytes((message.kind,)) + message.transaction.to_bytes(3, "big")
    return head + pack(message.options)


def pack(options: tuple[tuple[int, bytes], ...]) -> bytes:
    return b"".join(_HEAD.pack(number, len(value)) + value for number, value in options)


def decode(data: bytes) -> Message:
    """The message of a UDP payload. ValueError for what is none."""
    if not 4 <= len(data) <= _LARGEST:
        raise ValueError(f"a DHCPv6 message has 4 to {_LARGEST} bytes, this one {len(data)}")
    return Message(Kind(data[0]), int.from_bytes(data[1:4], "big"), options_of(data[4:]))


def options_of(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """The options of a message or of an option. ValueError."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if at + _HEAD.size > len(data) or len(found) == _MOST:
            raise ValueError("an option is cut off, or there are more than anybody needs")
        number, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if at + length > len(data):
            raise ValueError(f"option {number} goes past the end of the message")
        found.append((number, data[at : at + length]))
        at += length
    return tuple(found)


def status_of(options: tuple[tuple[int, bytes], ...]) -> tuple[Status, str]:
    """Option 13 and its text, SUCCESS without one. One that is too short says nothing good."""
    raw = next((value for number, value in options if number == Option.STATUS), None)
    if raw is None:
        return Status.SUCCESS, ""
    number = int.from_bytes(raw[:2], "big") if len(raw) >= 2 else int(Status.UNSPECIFIED)
    said = raw[2 : 2 + _LONGEST_TEXT].decode("utf-8", "replace")
    known = Status(number) if number in set(Status) else Status.UNSPECIFIED
    return known, "".join(char for char in said if char.isprintable())


def association(iaid: bytes, address: IPv6Address | None = None) -> tuple[int, bytes]:
    """An IA_NA that asks for an address, or speaks of the one that we have: times are the server's affair."""
    inside = b""
    if address is not None:
        inside = pack(((int(Option.ADDRESS), _ADDRESS.pack(address.packed, 0, 0)),))
    return int(Option.IA_NA), _IA.pack(iaid, 0, 0) + inside


def delegation(iaid: bytes, prefix: IPv6Interface) -> tuple[int, bytes]:
    """An IA_PD that asks for a prefix (`::` and the length that is wanted, RFC 8415 18.2.1), or speaks of the
    one that we have.
    """
    packed = _PREFIX.pack(0, 0, prefix.network.prefixlen, prefix.network.network_address.packed)
    return int(Option.IA_PD), _IA.pack(iaid, 0, 0) + pack(((int(Option.PREFIX), packed),))


def association_of(message: Message, iaid: bytes, *, prefix: bool = False) -> Association | None:
    """The IA_NA, or IA_PD for a `prefix`, of `iaid`; None without one, and for one whose T1 is after its T2,
    which has to be passed over (RFC 8415 sections 21.4, 21.21). What is no address of a host's, or is
    preferred for longer than it is valid, is left out (21.6, 21.22).
    """
    wanted, listing = (Option.IA_PD, Option.PREFIX) if prefix else (Option.IA_NA, Option.ADDRESS)
    for number, value in message.options:
        if number != wanted or len(value) < _IA.size:
            continue
        found, t1, t2 = _IA.unpack_from(value)
        if found != iaid or 0 < t2 < t1:
            continue
        try:
            inside = options_of(value[_IA.size :])
        except ValueError:
            continue
        listed = [raw for key, raw in inside if key == listing][:_MOST_ADDRESSES]
        read = _given_prefix if prefix else _given
        addresses = [item for raw in listed if (item := read(raw)) is not None]
        status, said = status_of(inside)
        return Association(
            t1,
            t2,
            tuple(item for item in addresses if item.valid),
            frozenset(item.address for item in addresses if not item.valid),
            status,
            said,
        )
    return None


def _given(raw: bytes) -> Given | None:
    if len(raw) < _ADDRESS.size:
        return None
    packed, preferred, valid = _ADDRESS.unpack_from(raw)
    return _fine(Given(IPv6Address(packed), preferred, valid), raw[_ADDRESS.size :])


def _given_prefix(raw: bytes) -> Given | None:
    """Bits beyond the length are nobody's (RFC 8415 section 21.22)."""
    if len(raw) < _PREFIX.size:
        return None
    preferred, valid, length, packed = _PREFIX.unpack_from(raw)
    if not 0 < length <= 128:
        return None
    network = IPv6Network((packed, length), strict=False)
    return _fine(Given(network.network_address, preferred, valid, length), raw[_PREFIX.size :])


def _fine(given: Given, inside: bytes) -> Given | None:
    """What has these options in it; None when a host cannot use it."""
    try:
        status, _ = status_of(options_of(inside))
    except ValueError:
        return None
    fine = given.preferred <= given.valid and status is Status.SUCCESS and is_host(given.address)
    return given if fine else None


def is_host(address: IPv6Address) -> bool:
    """Whether an interface can have the address for talking beyond its link."""
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.ipv4_mapped is not None
    )


def servers_of(options: Mapping[int, bytes]) -> tuple[str, ...]:
    """Option 23: the name servers that a resolver can ask without naming a link."""
    raw = options.get(Option.NAME_SERVERS, b"")
    listed = (IPv6Address(raw[at : at + 16]) for at in range(0, len(raw) - 15, 16))
    return tuple(dict.fromkeys(str(item) for item in listed if is_host(item)))[:_MOST_ADDRESSES]
