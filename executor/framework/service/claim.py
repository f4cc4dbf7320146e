"""What instances of an app hold on one agent, one after another: volumes, and pieces reserved beside them.

Pure: which claim an instance gets of an offer, or what a new one is made of. Its life is in volumes.py.
"""

import enum
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from executor.framework.sdk.choice import Request, Shortfall, Taken, choose, disk_for
from executor.framework.sdk.reservations import Labels, reserved, volume
from executor.framework.sdk.resources import Kind, Resources
from executor.framework.service.spec import App

FRAMEWORK_LABEL, CLAIM_LABEL = "mesokit.framework", "mesokit.claim"


class ClaimState(enum.Enum):
    """Where a claim stands; see volumes.py."""

    CREATING = "creating"
    READY = "ready"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True)
class Claim:
    """`volumes`: name, thousandths of a MiB and path of each. `used`: an instance has run on it.
    `operations`: ids of those whose outcome is not known yet.
    """

    id: str
    app: str
    framework_id: str
    agent_id: str
    hostname: str
    role: str
    volumes: tuple[tuple[str, int, str], ...]
    state: ClaimState = ClaimState.CREATING
    used: bool = False
    wall_made: float = 0.0
    operations: tuple[str, ...] = ()

    @property
    def labels(self) -> Labels:
        """What its reservations are known by."""
        return ((FRAMEWORK_LABEL, self.framework_id), (CLAIM_LABEL, self.id))

    def persistence(self, name: str) -> str:
        """The id that Mesos knows one of its volumes by."""
        return f"{self.id}.{name}"

    def fits(self, app: App) -> bool:
        """Whether its volumes are those that the app asks for."""
        return self.volumes == tuple((item.name, item.size, item.path) for item in app.volumes)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who reserves."""

    framework_id: str = ""
    principal: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """`taken` of an offer besides the volumes. For a claim that is to be made, `reserve` are the pieces as
    RESERVE makes them, and `taken.pieces` name them so already.
    """

    taken: Taken
    claim: Claim | None = None
    volumes: Resources = field(default_factory=Resources)
    reserve: Resources = field(default_factory=Resources)


@dataclass(frozen=True, slots=True)
class Place:
    """Whose offer it is."""

    agent_id: str
    hostname: str
    role: str


def reuse(claim: Claim, left: Resources, request: Request, random: Callable[[int], int]) -> Fit | Shortfall:
    """An instance on a claim that is there."""
    wanted = {claim.persistence(name) for name, _, _ in claim.volumes}
    found = {
        kind: amount for kind, amount in left if kind.persistence in wanted and kind.labels == claim.labels
    }
    if len(found) != len(wanted):
        return Shortfall("volume", len(wanted), len(found))
    volumes = Resources(found)
    taken = choose(left - volumes, replace(request, labels=claim.labels), random)
    return taken if isinstance(taken, Shortfall) else Fit(taken, claim, volumes)


def make(app: App, place: Place, owner: Owner, chosen: Taken) -> Fit | Shortfall:
    """An instance on a claim of its own, beside the pieces `chosen` for it, out of what these left."""
    claim = Claim(
        f"{app.name}.{secrets.token_hex(8)}",
        app.name,
        owner.framework_id,
        place.agent_id,
        place.hostname,
        place.role,
        tuple((item.name, item.size, item.path) for item in app.volumes),
    )

    def as_reserved(kind: Kind) -> Kind:
        return reserved(kind, place.role, owner.principal, claim.labels)

    rest, reserve, volumes = chosen.left, Resources(), Resources()
    for item in app.volumes:
        kind = disk_for(rest, item.size)
        if kind is None:
            return Shortfall("disk for a volume", item.size, rest.total("disk"))
        rest -= Resources({kind: item.size})
        reserve += Resources({as_reserved(kind): item.size})
        made = volume(as_reserved(kind), claim.persistence(item.name), owner.principal, item.path)
        volumes += Resources({made: item.size})
    pieces = chosen.pieces
    if app.reserve:
        bare = Resources(
            {
                kind: amount
                for kind, amount in pieces
                if isinstance(amount, int) and not kind.reserved_to and not kind.revocable
            }
        )
        held = Resources({as_reserved(kind): amount for kind, amount in bare})
        pieces, reserve = pieces - bare + held, reserve + held
    return Fit(Taken(pieces, rest, chosen.ports), claim, volumes, reserve)


def free_here(free: Sequence[Claim], app: App, place: Place) -> list[Claim]:
    """The free claims that an instance of the app may start on at a place."""
    return [
        claim
        for claim in free
        if (claim.agent_id, claim.role) == (place.agent_id, place.role) and claim.fits(app)
    ]


def encode(claim: Claim) -> bytes:
    """For the store."""
    return json.dumps({**asdict(claim), "state": claim.state.value}, separators=(",", ":")).encode()


def decode(data: bytes) -> Claim:
    """From the store. Raises ValueError, KeyError or TypeError for what is no claim."""
    document: dict[str, Any] = json.loads(data)
    volumes = tuple((name, size, path) for name, size, path in document["volumes"])
    operations = tuple(document.get("operations", ()))
    state = ClaimState(document["state"])
    return Claim(**{**document, "state": state, "volumes": volumes, "operations": operations})
