"""Which pieces of an offer a task gets.

A master never chooses: a task names each piece it takes, reserved or not, and a reserved piece never stands
in for an unreserved one. So a request (`2 processors, 3 ports`) becomes pieces here: what is reserved to the
role first, unreserved ones after; never what is labelled for somebody else, never somebody's volume, and
nothing revocable unless that is asked for. Ports that are not named are taken at random, so that a port just
given up is not given again at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from executor.framework.sdk.resources import Amount, Interval, Kind, Ranges, Resources, count, merge, without


@dataclass(frozen=True, slots=True)
class Request:
    """What one instance needs. `scalars`: thousandths by name. `ports`: how many of the agent's choice;
    `fixed_ports`: these and no others. Revocable pieces are used only if `revocable`, and then nothing else
    of that name. Pieces reserved under exactly `labels` are ours, and go first.
    """

    scalars: tuple[tuple[str, int], ...] = ()
    ports: int = 0
    fixed_ports: tuple[int, ...] = ()
    revocable: bool = False
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Shortfall:
    """Why an offer will not do: the resource's name, what was wanted and what there was (as `Request`)."""

    name: str
    wanted: int
    there: int


@dataclass(frozen=True, slots=True)
class Taken:
    """Pieces for one instance, what is left of the offer, and the ports in the order of the request."""

    pieces: Resources
    left: Resources
    ports: tuple[int, ...]


def choose(offer: Resources, request: Request, random: Callable[[int], int]) -> Taken | Shortfall:
    """Pieces for `request` out of `offer`. `random(n)` is an integer from 0 to n - 1."""
    taken: dict[Kind, Amount] = {}
    for name, wanted in request.scalars:
        short = _take_scalar(offer, name, wanted, request, taken)
        if short is not None:
            return short
    ports: tuple[int, ...] = ()
    if request.ports or request.fixed_ports:
        found = _take_ports(offer, request, random, taken)
        if isinstance(found, Shortfall):
            return found
        ports = found
    pieces = Resources(taken)
    return Taken(pieces, offer - pieces, ports)


def disk_for(offer: Resources, size: int) -> Kind | None:
    """An unreserved piece of shared-out disk with `size` thousandths of a MiB, for a volume."""
    for kind, amount in offer:
        plain = not (kind.reserved_to or kind.persistence or kind.whole or kind.shared or kind.revocable)
        if kind.name == "disk" and plain and isinstance(amount, int) and amount >= size:
            return kind
    return None


def _usable(offer: Resources, name: str, request: Request, revocable: bool) -> list[tuple[Kind, Amount]]:
    pieces = [
        (kind, amount)
        for kind, amount in offer.items()
        if kind.name == name
        and (not kind.labels or kind.labels == request.labels)
        and not kind.persistence
        and not kind.whole
        and not kind.shared
        and not kind.disk  # of a disk of its own, not of the one that sandboxes are on
        and (kind.revocable == revocable or not isinstance(amount, int))
    ]
    if len(pieces) < 2:
        return pieces
    return sorted(
        pieces, key=lambda item: (not item[0].labels, not item[0].reserved_to, item[0].provider, item[0].disk)
    )


def _take_scalar(
    offer: Resources, name: str, wanted: int, request: Request, taken: dict[Kind, Amount]
) -> Shortfall | None:
    # Where nothing revocable of the name is offered, firm pieces serve a task that would take revocable ones.
    pieces = _usable(offer, name, request, request.revocable) or _usable(offer, name, request, False)
    missing = wanted
    for kind, amount in pieces:
        if missing <= 0:
            break
        assert isinstance(amount, int)
        piece = min(amount, missing)
        taken[kind] = piece
        missing -= piece
    if missing > 0:
        return Shortfall(name, wanted, wanted - missing)
    return None


def _take_ports(
    offer: Resources, request: Request, random: Callable[[int], int], taken: dict[Kind, Amount]
) -> tuple[int, ...] | Shortfall:
    pieces = [
        (kind, amount)
        for kind, amount in _usable(offer, "ports", request, False)
        if isinstance(amount, tuple)
    ]
    there: dict[Kind, Ranges] = dict(pieces)
    used: dict[Kind, list[Interval]] = {kind: [] for kind in there}
    ports: list[int] = []
    for port in request.fixed_ports:
        owner = next((kind for kind, ranges in there.items() if _has(ranges, port)), None)
        if owner is None:
            return Shortfall(f"port {port}", 1, 0)
        there[owner] = without(there[owner], ((port, port),))
        used[owner].append((port, port))
        ports.append(port)
    for number in range(request.ports):
        total = sum(count(ranges) for ranges in there.values())
        if not total:
            return Shortfall("ports", request.ports, number)
        kind, port = _pick(there, random(total))
        there[kind] = without(there[kind], ((port, port),))
        used[kind].append((port, port))
        ports.append(port)
    taken.update({kind: merge(intervals) for kind, intervals in used.items() if intervals})
    return tuple(ports)


def _has(ranges: Ranges, port: int) -> bool:
    return any(first <= port <= last for first, last in ranges)


def _pick(there: dict[Kind, Ranges], index: int) -> tuple[Kind, int]:
    """The port at `index`, counted through all pieces in order."""
    for kind, ranges in there.items():
        for first, last in ranges:
            size = last - first + 1
            if index < size:
                return kind, first + index
            index -= size
    raise IndexError(index)
