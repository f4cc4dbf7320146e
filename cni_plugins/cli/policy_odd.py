"""What in policies is no error, and most likely not meant."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cni_plugins.policy.compile import Compiler
from cni_plugins.policy.model import Direction, Endpoint, PeerKind, Policy, Rule, Selector
from cni_plugins.policy.traffic import LANES, Lanes, lanes
from cni_plugins.spec.identity import Identity
from cni_plugins.view.attachments import Published


def suspicions(
    policies: Sequence[Policy],
    endpoints: Sequence[Endpoint],
    published: Mapping[Identity, Sequence[Published]],
) -> list[str]:
    """What is no error, and most likely not meant. `published`: the ports of endpoints, by their identity."""
    odd: list[str] = []
    for policy in policies:
        if endpoints and not any(policy.selector.matches(item) for item in endpoints):
            odd.append(f"{policy.where}: policy {policy.name!r} selects no container now")
        for direction in Direction:
            for rule in policy.rules(direction) or ():
                odd += [
                    f"{rule.where}: a peer of policy {policy.name!r} matches no container now"
                    for peer in rule.peers
                    if endpoints
                    and peer.kind is PeerKind.ENDPOINTS
                    and not any(peer.selector.matches(item) for item in endpoints)
                ]
        if policy.egress is not None and not policy.keep and not _resolves(policy):
            odd.append(f"{policy.where}: policy {policy.name!r} closes egress and allows no DNS (udp/53)")
        if policy.untracked and policy.audit:
            odd.append(
                f"{policy.where}: policy {policy.name!r} is on trial, so its untracked: both does nothing"
            )
    odd += _near_equals(policies, endpoints)
    return [*odd, *_node_ports(policies, endpoints, published), *_without_answers(policies, endpoints)]


def _without_answers(policies: Sequence[Policy], endpoints: Sequence[Endpoint]) -> list[str]:
    """Containers that have untracked packets judged, and yet get no untracked answer: no rule says which."""
    if not any(policy.untracked for policy in policies):
        return []
    compiler = Compiler(policies)
    return [
        f"container {item.container}: what it gets is judged where nobody tracks it, and its egress is open: "
        "no untracked answer reaches it but by an ingress rule for the port that it asks from"
        for item in endpoints
        if (assigned := compiler.assignment(item)).take and not assigned.shut_out
    ]


def _node_ports(
    policies: Sequence[Policy],
    endpoints: Sequence[Endpoint],
    published: Mapping[Identity, Sequence[Published]],
) -> Iterator[str]:
    """Rules about a port of the node, where policy judges the container's that it leads to."""
    listed = [(item, port) for item in endpoints for port in published.get(Identity(*item.identity), ())]
    for policy, direction, allow in itertools.product(policies if listed else (), Direction, (True, False)):
        rules = [rule for rule in policy.rules(direction) or () if rule.allow is allow]
        meant = lanes([item for rule in rules for item in rule.traffic], 4)
        found = {
            (rule.where, port): item.container
            for rule, said in [(rule, lanes(rule.traffic, 4)) for rule in rules]
            for item, port in reversed(listed)
            if _has(said, port.protocol, port.host_port)
            and not _has(meant, port.protocol, port.container_port)
            and _is_judged(policy, rule, direction, item)
        }
        for (where, port), container in found.items():
            yield (
                f"{where}: policy {policy.name!r} {'allows' if allow else 'denies'} "
                f"{port.protocol}/{port.host_port}, which is the node's port; policy judges that of "
                f"{container}, {port.protocol}/{port.container_port}"
            )


def _is_judged(policy: Policy, rule: Rule, direction: Direction, endpoint: Endpoint) -> bool:
    """Whether the ports that a rule is about are the endpoint's."""
    if direction is Direction.INGRESS:
        return policy.selector.matches(endpoint)
    return any(peer.kind is PeerKind.ENDPOINTS and peer.selector.matches(endpoint) for peer in rule.peers)


def _has(said: Lanes, protocol: str, port: int) -> bool:
    return protocol in LANES and any(low <= port <= high for low, high in said[LANES.index(protocol)])


def _resolves(policy: Policy) -> bool:
    listed = [rule for rule in policy.egress or () if rule.allow]
    return any(low <= 53 <= high for rule in listed for low, high in lanes(rule.traffic, 4)[1])


def _near_equals(policies: Sequence[Policy], endpoints: Sequence[Endpoint]) -> list[str]:
    """Of what policies name and containers have: groups, and labels of which a policy names one."""
    selectors: list[Selector] = []
    for policy in policies:
        selectors.append(policy.selector)
        for direction in Direction:
            selectors += [peer.selector for rule in policy.rules(direction) or () for peer in rule.peers]
    groups = {name for selector in selectors for name in selector.groups}
    groups.update(name for item in endpoints for name in item.groups)
    named = {label for selector in selectors for label in selector.labels}
    plain = {(_plain(key), _plain(value or "")) for key, value in named}
    labels = {f"{key}={value or ''}" for key, value in named}
    labels.update(
        f"{key}={value}"
        for item in endpoints
        for key, value in item.labels
        if (_plain(key), _plain(value)) in plain
    )
    return [*_alike("groups", groups), *_alike("labels", labels)]


def _plain(name: str) -> str:
    """What a reader takes a name for."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def _alike(what: str, names: Iterable[str]) -> Iterator[str]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(_plain(name), []).append(name)
    for listed in found.values():
        if len(listed) > 1:
            # In ASCII: two forms of one letter look the same.
            shown = ", ".join(map(ascii, listed))
            yield f"{what} {shown} differ in case, space or form only: different {what}"
