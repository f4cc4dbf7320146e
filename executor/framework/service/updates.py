"""What the master says, and what follows from it for instances and apps.

An update is applied, then stored with its turn, then acknowledged. What is not known is acknowledged and
killed: unacknowledged it would come again for ever.
"""

import logging
import time
from dataclasses import replace

from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk import calls
from executor.framework.sdk.calls import TaskRef
from executor.framework.service import volumes
from executor.framework.service.apps import HISTORY, AppState
from executor.framework.service.books import Books
from executor.framework.service.instance import (
    NOT_ITS_FAULT,
    Instance,
    State,
    after_update,
    encode,
    instance_of,
    state_of,
)
from executor.framework.service.killing import kill
from executor.framework.service.matching import unavailable
from executor.framework.service.offer_constraints import understood_by
from executor.framework.service.rollout import Status, readiness
from executor.framework.service.turn import Turn

log = logging.getLogger(__name__)

Event = scheduler_pb2.Event
TaskStatus = mesos_pb2.TaskStatus


def event(books: Books, event: Event, turn: Turn) -> None:
    """One event of the stream."""
    match event.type:
        case Event.SUBSCRIBED:
            books.constraining = understood_by(event.subscribed.master_info.version)
        case Event.RESCIND_INVERSE_OFFER:
            agent_id = books.inverse.pop(event.rescind_inverse_offer.inverse_offer_id.value, "")
            if agent_id not in books.inverse.values():
                books.leaving_agents.discard(agent_id)
        case Event.OFFERS:
            _offers(books, event.offers, turn)
        case Event.RESCIND:
            books.pool.rescind(event.rescind.offer_id.value)
        case Event.UPDATE:
            update(books, event.update.status, turn)
        case Event.FAILURE:
            _failure(books, event.failure, turn)
        case Event.INVERSE_OFFERS:
            _inverse(books, event.inverse_offers, turn)
        case Event.UPDATE_OPERATION_STATUS:
            status = event.update_operation_status.status
            volumes.operation(books, status, turn)
            if status.HasField("uuid"):
                turn.call(calls.acknowledge_operation(status))


def _offers(books: Books, body: Event.Offers, turn: Turn) -> None:
    for offer in body.offers:
        if unavailable(offer, time.time()) is None:
            books.leaving_agents.discard(offer.agent_id.value)  # its maintenance is over
    refused = [offer.id.value for offer in body.offers if not books.pool.add(offer)]
    books.counters["offers"] += len(body.offers)
    if refused:
        turn.call(calls.decline(refused, books.settings.refuse_idle))


def update(books: Books, status: TaskStatus, turn: Turn) -> None:
    """One status of a task, with a uuid or without."""
    books.counters["updates"] += 1
    task_id = status.task_id.value
    if books.reconciler.heard(task_id):
        living = (
            TaskRef(name, instance.agent_id)
            for instance in books.instances.values()
            for name in instance.living_tasks
        )
        for call in books.reconciler.unlisted(living, books.now()):
            turn.call(call)
        return
    if books.reconciler.is_fence(task_id):
        return
    if status.HasField("uuid") and status.uuid:
        turn.call(calls.acknowledge(status))
    instance = books.instances.get(instance_of(task_id))
    if instance is None or task_id not in instance.task_ids:
        if not state_of(status).ended and status.state != mesos_pb2.TASK_UNKNOWN:
            log.warning("killing task %r, which this framework does not know", task_id)
            turn.call(calls.kill(TaskRef(task_id, status.agent_id.value)))
        return
    name = task_id.removeprefix(f"{instance.id}.")
    changed(books, instance, after_update(instance, name, status, time.time()), status, turn)


def changed(books: Books, old: Instance, new: Instance, status: TaskStatus | None, turn: Turn) -> None:
    """An instance became another; everything that follows from it."""
    if new == old:
        return
    state = books.apps.get(new.app)
    if new.claim:
        volumes.heard(books, new, status, turn)
    if new.state.ended:
        _archive(books, new, state, turn)
    else:
        books.keep(new)
        turn.put(f"instances/{new.id}", encode(new))
    if new.state is not old.state or new.healthy != old.healthy:
        books.say(
            f"instance.{new.state.value}",
            new.app,
            {"instance": new.id, "host": new.hostname, "message": new.message, "healthy": new.healthy},
        )
    if state is None:
        return
    was_ready = old.id in books.ready_since
    if new.state.ended:
        _count_end(books, state, new, status, turn)
    elif new.replaced and new.state is not State.UNREACHABLE and not new.killed_for:
        kill(books, new, "it was replaced while its agent was away", turn)
    _note_times(books, state, new)
    # A plan sees which instances there are, which of them are ready, and which are to end or replaced.
    planned_by = (new.state.ended, new.killed_for, new.replaced, new.id in books.ready_since)
    if planned_by != (False, old.killed_for, old.replaced, was_ready) or State.UNREACHABLE in (
        old.state,
        new.state,
    ):
        turn.dirty.add(new.app)


def _note_times(books: Books, state: AppState, new: Instance) -> None:
    if new.state is State.UNREACHABLE:
        books.away_since.setdefault(new.id, books.now())
    else:
        books.away_since.pop(new.id, None)
    if readiness(state.versions.get(new.version, state.app), new):
        books.ready_since.setdefault(new.id, books.now())
    else:
        books.ready_since.pop(new.id, None)


def _count_end(books: Books, state: AppState, ended: Instance, status: TaskStatus | None, turn: Turn) -> None:
    """What an end means for the app: a finished job, a failure, or nothing."""
    app = state.versions.get(ended.version, state.app)
    if ended.state is State.FINISHED and app.kind != "service":
        state.finished += 1
        books.write_app(state, turn)
        return
    if ended.killed_for or ended.replaced:
        return
    if status is not None and status.reason in NOT_ITS_FAULT and ended.state is not State.FAILED:
        return
    if status is not None and status.reason == TaskStatus.REASON_AGENT_DRAINING:
        return
    ran = time.time() - ended.wall_launched
    state.failures_in_row = 1 if ran >= app.restart.reset_after else state.failures_in_row + 1
    wait = app.restart.delay * app.restart.factor ** min(state.failures_in_row - 1, 60)
    state.retry_at = books.now() + min(wait, app.restart.longest)
    if ended.version == state.deployment.version and ended.state is not State.FINISHED:
        state.deployment = replace(state.deployment, failures=state.deployment.failures + 1)
    if status is not None and status.state == mesos_pb2.TASK_ERROR and not volumes.unmade(books, ended):
        # The master will refuse the same again: no use to repeat it.
        state.deployment = replace(state.deployment, status=Status.FAILED, message=ended.message)
    attempts = app.restart.attempts
    if attempts and state.failures_in_row > attempts:
        message = f"gave up after {state.failures_in_row} failures: {ended.message}"
        state.deployment = replace(state.deployment, status=Status.FAILED, message=message)
    books.write_app(state, turn)


def _archive(books: Books, instance: Instance, state: AppState | None, turn: Turn) -> None:
    books.forget(instance)
    turn.delete(f"instances/{instance.id}")
    if state is not None:
        state.history.append(instance)
        turn.put(f"history/{instance.app}/{state.history_number % HISTORY}", encode(instance))
        state.history_number += 1
        books.write_app(state, turn)


def _failure(books: Books, failure: Event.Failure, turn: Turn) -> None:
    """An executor or an agent is gone: what we know of its tasks is asked for, never concluded."""
    if failure.HasField("executor_id"):
        # One comes for each executor that ends, so it is looked up: instance_of knows our ids.
        found = books.instances.get(instance_of(failure.executor_id.value))
        touched = [found] if found is not None else []
    else:
        agent_id = failure.agent_id.value
        touched = [item for item in books.instances.values() if item.agent_id == agent_id]
    for instance in touched:
        for task_id in instance.living_tasks:
            for call in books.reconciler.add(TaskRef(task_id, instance.agent_id), books.now()):
                turn.call(call)


def _inverse(books: Books, body: Event.InverseOffers, turn: Turn) -> None:
    """Machines that are wanted back: their instances are replaced elsewhere first, as by an update."""
    ids = [offer.id.value for offer in body.inverse_offers]
    for offer in body.inverse_offers:
        if offer.agent_id.value and unavailable(offer, time.time()) is not None:
            books.leaving_agents.add(offer.agent_id.value)
            # What was answered is outstanding no more: the same question comes again under another id.
            for known in [key for key, agent in books.inverse.items() if agent == offer.agent_id.value]:
                del books.inverse[known]
            books.inverse[offer.id.value] = offer.agent_id.value
    turn.dirty.update(
        instance.app for instance in books.instances.values() if instance.agent_id in books.leaving_agents
    )
    turn.call(calls.answer_inverse(ids, accept=True, refuse_seconds=books.settings.refuse_busy))
