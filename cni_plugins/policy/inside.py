"""What the rules in a container's own network namespace hold, for endpoints whose packets the host does not
see (macvlan, ipvlan, VLANs, devices of the host). Pure.

An interface is told by its name there, not by its address: whatever comes in by it, to whatever address of
the container, is judged by its profiles. The profiles are the host's, with the same names and sets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cni_plugins.policy.compile import Change, Compiled, Compiler
from cni_plugins.policy.model import Endpoint
from cni_plugins.policy.profile import Entry, Profile, interface
from cni_plugins.policy.selection import Members
from cni_plugins.spec.values import Ip

Place = tuple[int, ...]  #: a namespace, by its fingerprint


def places(endpoints: Iterable[Endpoint]) -> dict[Place, list[Endpoint]]:
    """The endpoints that are judged inside, by namespace."""
    found: dict[Place, list[Endpoint]] = {}
    for endpoint in endpoints:
        if endpoint.inside:
            found.setdefault(endpoint.netns_id, []).append(endpoint)
    return found


@dataclass(slots=True)
class World:
    """What all namespaces have in common at one moment: who is an endpoint of the node, the node's own
    addresses, and what profiles hold (each worked out once).
    """

    compiler: Compiler
    members: Members
    node: tuple[Ip, ...]
    _known: set[Entry] | None = None
    _filled: dict[str, set[Entry]] = field(default_factory=dict)

    def known(self) -> set[Entry]:
        if self._known is None:
            addresses = (ip for endpoint in self.members.endpoints for ip in endpoint.addresses)
            self._known = {Entry(f"policy_known{ip.version}", ip.packed) for ip in addresses}
            self._known.update(Entry(f"inside_node{ip.version}", ip.packed) for ip in self.node)
        return self._known

    def filled(self, profile: Profile) -> set[Entry]:
        found = self._filled.get(profile.name)
        if found is None:
            found = self._filled[profile.name] = set(self.compiler.filled(profile, self.members))
        return found

    def profiles(self, mine: Sequence[Endpoint]) -> dict[str, Profile]:
        found: dict[str, Profile] = {}
        for endpoint in mine:
            found.update(self.compiler.of_one(endpoint))
        return found

    def own(self, mine: Sequence[Endpoint]) -> set[Entry]:
        """What is said of the interfaces themselves."""
        found: set[Entry] = set()
        for endpoint in mine:
            assigned, key = self.compiler.assignment(endpoint), interface(endpoint.ifname)
            found.add(Entry("inside_links", key))
            if assigned.shut_out:
                found.add(Entry("inside_shut_out", key))
            if assigned.shut_in:
                found.add(Entry("inside_shut_in", key))
            for lane, name in assigned.lanes():
                found.update(Entry(f"inside_{lane}{v}", key, chain=f"{name}_{v}") for v in (4, 6))
        return found

    def compiled(self, mine: Sequence[Endpoint]) -> Compiled:
        """All of a namespace."""
        profiles = self.profiles(mine)
        entries = self.known() | self.own(mine)
        for profile in profiles.values():
            entries |= self.filled(profile)
        return Compiled(profiles, entries)


def change(before: World, was: Sequence[Endpoint], after: World, now: Sequence[Endpoint]) -> Change:
    """What leads from one to the other in a namespace. Nothing was there where `was` is empty."""
    if not was:
        whole = after.compiled(now)
        fill = {entry for profile in whole.profiles.values() for entry in after.filled(profile)}
        return Change(list(whole.profiles.values()), [], fill, whole.entries - fill, set())
    old, new = before.profiles(was), after.profiles(now)
    made = [profile for name, profile in new.items() if name not in old]
    dead = [profile for name, profile in old.items() if name not in new]
    fill = {entry for profile in made for entry in after.filled(profile)}
    gone, come = before.own(was) | before.known(), after.own(now) | after.known()
    for name in old.keys() & new.keys():
        there, wanted = before.filled(old[name]), after.filled(new[name])
        if old[name] == new[name]:
            come |= wanted
        else:
            fill |= wanted - there
            come |= wanted & there
        gone |= there
    return Change(made, dead, fill, come - gone, gone - come)
