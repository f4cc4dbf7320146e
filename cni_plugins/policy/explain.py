"""What becomes of a packet, by the sets themselves: the walk that the kernel's chains do, done on their
contents; and which rules say so.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cni_plugins.policy import traffic
from cni_plugins.policy.model import Default, Direction, Endpoint, Peer, PeerKind, Policy, Rule
from cni_plugins.policy.profile import END_OF_INTERVAL, Entry, Profile, covers, for_host, touches
from cni_plugins.policy.rules import applying, effective
from cni_plugins.spec.values import Ip

Sets = Callable[[str], Iterable[Entry]]
_ICMP = (1, 58)


@dataclass(frozen=True, slots=True)
class Packet:
    """The first of a flow; `port` is an ICMP type for ICMP, 0 for what has neither. `from_port` counts for
    who looks at packets alone, not at flows.
    """

    source: Ip
    target: Ip
    protocol: int
    port: int = 0
    from_port: int = 0

    @property
    def version(self) -> int:
        return self.source.version


@dataclass(slots=True)
class Judgement:
    """`end` is the side that refused: source, target, or "" ; `steps` are what was looked up."""

    allowed: bool = True
    end: str = ""
    audited: bool = False
    steps: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one end is judged: the sets there, what the maps of profiles are called, and the key of the end
    in them (its address; in a container's namespace its interface).
    """

    sets: Sets
    prefix: str = "policy_"
    key: bytes = b""


def judge(
    sets: Sets, profiles: Mapping[str, Profile], packet: Packet, inside: Mapping[str, Place] | None = None
) -> Judgement:
    """A packet between two addresses. `inside`: the ends (source, target) that are not judged by the host's
    sets but in their own namespace.
    """
    inside = inside or {}
    found = Judgement()
    v, source, target = packet.version, packet.source.packed, packet.target.packed
    if not inside and _is_nobodys(sets, packet, found):
        return found
    for end, table, mine, peer in (
        ("source", "out", source, target),
        ("target", "in", target, source),
    ):
        place = inside.get(end) or Place(sets, key=mine)
        passed = _profile(place, profiles, packet, (table, peer), found)
        if not passed and not _has(sets(f"policy_self{v}"), source + target):
            found.allowed, found.end = False, end
            return found
    return found


def _is_nobodys(sets: Sets, packet: Packet, found: Judgement) -> bool:
    v, source = packet.version, packet.source.packed
    if not _within(sets(f"policy_closed{v}"), source) or _has(sets(f"policy_known{v}"), source):
        return False
    found.steps.append(f"policy_closed{v}: {packet.source} is nobody's address")
    found.allowed, found.end = False, "source"
    return True


def judge_untracked(
    sets: Sets, profiles: Mapping[str, Profile], packet: Packet, inside: Mapping[str, Place] | None = None
) -> Judgement:
    """As `judge`, of a packet that nobody tracks: an end that is closed refuses it, or, where policy wants
    such packets judged, lets pass what its rules allow as a request or as an answer.
    """
    inside = inside or {}
    found = Judgement()
    v, source, target = packet.version, packet.source.packed, packet.target.packed
    if not inside and _is_nobodys(sets, packet, found):
        return found
    for end, table, shut, mine, peer in (
        ("source", "send", "shut_out", source, target),
        ("target", "take", "shut_in", target, source),
    ):
        place = inside.get(end) or Place(sets, key=mine)
        name = f"{place.prefix}{table}{v}"
        chain = next((entry.chain for entry in place.sets(name) if entry.key == place.key), "")
        profile = profiles.get(chain.rpartition("_")[0])
        if profile is not None:
            hit = _hit(place.sets, profile.request[0], packet, peer) or (
                profile.answer[0] and _hit(place.sets, profile.answer[0], _answering(packet), peer)
            )
            found.steps.append(f"{name} -> {chain}: {hit or 'in none of its sets'}")
            passed = bool(hit)
        else:
            closed = f"{place.prefix}{shut}{v if place.prefix == 'policy_' else ''}"
            passed = not _has(place.sets(closed), place.key)
            known = f"{name} -> {chain}, which nobody knows" if chain else f"{name}: no element"
            found.steps.append(known + ("" if passed else f", and in {closed}"))
        if not passed and not _has(sets(f"policy_self{v}"), source + target):
            found.allowed, found.end = False, end
            return found
    return found


def _answering(packet: Packet) -> Packet:
    """With the port of the end that answers; an ICMP type stays what it is."""
    icmp = packet.protocol == _ICMP[packet.version == 6]
    port = packet.port if icmp else packet.from_port
    return Packet(packet.source, packet.target, packet.protocol, port)


def judge_host(
    place: Place, packet: Packet, always: Collection[tuple[int, int]], *, outward: bool
) -> Judgement:
    """A packet of a container to the host itself (`outward`), or from it. `place` is where the container is
    judged; `always`: protocols and ports of the host that are never closed.
    """
    found, v = Judgement(), packet.version
    if outward and (packet.protocol, packet.port) in always:
        found.steps.append("the agent's port, DHCP and neighbour discovery of the host are never closed")
        return found
    way = f"{place.prefix}{'host' if outward else 'from'}{v}"
    chain = next((entry.chain for entry in place.sets(way) if entry.key == place.key), "")
    if not chain:
        found.steps.append(f"{way}: no element")
        return found
    name, fields = chain.rpartition("_")[0], (packet.protocol.to_bytes(1, "big") + bytes(3),)
    icmp = packet.protocol == _ICMP[v == 6]
    port = (0 if icmp else packet.port).to_bytes(2, "big") + bytes(2)
    hit = _in_boxes(place.sets(f"{name}_w{v}"), (*fields, port)) or (
        icmp and _has(place.sets(f"{name}_t{v}"), packet.port.to_bytes(1, "big"))
    )
    found.steps.append(f"{way} -> {chain}: {'found' if hit else 'in none of its sets'}")
    if hit != outward:  # what is from the host is listed where it is refused
        found.allowed, found.end = False, "source" if outward else "target"
    return found


def _profile(
    place: Place,
    profiles: Mapping[str, Profile],
    packet: Packet,
    where: tuple[str, bytes],
    found: Judgement,
) -> bool:
    """Whether one end lets the packet pass."""
    table, peer = where
    sets, v = place.sets, packet.version
    name = f"{place.prefix}{table}{v}"
    chain = next((entry.chain for entry in sets(name) if entry.key == place.key), "")
    if not chain:
        shut = _has(sets(f"{place.prefix}shut_{table}{v if place.prefix == 'policy_' else ''}"), place.key)
        found.steps.append(f"{name}: no element" + (", and shut" if shut else ""))
        return not shut
    way = name
    name = chain.rpartition("_")[0]
    while True:
        profile = profiles.get(name)
        hit = _hit(sets, name, packet, peer)
        found.steps.append(f"{way} -> {name}_{v}: {hit or 'in none of its sets'}")
        if profile is None or not profile.then:
            return bool(hit)
        found.audited = found.audited or not hit
        if profile.then == "-":
            return True
        name = profile.then


def _hit(sets: Sets, name: str, packet: Packet, peer: bytes) -> str:
    v, protocol = packet.version, packet.protocol.to_bytes(1, "big") + bytes(3)
    icmp = packet.protocol == _ICMP[v == 6]
    port = (0 if icmp else packet.port).to_bytes(2, "big") + bytes(2)
    kind = packet.port.to_bytes(1, "big") + bytes(3) if icmp else b""
    exact = {"p": b"" if icmp else peer + protocol + port, "a": peer + protocol, "h": peer}
    if icmp:
        exact["i"] = peer + kind
    for each, key in exact.items():
        if key and _has(sets(f"{name}_{each}{v}"), key):
            return f"{name}_{each}{v}"
    if _in_boxes(sets(f"{name}_r{v}"), (peer, protocol, port)):
        return f"{name}_r{v}"
    if not _has(sets(f"policy_known{v}"), peer):
        if _in_boxes(sets(f"{name}_c{v}"), (peer, protocol, port)):
            return f"{name}_c{v}"
        if icmp and _in_boxes(sets(f"{name}_n{v}"), (peer, kind)):
            return f"{name}_n{v}"
    return ""


def _has(entries: Iterable[Entry], key: bytes) -> bool:
    return any(entry.key == key for entry in entries)


def _in_boxes(entries: Iterable[Entry], fields: Sequence[bytes]) -> bool:
    """Concatenated intervals are compared field by field."""
    for entry in entries:
        at = 0
        for value in fields:
            low, high = entry.key[at : at + len(value)], (entry.end or entry.key)[at : at + len(value)]
            if not low <= value <= high:
                break
            at += len(value)
        else:
            return True
    return False


def _within(entries: Iterable[Entry], key: bytes) -> bool:
    """Plain intervals: the last bound that is not above the key decides."""
    below = [(entry.key, not entry.flags & END_OF_INTERVAL) for entry in entries if entry.key <= key]
    return bool(below) and max(below)[1]


@dataclass(frozen=True, slots=True)
class Reason:
    """What one rule, or the default of a network, says of a packet at one end."""

    end: str
    verdict: str
    policy: str
    where: str


def reasons(
    policies: Sequence[Policy], source: Endpoint | None, target: Endpoint | None, packet: Packet
) -> list[Reason]:
    """Every rule that speaks of the packet; and, where none allows it, what closed the end. `None` is the
    world.
    """
    found: list[Reason] = []
    for end, mine, peer, direction, address in (
        ("source", source, target, Direction.EGRESS, packet.target),
        ("target", target, source, Direction.INGRESS, packet.source),
    ):
        if mine is None:
            continue
        listed = applying(policies, mine, direction)
        speaking = [
            Reason(end, _word(policy, rule), policy.name, rule.where)
            for policy in listed
            for rule in policy.rules(direction) or ()
            if _speaks(rule, peer, address, packet)
        ]
        enforced = [policy for policy in listed if not policy.audit]
        if speaking:
            found += speaking
        elif enforced and not all(policy.keep for policy in enforced):
            first = next(policy for policy in enforced if not policy.keep)
            found.append(Reason(end, f"no rule allows it ({direction})", first.name, first.where))
        if all(policy.keep for policy in enforced):
            rules = effective([], mine, direction)
            allows = any(_speaks(rule, peer, address, packet) for rule in rules)
            default = Default(mine.default).value
            found.append(
                Reason(end, "allowed" if allows else "not allowed", f"{mine.network} is {default}", "")
            )
    return found


def host_reasons(
    policies: Sequence[Policy], endpoint: Endpoint, packet: Packet, *, outward: bool
) -> list[Reason]:
    """As `reasons`, of a packet to the host (`outward`) or from it: the host may reach a container unless a
    rule denies it.
    """
    end = "source" if outward else "target"
    direction = Direction.EGRESS if outward else Direction.INGRESS
    listed = applying(policies, endpoint, direction)
    speaking = [
        Reason(end, _word(policy, rule), policy.name, rule.where)
        for policy in listed
        for rule in policy.rules(direction) or ()
        if (outward or not rule.allow) and for_host([rule]) and _carries(rule, packet)
    ]
    enforced = [policy for policy in listed if not policy.audit]
    if speaking:
        return speaking
    if not outward:
        return [Reason(end, "allowed, as no rule denies it", "the host itself", "")]
    if enforced and not all(policy.keep for policy in enforced):
        first = next(policy for policy in enforced if not policy.keep)
        return [Reason(end, f"no rule allows it ({direction})", first.name, first.where)]
    closed = Default(endpoint.default) is Default.ISOLATED
    word = "not allowed" if closed else "allowed"
    return [Reason(end, word, f"{endpoint.network} is {Default(endpoint.default).value}", "")]


def _word(policy: Policy, rule: Rule) -> str:
    word = "allowed" if rule.allow else "denied"
    return f"audit: {word}" if policy.audit else word


def _speaks(rule: Rule, peer: Endpoint | None, address: Ip, packet: Packet) -> bool:
    return any(_meant(item, peer, address) for item in rule.peers) and _carries(rule, packet)


def _carries(rule: Rule, packet: Packet) -> bool:
    """Whether a rule's traffic is the packet's."""
    lanes = traffic.lanes(rule.traffic, packet.version)
    numbers = traffic.NUMBERS[packet.version]
    if packet.protocol not in numbers:
        return bool(lanes[traffic.OTHER])
    ranges = lanes[numbers.index(packet.protocol)]
    return any(low <= packet.port <= high for low, high in ranges)


def _meant(item: Peer, peer: Endpoint | None, address: Ip) -> bool:
    if peer is not None:
        return touches(item, peer, address)
    if item.kind in (PeerKind.WORLD, PeerKind.ANY):
        return True
    return item.kind is PeerKind.CIDR and covers(item, address)
