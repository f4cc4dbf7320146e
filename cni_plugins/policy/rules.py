"""Which rules hold for an endpoint: those of the policies that select it, and its network's default."""

from collections.abc import Iterable, Sequence

from cni_plugins.policy.model import (
    Default,
    Direction,
    Endpoint,
    Peer,
    PeerKind,
    Policy,
    Rule,
    Selector,
    Traffic,
)

_ANY = (Traffic("any"),)


def _plain(rule: Rule) -> Rule:
    """Without where it stands, which is no part of what a profile is."""
    return Rule(rule.allow, rule.traffic, rule.peers)


def by_text(rules: Iterable[Rule]) -> dict[str, Rule]:
    """Each rule once, by what it says, in that order."""
    found = {repr(plain): plain for plain in map(_plain, rules)}
    return {text: found[text] for text in sorted(found)}


def _base(endpoint: Endpoint, direction: Direction) -> list[Rule]:
    """What the network's default allows."""
    anybody = Rule(True, _ANY, (Peer(PeerKind.ANY),))
    if endpoint.default is Default.OPEN:
        return [anybody]
    if endpoint.default is Default.ISOLATED:
        return []
    if direction is Direction.EGRESS:
        return [anybody]
    peers = [Peer(PeerKind.WORLD)]
    if endpoint.groups:
        members = Selector(network=endpoint.network, groups=tuple(sorted(endpoint.groups)))
        peers.append(Peer(PeerKind.ENDPOINTS, members))
    return [Rule(True, _ANY, tuple(peers))]


def unrestricted(rules: Iterable[Rule]) -> bool:
    """Whether they allow everything with everybody."""
    listed = tuple(rules)
    everybody = any(
        rule.allow and _ANY[0] in rule.traffic and any(peer.kind is PeerKind.ANY for peer in rule.peers)
        for rule in listed
    )
    return everybody and all(rule.allow for rule in listed)


def applying(policies: Iterable[Policy], endpoint: Endpoint, direction: Direction) -> list[Policy]:
    """The policies that speak of this direction of the endpoint."""
    return [
        policy
        for policy in policies
        if policy.rules(direction) is not None and policy.selector.matches(endpoint)
    ]


def effective(policies: Sequence[Policy], endpoint: Endpoint, direction: Direction) -> list[Rule]:
    """The rules that hold: those of `policies`, and the default's where none of them has replaced it."""
    rules = [rule for policy in policies for rule in policy.rules(direction) or ()]
    if all(policy.keep for policy in policies):
        rules += _base(endpoint, direction)
    return rules


def judges_untracked(policies: Iterable[Policy], endpoint: Endpoint) -> bool:
    """Whether a policy that is in force wants the endpoint's packets judged that nobody tracks."""
    return any(
        policy.untracked and not policy.audit and policy.selector.matches(endpoint) for policy in policies
    )


def names_containers(policy: Policy) -> bool:
    """Whether the policy, or a peer of its rules, is about a container by its id."""
    peers = (peer for direction in Direction for rule in policy.rules(direction) or () for peer in rule.peers)
    return any(item.container is not None for item in (policy.selector, *(peer.selector for peer in peers)))


def different(some: Sequence[Policy], others: Sequence[Policy]) -> list[Policy]:
    """The policies that only one of both has."""
    names = {item.name: item for item in some}, {item.name: item for item in others}
    return [
        item
        for listed, there in ((some, names[1]), (others, names[0]))
        for item in listed
        if (other := there.get(item.name)) is not item and other != item
    ]
