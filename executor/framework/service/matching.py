"""Offers that are held, and who gets them.

Demands are looked at in their order for each place (the offers of one agent and role, together), as many
instances as fit. What does not fit is counted by app and reason, with the last example, since why nothing
starts is what people ask first. A look at plain sums comes before the exact choice of pieces: most offers
that do not fit are passed over in a microsecond.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mesos.v1 import offers_pb2

from executor.framework.sdk.choice import Request, Shortfall, choose
from executor.framework.sdk.resources import InvalidResourceError, Resources, parse
from executor.framework.service.claim import Claim, Fit, Owner, free_here, make, reuse
from executor.framework.service.claim import Place as ClaimPlace
from executor.framework.service.constraints import Constraint, Others, Place, broken, by_place, place_of
from executor.framework.service.spec import App
from executor.framework.service.taskinfo import request_of


@dataclass(slots=True)
class Held:
    """Offers of one agent and role. `unavailable`: from when on its machine is wanted back, of the epoch."""

    place: Place
    role: str
    ids: list[str]
    resources: Resources
    unavailable: float | None = None


@dataclass(frozen=True, slots=True)
class Demand:
    """So many instances more of an app. `others`: the places of those it has. Where it has volumes: the
    claims that are free, and how many may be made, in whose name.
    """

    app: App
    count: int
    others: tuple[Mapping[str, str], ...] = ()
    free: tuple[Claim, ...] = ()
    make: int = 0
    owner: Owner = field(default_factory=Owner)


@dataclass(frozen=True, slots=True)
class Assignment:
    """One instance's place and pieces. `key` names the `Held` that they are of. `volumes` are in no `pieces`;
    `reserve` is of a claim that is to be made (claim.py).
    """

    app: App
    key: tuple[str, str]
    place: Place
    pieces: Resources
    ports: tuple[int, ...]
    claim: Claim | None = None
    volumes: Resources = field(default_factory=Resources)
    reserve: Resources = field(default_factory=Resources)


@dataclass(slots=True)
class WhyNot:
    """Why an app's instances were not placed: counts by reason, and the last place looked at for each."""

    counts: Counter[str] = field(default_factory=Counter)
    looked_at: int = 0
    _last: dict[str, tuple[str, int | None]] = field(default_factory=dict)

    def add(self, reason: str, example: str, there: int | None = None) -> None:
        """One more place that would not do; `there`: how many thousandths of what was wanted it has."""
        self.counts[reason] += 1
        self._last[reason] = (example, there)

    @property
    def examples(self) -> dict[str, str]:
        """For people. Made when they ask: a place is refused a hundred thousand times before."""
        return {
            reason: example if there is None else f"{example} has {there / 1000:g}"
            for reason, (example, there) in self._last.items()
        }


def unavailable(offer: offers_pb2.Offer | offers_pb2.InverseOffer, now: float) -> float | None:
    """When the maintenance of an offer's machine begins, None where none is planned or it is over: a schedule
    stays until somebody takes it back.
    """
    if not offer.HasField("unavailability"):
        return None
    start = offer.unavailability.start.nanoseconds / 1e9
    duration = offer.unavailability.duration.nanoseconds / 1e9
    return None if duration > 0 and start + duration <= now else start


class OfferPool:
    """Offers by place."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Held] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._parts: dict[str, Resources] = {}

    def add(self, offer: offers_pb2.Offer) -> bool:
        """Hold an offer; False for one that makes no sense (decline it). One that is held already is what it
        was told to be last: counted twice, its resources would be accepted twice.
        """
        self.rescind(offer.id.value)
        role = offer.allocation_info.role
        try:
            resources = parse(offer.resources)
        except InvalidResourceError:
            return False
        key = (offer.agent_id.value, role)
        held = self.held.get(key)
        if held is None:
            held = self.held[key] = Held(place_of(offer), role, [], Resources())
        held.ids.append(offer.id.value)
        held.resources += resources
        held.unavailable = unavailable(offer, time.time())
        self._keys[offer.id.value] = key
        self._parts[offer.id.value] = resources
        return True

    def rescind(self, offer_id: str) -> None:
        """An offer is void; one that is used already is not here any more."""
        key = self._keys.pop(offer_id, None)
        part = self._parts.pop(offer_id, None)
        if key is None or part is None:
            return
        held = self.held[key]
        held.ids.remove(offer_id)
        held.resources -= part
        if not held.ids:
            del self.held[key]

    def take(self, key: tuple[str, str]) -> Held:
        """Use the offers of a place."""
        held = self.held.pop(key)
        for offer_id in held.ids:
            self._keys.pop(offer_id, None)
            self._parts.pop(offer_id, None)
        return held

    def clear(self) -> None:
        """All offers are void: a new subscription."""
        self.held.clear()
        self._keys.clear()
        self._parts.clear()


@dataclass(slots=True, eq=False)
class _Fixed:
    """Constraints that the place alone decides: asked once for each place, for all apps with the same."""

    constraints: tuple[Constraint, ...]
    _asked: Place | None = None
    _reason: str = ""

    def reason(self, place: Place) -> str:
        """Why the place will not do, "" if it will."""
        if place is not self._asked:
            self._asked, self._reason = place, _obstacle(self.constraints, place, ())
        return self._reason


def _obstacle(
    constraints: Iterable[Constraint], place: Place, others: Others | Iterable[Mapping[str, str]]
) -> str:
    found = broken(constraints, place, others)
    return "" if found is None else f"constraint {found.text()}"


@dataclass(slots=True, eq=False)
class _Open:
    demand: Demand
    request: Request
    missing: int
    others: Others
    free: list[Claim]
    make: int
    log: WhyNot
    fixed: _Fixed
    spread: tuple[Constraint, ...]


def _opened(demands: Iterable[Demand], why_not: Mapping[str, WhyNot]) -> list[_Open]:
    shared: dict[tuple[tuple[str, str, str], ...], _Fixed] = {}
    found = []
    for demand in demands:
        fixed = tuple(item for item in demand.app.constraints if by_place(item))
        named = tuple((item.field, item.operator, item.value) for item in fixed)
        found.append(
            _Open(
                demand,
                request_of(demand.app),
                demand.count,
                Others(demand.others),
                list(demand.free),
                demand.make,
                why_not[demand.app.name],
                shared.setdefault(named, _Fixed(fixed)),
                tuple(item for item in demand.app.constraints if not by_place(item)),
            )
        )
    return found


def match(
    pool: OfferPool,
    demands: Sequence[Demand],
    random: Callable[[int], int],
    why_not: Mapping[str, WhyNot],
    avoid: Callable[[Held], str] = lambda _held: "",
) -> list[Assignment]:
    """Who gets what; the pool stays as it is. `avoid` says why a place is not to be used, "" if it may be."""
    waiting = _opened([demand for demand in demands if demand.count > 0], why_not)
    found: list[Assignment] = []
    for key, held in pool.held.items():
        if not waiting:
            break
        reason = avoid(held)
        if reason:
            _refuse_all(waiting, reason, held)
            continue
        filled = _fill(key, held, waiting, random)
        if filled:
            found += filled
            waiting = [item for item in waiting if item.missing > 0]
    return found


def _refuse_all(waiting: Iterable[_Open], reason: str, held: Held) -> None:
    for item in waiting:
        item.log.looked_at += 1
        item.log.add(reason, held.place.hostname)


def _fill(
    key: tuple[str, str],
    held: Held,
    waiting: Sequence[_Open],
    random: Callable[[int], int],
) -> list[Assignment]:
    """As many instances as fit one place."""
    left = held.resources
    sums = _sums(left)
    hostname, role = held.place.hostname, held.role
    found: list[Assignment] = []
    for item in waiting:
        app, log = item.demand.app, item.log
        log.looked_at += 1
        if app.role and app.role != role:
            log.add("role", f"{hostname} is offered to {role}")
            continue
        while item.missing > 0:
            short = ""
            for name, wanted in item.request.scalars:
                if sums.get(name, 0) < wanted:
                    short = name
                    break
            if short:
                log.add(short, hostname, sums.get(short, 0))
                break
            fitting = _fit(item, held, left, random)
            if isinstance(fitting, tuple):
                log.add(*fitting)
                break
            taken, claim = fitting.taken, fitting.claim
            found.append(
                Assignment(
                    app, key, held.place, taken.pieces, taken.ports, claim, fitting.volumes, fitting.reserve
                )
            )
            left = taken.left
            sums = _sums(left)
            item.missing -= 1
            if claim is not None and fitting.reserve:
                item.make -= 1
            elif claim is not None:
                item.free.remove(claim)
            item.others.add(held.place.values)
    return found


def _fit(item: _Open, held: Held, left: Resources, random: Callable[[int], int]) -> Fit | tuple[str, str]:
    """What one more instance gets of a place, or a reason and an example why not."""
    app, host = item.demand.app, held.place.hostname
    found: Fit | Shortfall | None = None
    where = ClaimPlace(held.place.agent_id, host, held.role)
    if app.volumes:
        # A volume that is there was placed by the constraints of its time.
        for claim in free_here(item.free, app, where):
            found = reuse(claim, left, item.request, random)
            if isinstance(found, Fit):
                break
        if found is None and item.make <= 0:
            return "volume", f"{host} has none of its volumes"
        if found is None and held.role == "*":
            return "role", "nothing can be reserved to *"
    if found is None:
        obstacle = item.fixed.reason(held.place)
        if not obstacle and item.spread:
            obstacle = _obstacle(item.spread, held.place, item.others)
        if obstacle:
            return obstacle, host
        taken = choose(left, item.request, random)
        if isinstance(taken, Shortfall):
            found = taken
        else:
            found = make(app, where, item.demand.owner, taken) if app.volumes else Fit(taken)
    if isinstance(found, Shortfall):
        return found.name, f"{host} has {found.there}"
    return found


def _sums(resources: Resources) -> dict[str, int]:
    sums: dict[str, int] = {}
    for kind, amount in resources.items():
        if isinstance(amount, int):
            sums[kind.name] = sums.get(kind.name, 0) + amount
    return sums
