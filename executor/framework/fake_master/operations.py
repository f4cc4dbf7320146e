"""ACCEPT and its operations, one after another on what the offers hold (src/master/master.cpp `accept`)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.state import AgentEntry, Framework
from executor.framework.fake_master.validation import allocated, of_executor, of_task, same_executor
from executor.framework.sdk.reservations import unreserved, without_volume
from executor.framework.sdk.resources import InvalidResourceError, Resources, parse

Call = scheduler_pb2.Call
Operation = offers_pb2.Offer.Operation
Status = mesos_pb2.TaskStatus


@dataclass(frozen=True, slots=True)
class Place:
    """Where an ACCEPT works: whose it is, on which agent, in which role."""

    master: Master
    framework: Framework
    entry: AgentEntry
    role: str


def accept(master: Master, framework: Framework, call: Call, now: float) -> None:
    body = call.accept
    ids = [item.value for item in body.offer_ids]
    offers = [master.books.offers.get(offer_id) for offer_id in ids]
    valid = [offer for offer in offers if offer is not None and offer.framework_id == framework.id]
    places = {(offer.agent_id, offer.role) for offer in valid}
    stale = not ids or len(set(ids)) != len(ids) or len(valid) != len(ids) or len(places) != 1
    for offer in valid:
        del master.books.offers[offer.message.id.value]
    if stale:
        for operation in body.operations:
            for task in _tasks(operation):
                state = master.dropped(framework.id)
                reason = Status.REASON_INVALID_OFFERS
                master.tell(framework.id, task, state, reason, "Task launched with invalid offers")
            if operation.id.value:
                status = offers_pb2.OperationStatus(
                    state=offers_pb2.OPERATION_ERROR, message="Operation attempted with invalid offers"
                )
                status.operation_id.CopyFrom(operation.id)
                master.tell_operation(framework.id, status)
        return
    entry = master.books.agents[valid[0].agent_id]
    place = Place(master, framework, entry, valid[0].role)
    remaining = Resources()
    for offer in valid:
        remaining += offer.resources
    for operation in body.operations:
        remaining = _operation(place, operation, remaining, now)
    refusal = body.filters.refuse_seconds if body.HasField("filters") else master.options.default_refusal
    refuse(place, remaining, refusal, now)


def refuse(place: Place, left: Resources, seconds: float, now: float) -> None:
    options = place.master.options
    if seconds < 0:
        seconds = options.default_refusal
    if seconds and left:
        until = now + max(seconds, options.allocation)
        place.master.refuse(place.framework, place.entry.agent.id, place.role, left, until)


def _tasks(operation: Operation) -> Sequence[mesos_pb2.TaskInfo]:
    if operation.type == Operation.LAUNCH:
        return operation.launch.task_infos
    if operation.type == Operation.LAUNCH_GROUP:
        return operation.launch_group.task_group.tasks
    return ()


def _operation(place: Place, operation: Operation, remaining: Resources, now: float) -> Resources:
    """Carry one operation out; what is left for those behind it."""
    if operation.type == Operation.LAUNCH:
        for task in operation.launch.task_infos:
            remaining = _launch(place, [task], None, remaining, now)
        return remaining
    if operation.type == Operation.LAUNCH_GROUP:
        group = operation.launch_group
        return _launch(place, list(group.task_group.tasks), group.executor, remaining, now)
    if operation.type in _CHANGES:
        return _change(place, operation, remaining)
    return remaining


def _change(place: Place, operation: Operation, remaining: Resources) -> Resources:
    """RESERVE, UNRESERVE, CREATE, DESTROY: speculative, later operations of the same ACCEPT may use the
    result.
    """
    master, framework, agent = place.master, place.framework, place.entry.agent
    named = allocated(parse(_CHANGES[operation.type](operation)), place.role)
    before, after = _before_and_after(operation.type, named)
    why = master.operation_hook(operation)
    if operation.id.value and not master.options.operation_feedback:
        why = (
            why or "Agent does not support operation feedback: AGENT_OPERATION_FEEDBACK capability is missing"
        )
    why = why or _operation_refused(place, operation.type, named)
    if not why and not remaining.contains(before):
        why = f"{before.text()} is not in {remaining.text()}"
    if why:
        if operation.id.value:
            status = offers_pb2.OperationStatus(state=offers_pb2.OPERATION_ERROR, message=why)
            status.operation_id.CopyFrom(operation.id)
            master.tell_operation(framework.id, status)
        return remaining
    _book(agent, allocated(before, ""), allocated(after, ""))
    if operation.type == Operation.DESTROY and agent.backend is not None:
        for kind, _ in named:
            agent.backend.destroy(kind.persistence)
    if operation.id.value:
        agent.operated(framework.id, operation.id.value)
    return remaining - before + after


def _book(agent: FakeAgent, before: Resources, after: Resources) -> None:
    """Turn pieces of an agent into others. What was made may be unmade: so neither book grows for ever."""
    for kind, amount in before:
        piece = Resources({kind: amount})
        if agent.extra.contains(piece):
            agent.extra -= piece
        else:
            agent.taken += piece
    for kind, amount in after:
        piece = Resources({kind: amount})
        if agent.taken.contains(piece):
            agent.taken -= piece
        else:
            agent.extra += piece


def _before_and_after(kind: Operation.Type, named: Resources) -> tuple[Resources, Resources]:
    strip = unreserved if kind in (Operation.RESERVE, Operation.UNRESERVE) else without_volume
    bare = Resources()
    for piece, amount in named:
        bare += Resources({strip(piece): amount})
    return (bare, named) if kind in (Operation.RESERVE, Operation.CREATE) else (named, bare)


def _operation_refused(place: Place, kind: Operation.Type, named: Resources) -> str:
    """What validation says (src/master/validation.cpp, operation::validate)."""
    return next(_operation_faults(place, kind, named), "")


def _operation_faults(place: Place, kind: Operation.Type, named: Resources) -> Iterator[str]:
    principal = place.framework.info.principal
    there = {piece.persistence for piece, _ in place.entry.agent.extra}
    for piece, _ in named:
        if not piece.reservations:
            yield f"Resource {piece.name} is not dynamically reserved"
            continue
        if piece.reserved_to == "*" or piece.reserved_to != place.role:
            yield f"Resource {piece.name} is reserved to {piece.reserved_to!r}, not to {place.role!r}"
        last = mesos_pb2.Resource.ReservationInfo()
        last.MergeFromString(piece.reservations[-1])
        if last.type != mesos_pb2.Resource.ReservationInfo.DYNAMIC or last.principal != principal:
            yield f"Reservation by principal {last.principal!r}, the framework's is {principal!r}"
        if kind == Operation.UNRESERVE and piece.persistence:
            yield "A dynamically reserved persistent volume cannot be unreserved directly"
        if kind in (Operation.CREATE, Operation.DESTROY) and not piece.persistence:
            yield f"Resource {piece.name} is no persistent volume"
        if kind == Operation.CREATE and piece.persistence in there:
            yield f"Persistence ID {piece.persistence!r} already exists"


_CHANGES: Mapping[int, Callable[[Operation], Iterable[mesos_pb2.Resource]]] = {
    Operation.RESERVE: lambda operation: operation.reserve.resources,
    Operation.UNRESERVE: lambda operation: operation.unreserve.resources,
    Operation.CREATE: lambda operation: operation.create.volumes,
    Operation.DESTROY: lambda operation: operation.destroy.volumes,
}


def _launch(
    place: Place,
    tasks: list[mesos_pb2.TaskInfo],
    group_executor: mesos_pb2.ExecutorInfo | None,
    remaining: Resources,
    now: float,
) -> Resources:
    """One task, or one group: launched whole, or refused whole with a TASK_ERROR each."""
    master, framework, entry = place.master, place.framework, place.entry
    why, needed = _needs(place, tasks, group_executor)
    if not why and not remaining.contains(needed):
        why = f"Task uses more resources {needed.text()} than available {remaining.text()}"
    if why:
        invalid = Status.REASON_TASK_INVALID if group_executor is None else Status.REASON_TASK_GROUP_INVALID
        for task in tasks:
            master.tell(framework.id, task, mesos_pb2.TASK_ERROR, invalid, why)
        return remaining
    executor = group_executor
    if executor is None and tasks[0].HasField("executor"):
        executor = mesos_pb2.ExecutorInfo()
        executor.CopyFrom(tasks[0].executor)
        executor.framework_id.value = framework.id
    if not entry.connected:
        for task in tasks:
            state, reason = master.dropped(framework.id), Status.REASON_AGENT_DISCONNECTED
            master.tell(framework.id, task, state, reason, "Agent is disconnected")
        return remaining
    entry.agent.launch(framework.id, tasks, executor, now)
    entry.agent.tick(now, connected=True)
    return remaining - needed


def _needs(
    place: Place, tasks: list[mesos_pb2.TaskInfo], group_executor: mesos_pb2.ExecutorInfo | None
) -> tuple[str, Resources]:
    """What is wrong, or what all of it takes of the offer."""
    framework, agent = place.framework, place.entry.agent
    taken = {
        task_id
        for other in place.master.books.agents.values()
        for task_id, task in other.agent.tasks.items()
        if task.framework_id == framework.id
    }
    needed = Resources()
    grouped = group_executor is not None
    for task in tasks:
        if why := of_task(task, agent.id, taken, grouped=grouped):
            return why, needed
        taken.add(task.task_id.value)
        needed += allocated(parse(task.resources), place.role)
    executor = group_executor if group_executor is not None else tasks[0].executor
    if grouped and (why := of_executor(executor, grouped=True)):
        return why, needed
    if grouped or tasks[0].HasField("executor"):
        living = agent.executors.get((framework.id, executor.executor_id.value))
        if living is not None and not same_executor(living.info, executor):
            return "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID", needed
        if living is None:
            try:
                needed += allocated(parse(executor.resources), place.role)
            except InvalidResourceError as error:
                return f"Executor uses invalid resources: {error}", needed
    return "", needed
