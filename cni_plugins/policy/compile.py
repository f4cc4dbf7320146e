"""Policies and endpoints to what the kernel holds: who has which profile, and the entries of the shared sets.

Whoever comes or goes is an entry more or less in the sets of the profiles that know it. `Compiler.change` is
what leads from one state to another.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import collapse_addresses

from cni_plugins.policy import selection
from cni_plugins.policy.model import Default, Direction, Endpoint, IpNetwork, Policy, Rule
from cni_plugins.policy.names import Names, Pairs, digest
from cni_plugins.policy.profile import (
    Entry,
    Profile,
    for_host,
    host_entries,
    host_lanes,
    interface,
    interval,
    needed,
    networks,
    outside,
    placed,
    towards,
)
from cni_plugins.policy.rules import (
    applying,
    by_text,
    different,
    effective,
    judges_untracked,
    names_containers,
    unrestricted,
)
from cni_plugins.policy.selection import Group, Members
from cni_plugins.policy.traffic import FULL, NONE, Lanes

_WRITTEN = 2  # rises with a release that writes the same profile as other rules


@dataclass(frozen=True, slots=True)
class Assignment:
    """The names of an endpoint's profiles, "" for none; `shut_*`: whether no profile would mean no way."""

    out: str = ""
    into: str = ""
    host: str = ""
    back: str = ""
    send: str = ""
    take: str = ""
    shut_out: bool = False
    shut_in: bool = False

    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self.lanes())

    def renamed(self, names: Mapping[str, str]) -> "Assignment":
        return replace(self, out=names.get(self.out, self.out), into=names.get(self.into, self.into))

    def lanes(self) -> Iterator[tuple[str, str]]:
        """What maps to each profile that there is: `out`, `in`, `host`, `from`, and for what nobody tracks
        `send` and `take`; and the profile's name.
        """
        named = (
            *(("out", self.out), ("in", self.into), ("host", self.host), ("from", self.back)),
            *(("send", self.send), ("take", self.take)),
        )
        return ((lane, name) for lane, name in named if name)


@dataclass(slots=True)
class Compiled:
    """All of it. `entries` are those of the shared sets and of all profiles' sets."""

    profiles: dict[str, Profile]
    entries: set[Entry]


@dataclass(slots=True)
class Change:
    """From one state to another, for `kernel.nft.policy`: what is new stands before what is given up."""

    new: list[Profile] = field(default_factory=list)
    dead: list[Profile] = field(default_factory=list)
    fill: set[Entry] = field(default_factory=set)
    add: set[Entry] = field(default_factory=set)
    remove: set[Entry] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.new or self.dead or self.fill or self.add or self.remove)


class Compiler:
    """Of one set of policies; remembers what holds for endpoints that are alike. `before` is one of other
    policies: what it knows of endpoints that no policy selects which only one of both has is not worked out
    again. `names`: of profiles that are called otherwise than by their content, both (names.py).
    """

    def __init__(
        self, policies: Sequence[Policy], before: "Compiler | None" = None, names: Pairs = ()
    ) -> None:
        self.policies = tuple(policies)
        self.profiles: dict[str, Profile] = {}
        self._names = Names(names)
        named: dict[int, bool] = {} if before is None else before._by_container
        # By identity, which is a policy's own as long as one of both holds it.
        self._by_container: dict[int, bool] = {
            id(item): named[id(item)] if id(item) in named else names_containers(item) for item in policies
        }
        self.by_container = any(self._by_container.values())
        self._latest: tuple[Members, dict[str, Profile], frozenset[Entry]] | None = None
        self._grouped: tuple[Members, list[tuple[Group, Assignment]]] | None = None
        self._assigned: dict[object, Assignment] = {}
        self._towards: dict[object, Lanes] = {}
        self._index = selection.Index(policy.selector for policy in policies)
        self._inherited: dict[object, Assignment] = {}
        self._before: dict[str, Profile] = {}
        self._changed: list[Policy] = []
        if before is not None and before.by_container == self.by_container:
            self._inherited = before._assigned
            self._changed = different(before.policies, self.policies)
            self._changed_index = selection.Index(policy.selector for policy in self._changed)
            self._before = before.profiles

    def assignment(self, endpoint: Endpoint) -> Assignment:
        alike = self._alike(endpoint)
        found = self._assigned.get(alike)
        if found is None:
            found = self._inherited.get(alike)
            if found is None or self._is_affected(endpoint):
                found = self._assign(endpoint)
            else:
                self._inherit(found)
            self._assigned[alike] = found
        return found

    def _inherit(self, assigned: Assignment) -> None:
        for name in assigned.names():
            profile = self.profiles[name] = self._before[name]
            if profile.then in self._before:
                self.profiles[profile.then] = self._before[profile.then]

    def _is_affected(self, endpoint: Endpoint) -> bool:
        candidates = self._changed_index.candidates(endpoint)
        return any(self._changed[number].selector.matches(endpoint) for number in candidates)

    def _selecting(self, endpoint: Endpoint) -> list[Policy]:
        """The policies that may select the endpoint, in their order: those of which a part holds."""
        return [self.policies[number] for number in self._index.candidates(endpoint)]

    def _alike(self, endpoint: Endpoint) -> object:
        """What is the same for endpoints of which all rules say the same, but for those with a CIDR."""
        found = selection.alike(endpoint)
        return (*found, endpoint.container) if self.by_container else found

    def _known(self, profile: Profile, endpoint: Endpoint) -> Iterator[Entry]:
        """The entries of a profile's sets for one endpoint as the peer."""
        alike, ranges = self._alike(endpoint), networks(profile)
        for ip in endpoint.addresses:
            number = int(ip)
            apart = any(low <= number < end for low, end in ranges[ip.version])
            place = (profile.name, alike, ip if apart else ip.version)
            lanes = self._towards.get(place)
            if lanes is None:
                lanes = self._towards[place] = towards(profile, endpoint, ip)
            if lanes != NONE:
                yield from placed(profile.name, ip.version, ip.packed, lanes)

    def _assign(self, endpoint: Endpoint) -> Assignment:
        names: dict[Direction, str] = {}
        shut: dict[Direction, bool] = {}
        rules: dict[Direction, list[Rule]] = {}
        judging: dict[Direction, str] = {}
        candidates = self._selecting(endpoint)
        for direction, kind in ((Direction.EGRESS, "out"), (Direction.INGRESS, "in")):
            listed = applying(candidates, endpoint, direction)
            enforced = [policy for policy in listed if not policy.audit]
            rules[direction] = effective(enforced, endpoint, direction)
            closed = not unrestricted(rules[direction])
            name = judging[direction] = self._profile(kind, rules[direction]) if closed else ""
            if len(enforced) < len(listed):
                name = self._profile(kind, effective(listed, endpoint, direction), then=name or "-")
            names[direction], shut[direction] = name, closed
        answers: list[Rule] = []
        send, take = "", ""
        if judges_untracked(candidates, endpoint):
            out, into = judging[Direction.EGRESS], judging[Direction.INGRESS]
            send, take = self._untracked("send", out, into), self._untracked("take", into, out)
            answers = for_host(rules[Direction.INGRESS]) if into else []
        return Assignment(
            out=names[Direction.EGRESS],
            into=names[Direction.INGRESS],
            host=self._towards_host(rules[Direction.EGRESS], answers) if shut[Direction.EGRESS] else "",
            back=self._from_host(rules[Direction.INGRESS]),
            send=send,
            take=take,
            shut_out=shut[Direction.EGRESS],
            shut_in=shut[Direction.INGRESS],
        )

    def _untracked(self, kind: str, request: str, answer: str) -> str:
        """The profile of what nobody tracks and an end sends or takes, "" where that end is not closed. Only
        a closed direction has rules: what is open lets no answer in, or anything would be one.
        """
        if not request:
            return ""
        name = f"{kind}_{digest(f'({_WRITTEN}, {kind!r}, {request!r}, {answer!r})')}"
        request_sets = self.profiles[request].sets
        answer_sets = self.profiles[answer].sets if answer else frozenset()
        self.profiles[name] = Profile(
            name,
            kind,
            (),
            frozenset(),
            request=(request, request_sets),
            answer=(answer, answer_sets),
            content=name,
        )
        return name

    def _towards_host(self, rules: Iterable[Rule], answers: Sequence[Rule]) -> str:
        listed = for_host(rules)
        return (
            ""
            if all(host_lanes(listed, version) == FULL for version in (4, 6))
            else self._profile("host", listed, answers=answers)
        )

    def _from_host(self, rules: Iterable[Rule]) -> str:
        denied = [Rule(True, rule.traffic, rule.peers) for rule in for_host(rules) if not rule.allow]
        return self._profile("from", denied) if denied else ""

    def _profile(self, kind: str, rules: Iterable[Rule], then: str = "", answers: Sequence[Rule] = ()) -> str:
        said = by_text(rules)
        # As repr() writes a tuple of the rules: they name profiles that the kernel holds already.
        text = f"({_WRITTEN}, {kind!r}, ({', '.join(said)}{',' if len(said) == 1 else ''}), {then!r})"
        answering = by_text(answers)
        content = f"{kind}_{digest(text + ''.join(answering))}"
        name = self._names.of(content)
        if name not in self.profiles:
            listed = tuple(said.values())
            of_host = frozenset("wts" if answering else "wt")
            sets = of_host if kind in ("host", "from") else needed(listed)
            self.profiles[name] = Profile(
                name, kind, listed, sets, then, answers=tuple(answering.values()), content=content
            )
        return name

    @property
    def names(self) -> Pairs:
        return self._names.pairs

    def rename(self, names: Mapping[str, str]) -> None:
        """Call profiles otherwise, each by a name that no other one has."""
        profiles = {name: self.profiles.pop(old) for old, name in names.items()}
        self.profiles |= {name: replace(profile, name=name) for name, profile in profiles.items()}
        self._names.add({profile.content: name for name, profile in profiles.items()})
        self._assigned = {alike: found.renamed(names) for alike, found in self._assigned.items()}
        self._latest = self._grouped = None
        self._towards.clear()

    def settle(self, members: Members) -> None:
        """Make `names` those of these endpoints; what other endpoints' profiles were called is forgotten."""
        if not self._names:
            return
        firsts = [group.first for group in members.groups(each=self.by_container)]
        self._assigned = {self._alike(first): self.assignment(first) for first in firsts}
        used = [self._profiles(assigned) for assigned in self._assigned.values()]
        self.profiles = {name: profile for found in used for name, profile in found.items()}
        self._names.become(
            {profile.content: name for name, profile in self.profiles.items() if profile.content != name}
        )

    def used(self, members: Members) -> dict[str, Profile]:
        """The profiles that the host's rules need, and those that they go on to."""
        return self._of(members)[1]

    def _of(self, members: Members) -> tuple[Members, dict[str, Profile], frozenset[Entry]]:
        """What `used` and `shared` say: of the same endpoints after one change and before the next."""
        if self._latest is None or self._latest[0] is not members:
            self._latest = members, self._used(members), frozenset(self._shared(members))
        return self._latest

    def _used(self, members: Members) -> dict[str, Profile]:
        found: dict[str, Profile] = {}
        for _, assigned in self._assignments(members.here):
            found.update(self._profiles(assigned))
        return found

    def _assignments(self, members: Members) -> list[tuple[Group, Assignment]]:
        """What each group of endpoints that are alike has."""
        if self._grouped is None or self._grouped[0] is not members:
            listed = members.groups(each=self.by_container)
            self._grouped = members, [(group, self.assignment(group.first)) for group in listed]
        return self._grouped[1]

    def of_one(self, endpoint: Endpoint) -> dict[str, Profile]:
        """The profiles of an endpoint, and those that they go on to."""
        return self._profiles(self.assignment(endpoint))

    def _profiles(self, assigned: Assignment) -> dict[str, Profile]:
        found: dict[str, Profile] = {}
        for name in assigned.names():
            profile = self.profiles[name]
            found[name] = profile
            if profile.then in self.profiles:
                found[profile.then] = self.profiles[profile.then]
        return found

    def compile(self, endpoints: Iterable[Endpoint] | Members) -> Compiled:
        members = _judged(endpoints)
        profiles = self.used(members)
        entries = self.shared(members)
        for profile in profiles.values():
            entries.update(self.filled(profile, members))
        for endpoint in members.endpoints:
            entries.update(self.own(endpoint))
        self._towards.clear()  # of all endpoints by all profiles: more than a process that lives should keep
        return Compiled(profiles, entries)

    def filled(self, profile: Profile, members: Members) -> Iterator[Entry]:
        """All that is in the sets of a profile."""
        if profile.kind in ("send", "take"):
            return
        if profile.kind in ("host", "from"):
            yield from host_entries(profile)
            return
        yield from outside(profile)
        for endpoint in members.peers.of(profile):
            yield from self._known(profile, endpoint)

    def shared(self, members: Members) -> set[Entry]:
        """What several endpoints stand behind."""
        return set(self._of(members)[2])

    def _shared(self, members: Members) -> set[Entry]:
        found: set[Entry] = set()
        subnets: set[IpNetwork] = set()
        for group, assigned in self._assignments(members.here):
            for default, listed, link in group.places:
                if default is not Default.OPEN:
                    subnets.update(listed)
                if link and (assigned.shut_out or assigned.shut_in):
                    found.add(Entry("policy_links", interface(link)))
                if link and assigned.host:
                    found.add(Entry("policy_host_links", interface(link)))
        for version in (4, 6):
            mine = [item for item in subnets if item.version == version]
            for network in collapse_addresses(mine):  # type: ignore[type-var]
                found.update(interval(f"policy_closed{version}", network))
        return found

    def own(self, endpoint: Endpoint) -> Iterator[Entry]:
        """The entries that are an endpoint's alone, in the host's rules."""
        if endpoint.inside:
            for ip in endpoint.addresses:
                yield Entry(f"policy_known{ip.version}", ip.packed)
            return
        assigned = self.assignment(endpoint)
        if endpoint.port and (self.policies or endpoint.default is not Default.OPEN):
            yield from _guarded(endpoint, assigned)
        for ip in endpoint.addresses:
            v, key = ip.version, ip.packed
            yield Entry(f"policy_known{v}", key)
            yield Entry(f"policy_self{v}", key + key)
            if assigned.shut_out:
                yield Entry(f"policy_shut_out{v}", key)
            if assigned.shut_in:
                yield Entry(f"policy_shut_in{v}", key)
            for lane, name in assigned.lanes():
                yield Entry(f"policy_{lane}{v}", key, chain=f"{name}_{v}")

    def change(
        self,
        before: "Compiler",
        old: Iterable[Endpoint] | Members,
        new: Iterable[Endpoint] | Members,
    ) -> Change:
        """What leads from `old` under the policies of `before` to `new` under these."""
        old, new = _judged(old), _judged(new)
        was, now = before.used(old), self.used(new)
        made = [profile for name, profile in now.items() if name not in was]
        dead = [profile for name, profile in was.items() if name not in now]
        fill = {entry for profile in made for entry in self.filled(profile, new)}
        gone, come = old.without(new), new.without(old)
        remove, add = before.shared(old), self.shared(new)
        for name in was.keys() & now.keys():
            if was[name] is not now[name] and was[name] != now[name]:
                there, wanted = set(before.filled(was[name], old)), set(self.filled(now[name], new))
                # What it allows comes before what it no longer allows goes: see successors.py.
                fill |= wanted - there
                remove |= there - wanted
        other = self._other(before, new, come)
        for endpoint in (*gone, *other):
            remove.update(before.own(endpoint))
        for endpoint in (*come, *other):
            add.update(self.own(endpoint))
        if gone or come:
            leaving, arriving = selection.Peers(gone), selection.Peers(come)
            for profile in (profile for name, profile in now.items() if was.get(name) == profile):
                if profile.kind in ("in", "out"):
                    for endpoint in leaving.of(profile):
                        remove.update(self._known(profile, endpoint))
                    for endpoint in arriving.of(profile):
                        add.update(self._known(profile, endpoint))
        return Change(made, dead, fill, add - remove, remove - add)

    def _other(self, before: "Compiler", members: Members, come: Iterable[Endpoint]) -> list[Endpoint]:
        """Those who stay, and for whom something else holds now."""
        all_of_them = bool(before.policies) != bool(self.policies)
        arrived = {endpoint.identity for endpoint in come}
        if self.by_container or not before.by_container:
            groups = self._assignments(members)
        else:
            groups = [(group, self.assignment(group.first)) for group in members.groups(each=True)]
        return [
            endpoint
            for group, assigned in groups
            if all_of_them or before.assignment(group.first) != assigned
            for endpoint in group.members
            if endpoint.identity not in arrived
        ]


def _guarded(endpoint: Endpoint, assigned: Assignment) -> Iterator[Entry]:
    """What the guard of sources and receivers knows of an endpoint's port."""
    port, prefix = interface(endpoint.port), "port" if endpoint.bridged else "policy"
    yield Entry(f"{prefix}_guarded", port)
    for ip in endpoint.addresses:
        yield Entry(f"{prefix}_source{ip.version}", port + ip.packed)
    for ip in endpoint.of_family(6):
        yield Entry(f"{prefix}_target6", port + ip.packed)
    if endpoint.bridged:
        if assigned.shut_in:
            yield Entry("port_shut_in", port)
        if assigned.shut_out:
            yield Entry("port_shut_out", port)


_NOBODY = Members(())


def _judged(endpoints: Iterable[Endpoint] | Members) -> Members:
    """Those whom the host's rules know: nobody while they have nobody to judge."""
    members = endpoints if isinstance(endpoints, Members) else Members(endpoints)
    return members if members.here.endpoints else _NOBODY
