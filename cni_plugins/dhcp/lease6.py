"""A DHCPv6 lease: one address of an IA_NA, or one prefix of an IA_PD. As `lease`, with the names of RFC 8415.

`began` is when the message was sent that the server's Reply agreed to. T1 and T2 are the server's where it
gives them, else 0.5 and 0.8 of the preferred lifetime (RFC 8415 section 14.2), and never after the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Interface, IPv6Network

from cni_plugins.dhcp import options as text
from cni_plugins.dhcp import packet6
from cni_plugins.dhcp.lease import Lease, Place, State, decode_place, encode_place, end_of, is_held
from cni_plugins.dhcp.lease import decode as decode4
from cni_plugins.dhcp.lease import encode as encode4
from cni_plugins.dhcp.packet6 import INFINITE, Association, Given, Message, Option
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.result import Address, Dns, Result
from cni_plugins.spec.values import JsonObject
from cni_plugins.store import boot

FAMILY = "ipv6"
VERSION = 1
_KEPT = (Option.NAME_SERVERS, Option.SEARCH)
_SHORTEST = 1.0  # seconds: a server that wants to be asked more often is not
_SOL_MAX_RT = (60, 86400)  # RFC 8415 section 21.24
DEFAULT_MAX_RT = 3600
#: Prefixes that a network can have: a shorter one would take half the world from this host, out of a longer
#: one no container could get an address.
SHORTEST_PREFIX, LONGEST_PREFIX = 32, 120


@dataclass(frozen=True, slots=True)
class Wish6:
    """`parameters` are the options that it asks for, by number; `length` that of the prefix that is wanted, 0
    for an address.
    """

    duid: bytes
    iaid: bytes
    parameters: tuple[int, ...]
    length: int = 0


@dataclass(frozen=True, slots=True)
class Lease6:
    identity: Identity
    place: Place
    wish: Wish6
    state: State = State.INIT
    address: IPv6Interface | None = None
    preferred: int = 0
    valid: int = 0
    renew: int = 0
    rebind: int = 0
    server_id: bytes = b""
    options: Mapping[int, bytes] = field(default_factory=dict)
    began: float = 0.0
    boot: str = ""
    told: str = ""
    longest: int = DEFAULT_MAX_RT  # SOL_MAX_RT, seconds

    @property
    def version(self) -> int:
        return 6

    @property
    def delegated(self) -> bool:
        """Whether it is of a prefix, for a network of this host, and not of an interface's address."""
        return self.wish.length > 0

    @property
    def noun(self) -> str:
        """What it is a lease of, for sentences."""
        return "prefix" if self.delegated else "address"

    @property
    def loss(self) -> str:
        """What it means that it has ended."""
        if not self.delegated:
            return "the address is taken away"
        return "containers keep their addresses of it, which nobody routes any more, and new ones get none"

    @property
    def subject(self) -> str:
        """The address without a length, or the prefix; "" before there is one."""
        if self.address is None:
            return ""
        return str(self.address if self.delegated else self.address.ip)

    @property
    def prefix(self) -> IPv6Network:
        """What it is of; it must have it."""
        assert self.address is not None
        return self.address.network

    @property
    def server(self) -> str:
        """The server, as people read it; "" before there is one."""
        return self.server_id.hex(":")

    @property
    def seconds(self) -> int:
        """How long it holds; INFINITE for ever."""
        return self.valid

    @property
    def end(self) -> float:
        return end_of(self.began, self.valid)

    @property
    def is_preferred(self) -> bool:
        """Whether new connections are to be made from it at this moment."""
        return self.preferred == INFINITE or boot.elapsed() < self.began + self.preferred

    def _moment(self, given: int, share: float) -> float:
        if INFINITE in {given, self.valid}:
            return float("inf")
        wanted = given or (self.preferred or self.valid) * share
        return self.began + max(_SHORTEST, wanted)

    @property
    def t1(self) -> float:
        return min(self._moment(self.renew, 0.5), self.t2)

    @property
    def t2(self) -> float:
        return min(self._moment(self.rebind, 0.8), self.end)

    @property
    def this_boot(self) -> bool:
        return self.boot == boot.current()

    @property
    def holds(self) -> bool:
        """Whether the address is the container's at this moment."""
        return self.address is not None and is_held(self.state, self.boot, self.end)

    @property
    def dns(self) -> Dns:
        return dns_of(self.options)

    def result(self) -> Result:
        """What the IPAM plugin answers: an address alone, since DHCPv6 has no routes. It must have one."""
        assert self.address is not None
        return Result(ips=(Address(self.address),), dns=self.dns)


def dns_of(options: Mapping[int, bytes]) -> Dns:
    """Options 23 and 24 (RFC 3646); names as in DNS, which may not be compressed here."""
    return Dns(packet6.servers_of(options), "", tuple(text.search_of(options.get(Option.SEARCH, b""))))


def kept(message: Message) -> dict[int, bytes]:
    """The options of a Reply that mean something to us."""
    return {int(number): message.first(number) for number in _KEPT if message.first(number)}


def longest_of(message: Message, before: int) -> int:
    """SOL_MAX_RT as a server sets it; `before` when it does not, or to what nobody may."""
    raw = message.first(Option.SOL_MAX_RT)
    low, high = _SOL_MAX_RT
    value = int.from_bytes(raw, "big") if len(raw) == 4 else 0
    return value if low <= value <= high else before


def chosen(lease: Lease6, found: Association) -> Given | None:
    """The address of an IA that is ours from now on: the one that we have, else the first; of prefixes those
    that a network can have.
    """
    can = [
        item
        for item in found.addresses
        if not lease.delegated or SHORTEST_PREFIX <= item.length <= LONGEST_PREFIX
    ]
    same = next((item for item in can if item.interface == lease.address), None)
    return same or next(iter(can), None)


def association(lease: Lease6, message: Message) -> Association | None:
    """The IA of a message that is this lease's."""
    return packet6.association_of(message, lease.wish.iaid, prefix=lease.delegated)


def granted(lease: Lease6, message: Message, found: Association, given: Given, sent: float) -> Lease6:
    """The lease after a Reply to what was sent at `sent`."""
    return replace(
        lease,
        state=State.BOUND,
        address=given.interface,
        preferred=given.preferred,
        valid=given.valid,
        renew=found.t1,
        rebind=found.t2,
        server_id=message.server,
        options=kept(message),
        began=sent,
        boot=boot.current(),
        told="",
        longest=longest_of(message, lease.longest),
    )


def encode(lease: Lease6) -> JsonObject:
    return {
        "version": VERSION,
        "family": FAMILY,
        **encode_place(lease.identity, lease.place),
        "duid": lease.wish.duid.hex(),
        "iaid": lease.wish.iaid.hex(),
        "request": list(lease.wish.parameters),
        "prefixLength": lease.wish.length,
        "state": lease.state.value,
        "address": None if lease.address is None else str(lease.address),
        "preferred": lease.preferred,
        "valid": lease.valid,
        "t1": lease.renew,
        "t2": lease.rebind,
        "serverDUID": lease.server_id.hex(),
        "options": {str(number): value.hex() for number, value in lease.options.items()},
        "began": lease.began,
        "boot": lease.boot,
        "told": lease.told,
        "solMaxRT": lease.longest,
    }


def decode(document: JsonObject) -> Lease6:
    """The lease of a file. ValueError for what is none; fields that a later release added are passed over."""
    try:
        address = document["address"]
        identity, place = decode_place(document)
        return Lease6(
            identity,
            place,
            Wish6(
                bytes.fromhex(document["duid"]),
                bytes.fromhex(document["iaid"]),
                tuple(int(item) for item in document["request"]),
                int(document.get("prefixLength", 0)),
            ),
            State(document["state"]),
            None if address is None else IPv6Interface(address),
            int(document["preferred"]),
            int(document["valid"]),
            int(document["t1"]),
            int(document["t2"]),
            bytes.fromhex(document["serverDUID"]),
            {int(number): bytes.fromhex(value) for number, value in document["options"].items()},
            float(document["began"]),
            str(document["boot"]),
            str(document.get("told", "")),
            int(document.get("solMaxRT", DEFAULT_MAX_RT)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not a lease: {type(error).__name__}: {error}") from error


AnyLease = Lease | Lease6


def encode_any(lease: AnyLease) -> JsonObject:
    return encode(lease) if isinstance(lease, Lease6) else encode4(lease)


def decode_any(document: JsonObject) -> AnyLease:
    """The lease of a file, of either family. ValueError for what is none."""
    return decode(document) if document.get("family") == FAMILY else decode4(document)
