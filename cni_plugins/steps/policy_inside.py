"""Endpoints that are judged in their own network namespace: the rules there follow every change.

A namespace is opened by the runtime's path, used only if it is the very one, and closed again: who held it
would keep a dead container's network alive. One that is gone needs no rules. Each has its own transaction.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from cni_plugins.kernel import addresses
from cni_plugins.kernel.capable import network_admins
from cni_plugins.kernel.namespace import fingerprint
from cni_plugins.kernel.netlink.netfilter import Nfnetlink
from cni_plugins.kernel.netlink.route import Netlink
from cni_plugins.kernel.nft import elsewhere, sections
from cni_plugins.kernel.nft import policy as kernel
from cni_plugins.kernel.nft.inside_rules import INSIDE
from cni_plugins.policy.compile import Change, Compiler
from cni_plugins.policy.inside import Place, World, change, places
from cni_plugins.policy.model import Endpoint
from cni_plugins.policy.selection import Members
from cni_plugins.spec.deadline import Deadline
from cni_plugins.spec.errors import CniError
from cni_plugins.spec.namespace import Namespace, open_namespace
from cni_plugins.spec.values import Ip
from cni_plugins.steps import policy_kernel

#: By namespace, the number of the ruleset when it was last as it has to be, and the node's addresses then.
Seen = dict[Place, tuple[int, tuple[Ip, ...]]]


@dataclass(slots=True)
class Look:
    """What was found in one namespace, or why it could not be."""

    endpoints: Sequence[Endpoint]
    mended: int = 0
    problem: str = ""

    @property
    def who(self) -> str:
        first = self.endpoints[0]
        return f"container {first.container} on network {first.network}"


@dataclass(slots=True)
class Inside:
    """`known`: the namespace that the call has open anyway. `seen`: for a process that lives."""

    host: Namespace
    deadline: Deadline
    known: Namespace | None = None
    seen: Seen = field(default_factory=dict)

    @contextmanager
    def opened(self, place: Place, mine: Sequence[Endpoint]) -> Iterator[Namespace | None]:
        """The namespace for the length of the block; None when it is gone."""
        if self.known is not None and tuple(fingerprint(self.known)) == place:
            yield self.known
            return
        for path in dict.fromkeys(item.netns for item in mine):
            try:
                found = open_namespace(path)
            except CniError:  # something else is there by now
                continue
            if found is None:
                continue
            try:
                if tuple(fingerprint(found)) == place:
                    yield found
                    return
            finally:
                os.close(found.fd)
        yield None

    def node(self) -> tuple[Ip, ...]:
        """The addresses of the node itself that a container may meet. CniError 999."""
        with Netlink(self.host, self.deadline) as netlink:
            listed = addresses.every(netlink)
        found = {
            item.address.ip
            for item in listed
            if item.scope == addresses.GLOBAL and not item.address.ip.is_loopback
        }
        return tuple(sorted(found, key=lambda ip: (ip.version, int(ip))))

    def follow(self, before: Compiler, old: Members, after: Compiler, new: Members) -> list[Look]:
        """Make every namespace what the endpoints and policies have become; the namespaces where that could
        not be done.
        """
        if not (old.some_inside or new.some_inside):
            return []
        was, now = places(old.endpoints), places(new.endpoints)
        node = self.node()
        worlds = World(before, old, node), World(after, new, node)
        failed: list[Look] = []
        for place in {**was, **now}:
            gone, come = was.get(place, []), now.get(place, [])
            try:
                self._follow_one(place, (gone, come), worlds)
            except CniError as error:
                failed.append(Look(come or gone, problem=str(error)))
        return failed

    def _follow_one(
        self, place: Place, endpoints: tuple[list[Endpoint], list[Endpoint]], worlds: tuple[World, World]
    ) -> None:
        was, now = endpoints
        made = Change() if not now else change(worlds[0], was, worlds[1], now)
        if now and not made:
            return
        with self.opened(place, now or was) as namespace:
            if namespace is None:
                return
            if not was:
                self._let_be_told_of(namespace)
            with Nfnetlink(namespace) as socket:
                if not now:
                    kernel.remove_table(socket)
                    self.seen.pop(place, None)
                    return
                began = socket.generation()
                known = self.seen.get(place) == (began, worlds[1].node)
                if not known:
                    sections.ensure(socket, INSIDE)
                try:
                    count = kernel.apply(
                        socket, new=made.new, fill=made.fill, remove=made.remove, add=made.add
                    )
                    count += kernel.forget(socket, made.dead)
                    if known and socket.generation() == began + count:
                        self.seen[place] = began + count, worlds[1].node
                except kernel.Mismatch:  # not what was left there
                    policy_kernel.make_hold(socket, worlds[1].compiled(now), (INSIDE,))

    def _let_be_told_of(self, namespace: Namespace) -> None:
        """Let the host's namespace hear of changes there; where the kernel cannot, nobody is told."""
        with suppress(CniError), Netlink(self.host, self.deadline) as netlink:
            elsewhere.give_number(netlink, namespace)

    def forget_known(self, endpoints: Sequence[Endpoint]) -> None:
        """Take our table out of the call's namespace, where no endpoint is judged."""
        if self.known is not None and tuple(fingerprint(self.known)) not in places(endpoints):
            with Nfnetlink(self.known) as socket:
                if INSIDE.version in kernel.chain_names(socket):
                    kernel.remove_table(socket)

    def look(self, compiler: Compiler, members: Members, *, all_of_them: bool = True) -> list[Look]:
        """Make every namespace what it has to be, whatever it is; those that were not so, or could not be
        reached. Without `all_of_them` only where something has changed since it was `seen`.
        """
        if not members.some_inside:
            self.seen.clear()
            return []
        listed = places(members.endpoints)
        world = World(compiler, members, self.node())
        found: list[Look] = []
        for place in self.seen.keys() - listed.keys():
            del self.seen[place]
        for place, mine in listed.items():
            try:
                look = self._look_at(place, mine, world, all_of_them=all_of_them)
            except CniError as error:
                look = Look(mine, problem=str(error))
            if look.mended or look.problem:
                found.append(look)
        return found

    def _look_at(self, place: Place, mine: Sequence[Endpoint], world: World, *, all_of_them: bool) -> Look:
        with self.opened(place, mine) as namespace:
            if namespace is None:
                self.seen.pop(place, None)
                return Look(mine)
            if place not in self.seen:
                self._let_be_told_of(namespace)
            with Nfnetlink(namespace) as socket:
                began = socket.generation()
                if not all_of_them and self.seen.get(place) == (began, world.node):
                    return Look(mine)
                made = policy_kernel.make_hold(socket, world.compiled(mine), (INSIDE,))
                if not made and socket.generation() == began:
                    self.seen[place] = began, world.node
                return Look(mine, len(made.new) + len(made.add) + len(made.fill) + len(made.remove))

    def lacking(self, compiler: Compiler, members: Members) -> int:
        """How many elements are missing in the namespaces that there are. CniError."""
        listed = places(members.endpoints)
        world = World(compiler, members, self.node()) if listed else None
        count = 0
        for place, mine in listed.items():
            with self.opened(place, mine) as namespace:
                if namespace is not None and world is not None:
                    with Nfnetlink(namespace) as socket:
                        count += len(world.compiled(mine).entries - policy_kernel.held(socket))
        return count

    def admins(self, endpoints: Sequence[Endpoint]) -> dict[Place, list[int]]:
        """The processes that may change each namespace's rules."""
        listed = places(endpoints)
        by_inode = {(place[0], place[1]): place for place in listed}
        found: dict[Place, list[int]] = {place: [] for place in listed}
        for pid, namespace in network_admins() if listed else ():
            if namespace in by_inode:
                found[by_inode[namespace]].append(pid)
        return found

    def problem(self, compiler: Compiler, members: Members, mine: Endpoint) -> str:
        """What of an endpoint's rules is not in force, "" when all of it is. CniError."""
        here = places(members.endpoints).get(mine.netns_id, [])
        wanted = World(compiler, members, self.node()).compiled(here)
        with self.opened(mine.netns_id, here) as namespace:
            if namespace is None:
                return f"the network namespace of {mine.ifname} is gone"
            with Nfnetlink(namespace) as socket:
                lacking = wanted.entries - policy_kernel.held(socket)
                harmed = [
                    *sections.broken(socket, INSIDE),
                    *(profile.name for profile in policy_kernel.broken(socket, wanted)),
                ]
        if lacking:
            return f"the policy of {mine.ifname} is not in its namespace: {min(lacking).set} lacks an element"
        if harmed:
            return f"the policy's chain {harmed[0]} in the namespace of {mine.ifname} is not as it was made"
        return ""
