"""A lease: what was asked for, what the server gave, and how long it holds.

Times are seconds of the clock that counts from the boot, suspension included (CLOCK_BOOTTIME). `began` is
when the REQUEST was sent that the server agreed to: from then on it counts (RFC 2131 section 4.4.1).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface

from cni_plugins.dhcp import options
from cni_plugins.dhcp.packet import Message, Option
from cni_plugins.spec.identity import Identity
from cni_plugins.spec.result import Address, Result
from cni_plugins.spec.values import JsonObject
from cni_plugins.store import boot

INFINITE = 0xFFFFFFFF
VERSION = 1


class State(StrEnum):
    """RFC 2131 figure 5, as a file can have it: INIT is a lease that has ended and is asked for anew."""

    INIT = "init"
    REQUESTING = "requesting"
    BOUND = "bound"
    RENEWING = "renewing"
    REBINDING = "rebinding"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the client says of itself in every message; `options` are those that it gives, `parameters` those
    that it asks for, by number.
    """

    client_id: bytes
    parameters: tuple[int, ...]
    options: Mapping[int, bytes] = field(default_factory=dict)
    broadcast: bool = False
    priority: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """The interface: `netns` is the path that the runtime gave, believed only while what is there is
    `netns_id` (see kernel.namespace.fingerprint). A link of another name is the one if it has the MAC
    address; "" is none's.
    """

    netns: str
    netns_id: tuple[int, ...]
    ifname: str
    mac: str


def is_held(state: State, boot_id: str, end: float) -> bool:
    """Whether what a server gave counts: of this boot, and not over."""
    return state not in {State.INIT, State.REQUESTING} and boot_id == boot.current() and boot.elapsed() < end


def end_of(began: float, seconds: int) -> float:
    """The moment that a lease ends; never, for INFINITE."""
    return began + seconds if seconds != INFINITE else float("inf")


@dataclass(frozen=True, slots=True)
class Lease:
    """A DHCPv4 lease."""

    identity: Identity
    place: Place
    wish: Wish
    state: State = State.INIT
    address: IPv4Interface | None = None
    server: IPv4Address | None = None
    server_mac: str = ""
    options: Mapping[int, bytes] = field(default_factory=dict)
    began: float = 0.0
    boot: str = ""
    told: str = ""  # the last thing that an operator should know of it

    @property
    def version(self) -> int:
        return 4

    @property
    def noun(self) -> str:
        """What it is a lease of, for sentences."""
        return "address"

    @property
    def loss(self) -> str:
        """What it means that it has ended."""
        return "the address is taken away"

    @property
    def seconds(self) -> int:
        """How long it holds; INFINITE for ever."""
        return options.seconds(self.options.get(Option.LEASE_TIME, b"")) or 0

    @property
    def preferred(self) -> int:
        """IPv4 prefers an address for as long as it is valid."""
        return self.seconds

    @property
    def end(self) -> float:
        return end_of(self.began, self.seconds)

    def _part(self, option: Option, share: float) -> float:
        if self.seconds == INFINITE:
            return float("inf")
        given = options.seconds(self.options.get(option, b""))
        wanted = given if given and given < self.seconds else self.seconds * share
        return self.began + wanted

    @property
    def t1(self) -> float:
        """When it is renewed: half its time unless the server says otherwise, always before `t2`."""
        return min(self._part(Option.T1, 0.5), self.t2)

    @property
    def t2(self) -> float:
        """When it is rebound: 7/8 of its time unless the server says otherwise."""
        return self._part(Option.T2, 0.875)

    @property
    def this_boot(self) -> bool:
        return self.boot == boot.current()

    @property
    def holds(self) -> bool:
        """Whether the address is the container's at this moment."""
        return self.address is not None and is_held(self.state, self.boot, self.end)

    def result(self) -> Result:
        """What the IPAM plugin answers. The lease must have an address."""
        assert self.address is not None
        gateway = options.gateway_of(self.options)
        return Result(
            ips=(Address(self.address, gateway),),
            routes=options.routes_of(self.options, self.wish.priority),
            dns=options.dns_of(self.options),
        )


def granted(lease: Lease, message: Message, sent: float, server_mac: str) -> Lease:
    """The lease after an ACK to what was sent at `sent`."""
    return replace(
        lease,
        state=State.BOUND,
        address=options.interface_of(message.yours, message.options),
        server=message.server or lease.server,
        server_mac=server_mac,
        options=dict(message.options),
        began=sent,
        boot=boot.current(),
        told="",
    )


def encode(lease: Lease) -> JsonObject:
    return {
        "version": VERSION,
        **encode_place(lease.identity, lease.place),
        "clientID": lease.wish.client_id.hex(),
        "request": list(lease.wish.parameters),
        "provide": _hex(lease.wish.options),
        "broadcast": lease.wish.broadcast,
        "priority": lease.wish.priority,
        "state": lease.state.value,
        "address": None if lease.address is None else str(lease.address),
        "server": None if lease.server is None else str(lease.server),
        "serverMAC": lease.server_mac,
        "options": _hex(lease.options),
        "began": lease.began,
        "boot": lease.boot,
        "told": lease.told,
    }


def encode_place(identity: Identity, place: Place) -> JsonObject:
    """Whose a lease is, and where."""
    return {
        "network": identity.network,
        "containerID": identity.container_id,
        "ifname": identity.ifname,
        "netns": place.netns,
        "netnsID": list(place.netns_id),
        "mac": place.mac,
    }


def decode_place(document: JsonObject) -> tuple[Identity, Place]:
    """KeyError, TypeError or ValueError for what is none."""
    ifname = str(document["ifname"])
    identity = Identity(str(document["network"]), str(document["containerID"]), ifname)
    netns_id = tuple(int(item) for item in document["netnsID"])
    return identity, Place(str(document["netns"]), netns_id, ifname, str(document["mac"]))


def _hex(values: Mapping[int, bytes]) -> dict[str, str]:
    return {str(number): value.hex() for number, value in values.items()}


def _bytes(values: JsonObject) -> dict[int, bytes]:
    return {int(number): bytes.fromhex(value) for number, value in values.items()}


def decode(document: JsonObject) -> Lease:
    """The lease of a file. ValueError for what is none; fields that a later release added are passed over."""
    try:
        address, server, priority = document["address"], document["server"], document["priority"]
        identity, place = decode_place(document)
        return Lease(
            identity,
            place,
            Wish(
                bytes.fromhex(document["clientID"]),
                tuple(int(item) for item in document["request"]),
                _bytes(document["provide"]),
                bool(document["broadcast"]),
                None if priority is None else int(priority),
            ),
            State(document["state"]),
            None if address is None else options.network(address),
            None if server is None else IPv4Address(server),
            str(document["serverMAC"]),
            _bytes(document["options"]),
            float(document["began"]),
            str(document["boot"]),
            str(document.get("told", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not a lease: {type(error).__name__}: {error}") from error
