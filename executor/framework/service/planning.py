"""What each app needs next, matched with the offers that are held."""

import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from executor.framework.sdk import calls
from executor.framework.sdk.resources import wire
from executor.framework.service import volumes
from executor.framework.service.books import Books
from executor.framework.service.claim import ClaimState, Owner
from executor.framework.service.instance import Instance, TaskState, encode, new_id
from executor.framework.service.killing import kill
from executor.framework.service.matching import Assignment, Demand, Held, match
from executor.framework.service.offer_constraints import OfferConstraints, constraints_for
from executor.framework.service.rollout import Situation, Status, plan
from executor.framework.service.taskinfo import Launcher, Terms, name_ports
from executor.framework.service.turn import Turn

_ONE_SECOND = 10_000
"""Instances of an app that is planned once a second: so that a plan, which looks at all of them, takes a few
hundredths of the processor, however fast their updates come.
"""

_SMALL = 100
"""Instances of an app that is planned in every turn."""


def plan_touched(books: Books, turn: Turn) -> None:
    """Plan the apps that something happened to; a large one that was planned a moment ago later."""
    books.unplanned |= turn.dirty
    if not books.unplanned:
        return
    now = books.now()
    for name in sorted(name for name in books.unplanned if books.plan_at.get(name, 0.0) <= now):
        plan_app(books, name, turn)


def next_plan(books: Books) -> float | None:
    """When an app that waits for it is to be planned, None for never."""
    return min((books.plan_at.get(name, 0.0) for name in books.unplanned), default=None)


def plan_app(books: Books, name: str, turn: Turn) -> None:
    """What an app needs: kills now, starts with the offers that come."""
    state = books.apps.get(name)
    books.missing_of.pop(name, None)
    books.unplanned.discard(name)
    books.plan_at.pop(name, None)
    if state is None:
        return
    size = len(books.by_app[name])
    if size > _SMALL:
        books.plan_at[name] = books.now() + min(size / _ONE_SECOND, 1.0)
    living = books.living(name)
    if state.deleting:
        for instance in living:
            kill(books, instance, "the app was deleted", turn)
        if not books.by_app[name]:
            for claim in volumes.of_app(books, name) if state.destroy else ():
                volumes.leave(books, claim, "the app was deleted with its volumes", turn)
            books.drop_app(state, turn)
        return
    now = books.now()
    before = state.deployment
    found = plan(
        state.target,
        Situation(books.wanted(state), now - state.started_at, now >= state.retry_at),
        state.deployment,
        books.seen(living, now),
    )
    state.deployment = found.deployment
    if found.start:
        books.missing_of[name] = (found.start, found.version)
    for instance, why in found.kill:
        kill(books, instance, why, turn)
    if found.deployment != before:
        books.write_app(state, turn)
        if found.deployment.status is not before.status:
            body = {"deployment": found.deployment.id, "message": found.deployment.message}
            books.say(f"deployment.{found.deployment.status.value.replace(' ', '_')}", name, body)
    books.prune_versions(state, turn)


def place(books: Books, turn: Turn) -> None:
    """Match what is missing with the offers that are held; decline the rest, or be quiet."""
    if books.pool.held:
        # What is launched goes by what is so now.
        for name in sorted(books.unplanned & books.missing_of.keys()):
            plan_app(books, name, turn)
    demands = []
    for name, (count, version) in books.missing_of.items() if books.pool.held else ():
        state = books.apps[name]
        app = state.versions.get(version)
        if app is not None:
            others = tuple(instance.place for instance in books.living(name))
            free, make = volumes.available(books, state) if app.volumes else ((), 0)
            owner = Owner(books.framework_id, books.settings.principal)
            demands.append(Demand(app, count, others, free, make, owner))
    volumes.undo(books, turn)
    if demands:
        why_not = {demand.app.name: books.apps[demand.app.name].why_not for demand in demands}
        found = match(books.pool, demands, random.randrange, why_not, partial(_avoid, books))
        _launch(books, found, turn)
        for name in {item.app.name for item in found}:
            plan_app(books, name, turn)
    leaving = any(claim.state is ClaimState.LEAVING for claim in books.claims.values())
    if books.missing_of or leaving:
        _constrain(books, leaving, turn)
    _level(books, bool(books.missing_of) or leaving, turn)
    if books.pool.held:
        ids = [offer_id for held in books.pool.held.values() for offer_id in held.ids]
        books.pool.clear()
        seconds = books.settings.refuse_busy if books.missing_of else books.settings.refuse_idle
        turn.call(calls.decline(ids, seconds))


def _avoid(books: Books, held: Held) -> str:
    if held.place.agent_id in books.leaving_agents:
        return "its machine leaves"
    soon = held.unavailable is not None and (
        held.unavailable - time.time() < books.settings.avoid_before_maintenance
    )
    return "maintenance is due" if soon else ""


def _constrain(books: Books, leaving: bool, turn: Turn) -> None:
    """Tell the master which agents nobody who waits would take; before REVIVE, which makes it offer at once.
    What is to be undone may be anywhere.
    """
    now = books.now()
    if not books.constraining or (now < books.constrain_at and not books.suppressed):
        return
    waiting = [
        app
        for name, (_, version) in books.missing_of.items()
        if (app := books.apps[name].versions.get(version)) is not None
    ]
    wanted = OfferConstraints() if leaving else constraints_for(waiting, books.settings.roles)
    if wanted != books.constraints:
        books.constraints = turn.constraints = wanted
        books.constrain_at = now + books.settings.constrain_every


def _level(books: Books, wanting: bool, turn: Turn) -> None:
    """SUPPRESS while nothing is missing, REVIVE when something is: by what is so, not by what changed."""
    now = books.now()
    roles = books.settings.roles
    if wanting and books.suppressed and now >= books.revive_at:
        books.suppressed = False
        books.revive_at = now + books.settings.revive_every
        turn.suppressed = frozenset(())
        turn.call(calls.revive(roles))
    elif not wanting and not books.suppressed:
        books.suppressed = True
        turn.suppressed = frozenset(roles)
        turn.call(calls.suppress(roles))


def _launch(books: Books, found: Sequence[Assignment], turn: Turn) -> None:
    """Store the intents; one ACCEPT for each place after that."""
    by_place: dict[tuple[str, str], list[tuple[Assignment, Instance]]] = defaultdict(list)
    for item in found:
        instance_id = new_id(item.app.name)
        instance = Instance(
            instance_id,
            item.app.name,
            item.app.version,
            item.place.agent_id,
            item.place.hostname,
            f"{instance_id}.executor",
            tuple(TaskState(task.name) for task in item.app.tasks),
            dict(item.place.values),
            name_ports(item.app, item.ports),
            time.time(),
            claim=item.claim.id if item.claim is not None else "",
        )
        by_place[item.key].append((item, instance))
    launcher = Launcher(Terms(books.settings.delivery, books.framework_id, partial(_secret, books)))
    for key, listed in by_place.items():
        held = books.pool.take(key)
        operations = []
        for item, instance in listed:
            try:
                made = launcher.launch_of(item.app, instance, item.pieces)
            except (OSError, ValueError) as error:
                _refuse_to_launch(books, item.app.name, str(error), turn)
                continue
            # The executor's container has the volumes before the executor starts in it.
            made.executor.resources.extend(wire(item.volumes))
            first = volumes.operations_of(books, item)
            operations += first
            operations.append(calls.launch_group(made.executor, made.tasks))
            if item.claim is not None and item.reserve:
                claim = replace(item.claim, wall_made=time.time(), operations=volumes.ids_of(first))
                volumes.store(books, claim, turn)
            books.keep(instance)
            books.silent_since[instance.id] = books.now()
            turn.put(f"instances/{instance.id}", encode(instance))
            books.counters["launches"] += 1
            books.say(
                "instance.launching", instance.app, {"instance": instance.id, "host": instance.hostname}
            )
        call = calls.accept(held.ids, operations, 0.0)
        turn.call(call)


def _refuse_to_launch(books: Books, name: str, why: str, turn: Turn) -> None:
    state = books.apps[name]
    state.deployment = replace(state.deployment, status=Status.PAUSED, message=f"cannot be launched: {why}")
    books.write_app(state, turn)


def _secret(books: Books, name: str) -> bytes:
    """A secret's bytes, from a file below the secrets folder. Raises ValueError, OSError."""
    folder = books.settings.secrets
    if folder is None:
        raise ValueError(f"secret {name!r}: this framework was started without --secrets")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"secret {name!r} is outside the secrets folder")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"secret {name!r} cannot be read: {error.strerror}") from None
    if b"\0" in data:
        raise ValueError(f"secret {name!r} has a NUL in it, which no variable of an environment may have")
    return data
