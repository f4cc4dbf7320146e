"""Which of many policies may select an endpoint, and which of many endpoints a profile may know, by look-ups.

Both are a superset of what is meant: who asks still has each selector and each peer decide. `Members` groups
endpoints of which all rules say the same, so that what holds for them is found once.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cni_plugins.policy.model import Default, Endpoint, IpNetwork, PeerKind, Selector
from cni_plugins.policy.profile import Profile, networks


def _key(selector: Selector) -> object:
    """One thing that must hold, of the kind that tells most apart; None when nothing has to."""
    if selector.container is not None:
        return "container", selector.container
    for name, value in selector.labels:
        if value is not None:
            return name, value, "label"
    if selector.network is not None:
        return "network", selector.network
    return None


def _keys(endpoint: Endpoint) -> Iterator[object]:
    """All that `_key` may be for a selector that matches the endpoint."""
    yield None
    yield "container", endpoint.container
    yield "network", endpoint.network
    for name, value in dict(endpoint.labels).items():
        yield name, value, "label"


class Index:
    """Of selectors, by their positions."""

    def __init__(self, selectors: Iterable[Selector]) -> None:
        self._found: dict[object, list[int]] = {}
        for number, selector in enumerate(selectors):
            self._found.setdefault(_key(selector), []).append(number)

    def candidates(self, endpoint: Endpoint) -> list[int]:
        """The positions of the selectors that may match, rising."""
        return sorted(number for key in _keys(endpoint) for number in self._found.get(key, ()))


class Peers:
    """Of endpoints, as the peers that profiles know."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = endpoints
        self._found: dict[object, list[int]] = {}
        addresses: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for number, endpoint in enumerate(endpoints):
            for key in _keys(endpoint):
                self._found.setdefault(key, []).append(number)
            for ip in endpoint.addresses:
                addresses[ip.version].append((int(ip), number))
        self._addresses = {version: sorted(listed) for version, listed in addresses.items()}

    def of(self, profile: Profile) -> list[Endpoint]:
        """The endpoints that a rule of the profile may touch, in their order."""
        found: set[int] = set()
        for peer in (peer for rule in profile.rules for peer in rule.peers):
            if peer.kind is PeerKind.ANY:
                return list(self._endpoints)
            if peer.kind is PeerKind.ENDPOINTS:
                found.update(self._found.get(_key(peer.selector), ()))
        for version, ranges in networks(profile).items():
            listed = self._addresses[version]
            for low, end in ranges:
                span = listed[bisect_left(listed, (low, -1)) : bisect_left(listed, (end, -1))]
                found.update(number for _, number in span)
        return [self._endpoints[number] for number in sorted(found)]


Place = tuple[Default, tuple[IpNetwork, ...], str]


@dataclass(slots=True)
class Group:
    """Endpoints that are alike. `places`: where they are, each once: default, subnets and link."""

    members: list[Endpoint]
    places: set[Place]

    @property
    def first(self) -> Endpoint:
        return self.members[0]


def alike(endpoint: Endpoint) -> tuple[object, ...]:
    """What is the same for endpoints of which all rules say the same that name no container."""
    return endpoint.network, endpoint.default, endpoint.groups, endpoint.labels


class Members:
    """The endpoints of a state. Costs about as much to make as to look at each once; may be kept with it."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        self._groups: list[Group] | None = None
        self._peers: Peers | None = None
        self._here: Members | None = None

    @property
    def here(self) -> "Members":
        """Those whose packets the host's own rules judge."""
        if self._here is None:
            listed = tuple(item for item in self.endpoints if not item.inside)
            self._here = self if len(listed) == len(self.endpoints) else Members(listed)
        return self._here

    @property
    def some_inside(self) -> bool:
        """Whether some are judged in their own namespaces."""
        return self.here is not self

    def groups(self, *, each: bool = False) -> list[Group]:
        """The groups; `each`: as if none were alike."""
        if each:
            return [Group([item], {_place(item)}) for item in self.endpoints]
        if self._groups is None:
            found: dict[object, Group] = {}
            for item in self.endpoints:
                group = found.setdefault(alike(item), Group([], set()))
                group.members.append(item)
                group.places.add(_place(item))
            self._groups = list(found.values())
        return self._groups

    @property
    def peers(self) -> Peers:
        if self._peers is None:
            self._peers = Peers(self.endpoints)
        return self._peers

    def without(self, others: "Members") -> list[Endpoint]:
        """The endpoints that are not among the others as they are here."""
        if self.endpoints is others.endpoints:
            return []
        there = {item.identity: item for item in others.endpoints}
        return [
            item
            for item in self.endpoints
            if (other := there.get(item.identity)) is not item and other != item
        ]


def _place(endpoint: Endpoint) -> Place:
    return endpoint.default, endpoint.subnets, endpoint.link
