"""What a policy says, and what it is about."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from cni_plugins.spec.values import Ip

IpNetwork = IPv4Network | IPv6Network

REPLIES = {4: {8: 0, 13: 14}, 6: {128: 129}}  #: ICMP types that conntrack pairs: a request and its reply


class Default(StrEnum):
    """What holds in a network where no policy selects an endpoint."""

    OPEN = "open"
    ISOLATED = "isolated"
    GROUPS = "groups"


class Direction(StrEnum):
    INGRESS = "ingress"
    EGRESS = "egress"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One interface of a container. `link` is the host's layer 3 interface towards it, `port` what its frames
    come in by, `bridged` whether that is a port of a bridge. One whose packets the host does not see is
    judged in its own network namespace: `netns` is the runtime's path to that, `netns_id` its fingerprint.
    """

    network: str
    container: str
    ifname: str
    addresses: tuple[Ip, ...]
    subnets: tuple[IpNetwork, ...] = ()
    groups: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str], ...] = ()
    default: Default = Default.OPEN
    link: str = ""
    port: str = ""
    bridged: bool = False
    netns: str = ""
    netns_id: tuple[int, ...] = ()

    @property
    def inside(self) -> bool:
        return bool(self.netns_id)

    @property
    def identity(self) -> tuple[str, str, str]:
        return self.network, self.container, self.ifname

    def of_family(self, version: int) -> tuple[Ip, ...]:
        return tuple(item for item in self.addresses if item.version == version)


@dataclass(frozen=True, slots=True)
class Selector:
    """All of what is given must hold: any of `groups`, every label (a value of None: any value)."""

    network: str | None = None
    groups: tuple[str, ...] = ()
    labels: tuple[tuple[str, str | None], ...] = ()
    container: str | None = None

    def matches(self, endpoint: Endpoint) -> bool:
        if self.network is not None and self.network != endpoint.network:
            return False
        if self.container is not None and self.container != endpoint.container:
            return False
        if self.groups and endpoint.groups.isdisjoint(self.groups):
            return False
        if not self.labels:
            return True
        have = dict(endpoint.labels)
        return all(key in have and value in (None, have[key]) for key, value in self.labels)


class PeerKind(StrEnum):
    ENDPOINTS = "endpoints"
    CIDR = "cidr"
    HOST = "host"
    WORLD = "world"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of a rule."""

    kind: PeerKind
    selector: Selector = Selector()
    cidr: IpNetwork | None = None
    excepted: tuple[IpNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Traffic:
    """`protocol`: any, tcp, udp, sctp, icmp, icmpv4 or icmpv6. `low` to `high` are ports, or types of
    the ICMP of one family.
    """

    protocol: str
    low: int = 0
    high: int = 65535


@dataclass(frozen=True, slots=True)
class Rule:
    """`where` is the file and line it stands in."""

    allow: bool
    traffic: tuple[Traffic, ...]
    peers: tuple[Peer, ...]
    where: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """A direction of None is not spoken of; an empty one allows nothing. `keep`: so does the default.
    `untracked`: packets that nobody tracks are judged too, by either end of them as the opener.
    """

    name: str
    selector: Selector
    ingress: tuple[Rule, ...] | None = None
    egress: tuple[Rule, ...] | None = None
    keep: bool = False
    audit: bool = False
    where: str = ""
    untracked: bool = False

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        return self.ingress if direction is Direction.INGRESS else self.egress
