"""Which of many policies may select an endpoint, and which of many endpoints a profile may know, by look-ups.

Both are a superset of what is meant: who asks still has each selector and each peer decide.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from cni_plugins.policy.model import Endpoint, PeerKind, Selector
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
