"""Persistent volumes: made with a first launch, kept for the next ones, destroyed only when asked.

A claim (claim.py) is what one instance after another of an app holds on one agent: its volumes, and with
`reserve` the processors and memory too. All of it is reserved to the app's role under labels that name the
framework and the claim, so that no other claim's pieces are ever taken for it.

    CREATING   RESERVE, CREATE and LAUNCH_GROUP were said in one ACCEPT; whether it came about is not known
    READY      an instance started on it, or the agent said that the volumes are there; instances come and go
    LEAVING    to be undone: DESTROY and UNRESERVE whatever an offer shows of it; then it is forgotten

What fails on the way to READY leaves at once: a reservation without a volume is undone, and the next instance
makes a claim of its own. A claim whose agent is away is waited for. A reservation under our labels that no
claim is known of is undone if there is no volume on it; volumes are never destroyed for being unknown.
"""

import logging
import secrets
from collections.abc import Iterable
from dataclasses import replace

from mesos.v1 import mesos_pb2, offers_pb2

from executor.framework.sdk import calls
from executor.framework.sdk.calls import Operation
from executor.framework.sdk.reservations import without_volume
from executor.framework.sdk.resources import Resources
from executor.framework.service.apps import AppState
from executor.framework.service.books import Books
from executor.framework.service.claim import CLAIM_LABEL, FRAMEWORK_LABEL, Claim, ClaimState, encode
from executor.framework.service.instance import Instance, State
from executor.framework.service.matching import Assignment, Held
from executor.framework.service.turn import Turn

log = logging.getLogger(__name__)

_FAILED = frozenset(
    {
        offers_pb2.OPERATION_ERROR,
        offers_pb2.OPERATION_FAILED,
        offers_pb2.OPERATION_DROPPED,
    }
)
_NOT_YET = frozenset(
    {
        offers_pb2.OPERATION_PENDING,
        offers_pb2.OPERATION_RECOVERING,
        offers_pb2.OPERATION_UNREACHABLE,
    }
)


def store(books: Books, claim: Claim, turn: Turn) -> None:
    """A claim is new, or became another."""
    books.claims[claim.id] = claim
    turn.put(f"claims/{claim.id}", encode(claim))


def forget(books: Books, claim: Claim, why: str, turn: Turn) -> None:
    """Nothing is left of it."""
    books.claims.pop(claim.id, None)
    books.undoing.discard(claim.id)
    turn.delete(f"claims/{claim.id}")
    turn.dirty.add(claim.app)
    books.say("volume.gone", claim.app, {"volume": claim.id, "host": claim.hostname, "message": why})


def leave(books: Books, claim: Claim, why: str, turn: Turn) -> None:
    """Undo it as soon as its agent offers it."""
    if claim.state is not ClaimState.LEAVING:
        store(books, replace(claim, state=ClaimState.LEAVING), turn)
        turn.dirty.add(claim.app)
        books.say("volume.leaving", claim.app, {"volume": claim.id, "host": claim.hostname, "message": why})


def of_app(books: Books, name: str) -> list[Claim]:
    """An app's claims that do not leave."""
    return [
        claim
        for claim in books.claims.values()
        if claim.app == name and claim.state is not ClaimState.LEAVING
    ]


def holders(books: Books, name: str) -> dict[str, Instance]:
    """Which claims of an app have an instance that has not ended."""
    living = (books.instances[instance_id] for instance_id in books.by_app[name])
    return {instance.claim: instance for instance in living if instance.claim}


def available(books: Books, state: AppState) -> tuple[tuple[Claim, ...], int]:
    """The claims that an instance may start on, and how many may be made. A claim whose instance was given up
    with its agent counts for nothing.
    """
    held = holders(books, state.name)
    claims = of_app(books, state.name)
    free = tuple(item for item in claims if item.state is ClaimState.READY and item.id not in held)
    counted = [item for item in claims if item.id not in held or not held[item.id].replaced]
    return free, max(books.wanted(state) - len(counted), 0)


def operations_of(books: Books, item: Assignment) -> list[Operation]:
    """What comes before the launch of an instance on a new claim."""
    if item.claim is None or not item.reserve:
        return []
    return [
        calls.reserve(item.reserve, _operation_id(books, item.claim.id, item.claim.agent_id, "reserve")),
        calls.create(item.volumes, _operation_id(books, item.claim.id, item.claim.agent_id, "create")),
    ]


def _operation_id(books: Books, claim_id: str, agent_id: str, verb: str) -> str:
    return "" if agent_id in books.no_feedback else f"{claim_id}:{verb}:{secrets.token_hex(4)}"


def heard(books: Books, instance: Instance, status: mesos_pb2.TaskStatus | None, turn: Turn) -> None:
    """An instance on a claim changed."""
    claim = books.claims.get(instance.claim)
    if claim is None:
        return
    if status is not None and status.state == mesos_pb2.TASK_GONE_BY_OPERATOR:
        forget(books, claim, "the operator says that its agent will not come back", turn)
    elif claim.state is not ClaimState.CREATING:
        if instance.state is State.RUNNING and not claim.used:
            store(books, replace(claim, used=True), turn)
    elif instance.state in (State.STARTING, State.RUNNING, State.KILLING):
        store(books, replace(claim, state=ClaimState.READY, used=True), turn)
    elif instance.state.ended:
        never = status is not None and status.reason == mesos_pb2.TaskStatus.REASON_INVALID_OFFERS
        if never:
            forget(books, claim, "the offer was gone", turn)
        else:
            leave(books, claim, instance.message or "its first instance did not start", turn)


def unmade(books: Books, instance: Instance) -> bool:
    """Whether an instance ended because its volumes could not be made."""
    claim = books.claims.get(instance.claim)
    return bool(instance.claim) and (claim is None or claim.state is not ClaimState.READY)


def ids_of(operations: Iterable[Operation]) -> tuple[str, ...]:
    """The ids of operations that have one."""
    return tuple(operation.id.value for operation in operations if operation.id.value)


def ask(books: Books, turn: Turn) -> None:
    """Ask for the operations whose outcome was not heard: an agent repeats what it did, but what a master
    refused it says once, and whoever was not subscribed has missed it.
    """
    books.ask_operations_at = books.now() + books.settings.reconcile.longest_wait
    pending = [
        calls.OperationRef(name, claim.agent_id)
        for claim in books.claims.values()
        for name in claim.operations
    ]
    size = books.settings.reconcile.batch
    for start in range(0, len(pending), size):
        turn.call(calls.reconcile_operations(pending[start : start + size]))


def operation(books: Books, status: offers_pb2.OperationStatus, turn: Turn) -> None:
    """What became of an operation of ours."""
    claim_id, _, rest = status.operation_id.value.partition(":")
    claim = books.claims.get(claim_id)
    if claim is None or status.state in _NOT_YET:
        return
    if status.operation_id.value in claim.operations:
        left = tuple(name for name in claim.operations if name != status.operation_id.value)
        claim = replace(claim, operations=left)
        store(books, claim, turn)
    _concluded(books, claim, rest.partition(":")[0], status, turn)


def _concluded(books: Books, claim: Claim, verb: str, status: offers_pb2.OperationStatus, turn: Turn) -> None:
    making = claim.state is ClaimState.CREATING
    if status.state == offers_pb2.OPERATION_FINISHED:
        if verb == "create" and making:
            store(books, replace(claim, state=ClaimState.READY), turn)
        elif verb == "unreserve" and claim.state is ClaimState.LEAVING:
            forget(books, claim, "undone", turn)
    elif status.state == offers_pb2.OPERATION_GONE_BY_OPERATOR:
        forget(books, claim, "the operator says that its agent will not come back", turn)
    elif status.state == offers_pb2.OPERATION_UNKNOWN:
        if making:
            leave(books, claim, f"nobody knows of its {verb}", turn)
    elif status.state in _FAILED:
        log.warning("%s for volume %s on %s: %s", verb, claim.id, claim.hostname, status.message)
        if "FEEDBACK" in status.message.upper() or "RESOURCE_PROVIDER" in status.message:
            books.no_feedback.add(claim.agent_id)
        books.say(
            "volume.failed", claim.app, {"volume": claim.id, "operation": verb, "message": status.message}
        )
        if making and verb == "reserve":
            forget(books, claim, status.message, turn)
        elif making:
            leave(books, claim, status.message, turn)


def undo(books: Books, turn: Turn) -> None:
    """Undo what offers show of claims that leave, and of reservations that nobody knows."""
    leaving = {claim.id for claim in books.claims.values() if claim.state is ClaimState.LEAVING}
    for key, held in list(books.pool.held.items()):
        shown = _shown(books, held)
        for claim in [books.claims[name] for name in leaving if name not in shown]:
            here = (claim.agent_id, claim.role) == (held.place.agent_id, held.role)
            if (
                here
                and claim.id not in holders(books, claim.app)
                and (claim.id in books.undoing or not claim.used)
            ):
                leaving.discard(claim.id)
                forget(books, claim, "undone", turn)
        operations: list[Operation] = []
        for claim_id, pieces in shown.items():
            if claim_id in leaving or claim_id not in books.claims:
                undone = list(_undo(books, claim_id, held, pieces))
                operations += undone
                if undone and claim_id in books.claims:
                    store(books, replace(books.claims[claim_id], operations=ids_of(undone)), turn)
        if operations:
            books.pool.take(key)
            turn.call(calls.accept(held.ids, operations, 0.0))


def _shown(books: Books, held: Held) -> dict[str, Resources]:
    """What an offer has under our labels, by claim."""
    found: dict[str, Resources] = {}
    for kind, amount in held.resources:
        if kind.labels and dict(kind.labels).get(FRAMEWORK_LABEL) == books.framework_id:
            claim_id = dict(kind.labels).get(CLAIM_LABEL, "")
            found[claim_id] = found.get(claim_id, Resources()) + Resources({kind: amount})
    return found


def _undo(books: Books, claim_id: str, held: Held, pieces: Resources) -> Iterable[Operation]:
    volumes = Resources({kind: amount for kind, amount in pieces if kind.persistence})
    if volumes and claim_id not in books.claims:
        log.warning("%s has a volume of ours that is not known here: %s", held.place.hostname, claim_id)
        return
    agent_id = held.place.agent_id
    if volumes:
        yield calls.destroy(volumes, _operation_id(books, claim_id, agent_id, "destroy"))
    bare = pieces - volumes
    for kind, amount in volumes:
        bare += Resources({without_volume(kind): amount})
    books.undoing.add(claim_id)
    yield calls.unreserve(bare, _operation_id(books, claim_id, agent_id, "unreserve"))
