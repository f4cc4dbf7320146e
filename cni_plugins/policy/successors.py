"""Profiles that take another's place under its name.

Most edits of a policy are a port or a peer more or less. Were a profile then made anew, the kernel would look
through all of the table, for loops, when its chains come and again when the endpoints' map elements are led
there: most of what a change costs. A profile whose rules are those of the one in whose place it comes (its
sets are of the same kinds) is therefore called as that one is, its chains stay, and elements of its sets come
and go.

That is as safe as a new chain, and as quick to take effect, because

* all that a profile's sets hold allows something, each by itself. What comes is there before anything goes,
  so a packet meets what was allowed, or that and what will be; never less than both allow, and nothing that
  neither does;
* it takes the place of the other for everybody who had that, and for nobody else: an endpoint that goes to
  another profile would meet, for the moment between two transactions, what neither of its own allows;
* elements of intervals cannot overlap, so none of those may change.
"""

from collections.abc import Iterable

from cni_plugins.policy.compile import Assignment, Compiler
from cni_plugins.policy.profile import Entry, Profile
from cni_plugins.policy.selection import Members


def follow(before: Compiler, old: Members, after: Compiler, new: Members) -> None:
    """Rename the profiles of `after` that take the place of some of `before`."""
    if before.policies == after.policies or old.without(new) or new.without(old):
        return
    places = _places(before, after, new)
    heirs: dict[str, int] = {}
    for found in places.values():
        for was in found:
            heirs[was] = heirs.get(was, 0) + 1
    bound = {
        name
        for item in (*before.profiles.values(), *after.profiles.values())
        for name in (item.then, item.request[0], item.answer[0])
    }
    names: dict[str, str] = {}
    for now, found in places.items():
        was = next(iter(found))
        alone = len(found) == 1 and heirs[was] == 1
        if not alone or not was or not now or now in heirs or was in places or {was, now} & bound:
            continue
        pair = before.profiles[was], after.profiles[now]
        if _alike(*pair) and _by_elements(before.filled(pair[0], old), after.filled(pair[1], new)):
            names[now] = was
    if names:
        after.rename(names)


def _places(before: Compiler, after: Compiler, members: Members) -> dict[str, set[str]]:
    """Of each profile in one of both directions what those who have it had, "" for none; "" stands for
    those who have none any more.
    """
    found: dict[str, set[str]] = {}
    for group in members.groups(each=before.by_container or after.by_container):
        was, now = before.assignment(group.first), after.assignment(group.first)
        for one, other in zip(_both(was), _both(now), strict=True):
            found.setdefault(other, set()).add(one)
    return found


def _both(assigned: Assignment) -> tuple[str, str]:
    return assigned.out, assigned.into


def _alike(was: Profile, now: Profile) -> bool:
    """Whether their rules are the same but for their names. An audit's packets are counted by its chain."""
    return was.kind == now.kind and was.sets == now.sets and not was.then and not now.then


def _by_elements(there: Iterable[Entry], wanted: Iterable[Entry]) -> bool:
    """Whether only elements of hash sets tell what two profiles' sets hold apart."""
    plain = ({(_lane(entry), *entry[1:]) for entry in listed} for listed in (there, wanted))
    return not any(end or flags for _, _, end, _, flags in next(plain) ^ next(plain))


def _lane(entry: Entry) -> str:
    return entry.set.rpartition("_")[2]
