"""ACCEPT and its operations, one after another on what the offers hold (src/master/master.cpp `accept`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.messages import bad_allocation, bad_form, bad_resources, told
from executor.framework.fake_master.state import AgentEntry, Framework
from executor.framework.fake_master.validation import Launching, allocated, of_group, of_task
from executor.framework.sdk.reservations import unreserved, without_volume
from executor.framework.sdk.resources import Resources, parse

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
    body = Call.Accept()
    body.CopyFrom(call.accept)  # what is filled in here was not said
    ids = [item.value for item in body.offer_ids]
    why = _stale(master, framework, ids)
    offers = [offer for offer in map(master.books.offers.get, ids) if offer is not None]
    for offer in offers if not why else [it for it in offers if it.framework_id == framework.id]:
        master.books.offers.pop(offer.message.id.value, None)
    if why:
        for operation in body.operations:
            for task in _tasks(operation):
                state = master.dropped(framework.id)
                reason = Status.REASON_INVALID_OFFERS
                master.tell(framework.id, task, state, reason, f"Task launched with invalid offers: {why}")
            if operation.type not in (Operation.LAUNCH, Operation.LAUNCH_GROUP):
                _drop(master, framework, operation, f"Operation attempted with invalid offers: {why}")
        return
    place = Place(master, framework, master.books.agents[offers[0].agent_id], offers[0].role)
    remaining = Resources()
    for offer in offers:
        remaining += offer.resources
    for operation in [item for item in body.operations if _usable(place, item)]:
        remaining = _operation(place, operation, remaining, now)
    refusal = body.filters.refuse_seconds if body.HasField("filters") else master.options.default_refusal
    refuse(place, remaining, refusal, now)


def _stale(master: Master, framework: Framework, ids: Sequence[str]) -> str:
    """Why offers cannot be used together (src/master/validation.cpp, `offer::validate`)."""
    offers = {offer_id: master.books.offers.get(offer_id) for offer_id in ids}
    found = [offer for offer in offers.values() if offer is not None]
    gone = next((offer_id for offer_id, offer in offers.items() if offer is None), "")
    faults = told(
        (not ids, "No offers specified"),
        (len(offers) != len(ids), "Duplicate offer in offer list"),
        (gone, f"Offer {gone} is no longer valid"),
        (any(it.framework_id != framework.id for it in found), "an offer has invalid framework"),
        (
            len({offer.role for offer in found}) > 1,
            "Aggregated offers must be allocated to the same role",
        ),
        (
            len({offer.agent_id for offer in found}) > 1,
            "Aggregated offers must belong to one single agent",
        ),
    )
    return next(faults, "")


def _drop(master: Master, framework: Framework, operation: Operation, why: str) -> None:
    """An operation that is not carried out. Only one with an id hears of it: once, without agent or uuid."""
    if operation.id.value:
        status = offers_pb2.OperationStatus(state=offers_pb2.OPERATION_ERROR, message=why)
        status.operation_id.CopyFrom(operation.id)
        master.tell_operation(framework.id, status)


def _usable(place: Place, operation: Operation) -> bool:
    """What is looked at before any operation is carried out: the form of resources, and ids. What passes
    gets the offers' role where it named none.
    """
    master, framework, agent = place.master, place.framework, place.entry.agent
    resources = [item for holder in _holders(operation) for item in holder]
    why = next((f"{fault}" for item in resources if (fault := bad_form(item))), "")
    tasks = _tasks(operation)
    if operation.type in (Operation.LAUNCH, Operation.LAUNCH_GROUP):
        name = Operation.Type.Name(operation.type)
        if not why and operation.HasField("id"):
            why = f"The `id` field cannot be set on {name} operations"
        grouped = operation.type == Operation.LAUNCH_GROUP
        reason = Status.REASON_TASK_GROUP_INVALID if grouped else Status.REASON_TASK_INVALID
        for task in tasks if why else ():
            master.tell(framework.id, task, mesos_pb2.TASK_ERROR, reason, why)
    elif why or operation.reserve.source:
        why = why or "Reservation updates are not yet implemented for the scheduler API."
        _drop(master, framework, operation, f"Operation attempted with invalid resources: {why}")
    elif operation.HasField("id") and not master.options.operation_feedback:
        why = (
            f"Operation on agent default resources requested feedback, but agent {agent.id} does not have "
            "the required AGENT_OPERATION_FEEDBACK and RESOURCE_PROVIDER capabilities"
        )
        _drop(master, framework, operation, why)
    for resource in resources:
        if not resource.HasField("allocation_info"):
            resource.allocation_info.role = place.role
    return not why


def _holders(operation: Operation) -> Iterator[Sequence[mesos_pb2.Resource]]:
    """Every list of resources of an operation."""
    if operation.type in _CHANGES:
        yield _CHANGES[operation.type](operation)
    yield operation.launch_group.executor.resources
    for task in _tasks(operation):
        yield task.resources
        yield task.executor.resources


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
    listed = _CHANGES[operation.type](operation)
    why = master.operation_hook(operation) or next(_operation_faults(place, operation.type, listed), "")
    if why:
        _drop(master, framework, operation, why)
        return remaining
    named = parse(listed)
    before, after = _before_and_after(operation.type, named)
    if not remaining.contains(before):
        _drop(master, framework, operation, f"{remaining.text()} does not contain {before.text()}")
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


def _operation_faults(
    place: Place, kind: Operation.Type, listed: Sequence[mesos_pb2.Resource]
) -> Iterator[str]:
    """What validation says (src/master/validation.cpp, `operation::validate`)."""
    if why := bad_resources(listed):
        yield f"Invalid resources: {why}"
    if len({resource.provider_id.value for resource in listed}) > 1:
        yield "Invalid resources: The resources have multiple resource providers"
    for resource in listed:
        last = resource.reservations[-1] if resource.reservations else mesos_pb2.Resource.ReservationInfo()
        if kind in (Operation.RESERVE, Operation.UNRESERVE):
            if last.type != mesos_pb2.Resource.ReservationInfo.DYNAMIC:
                yield f"Resource {resource.name} is not dynamically reserved"
            if kind == Operation.RESERVE:
                yield from _reserve_faults(place, resource, last)
            elif resource.disk.HasField("persistence"):
                yield (
                    f"A dynamically reserved persistent volume {resource.name} cannot be unreserved "
                    "directly. Please destroy the persistent volume first then unreserve the resource"
                )
        else:
            yield from _volume_faults(place, kind, resource)
    if kind in (Operation.RESERVE, Operation.CREATE) and (why := bad_allocation(listed)):
        yield f"Invalid volume resources: {why}"


def _volume_faults(place: Place, kind: Operation.Type, resource: mesos_pb2.Resource) -> Iterator[str]:
    persistence, principal = resource.disk.persistence, place.framework.info.principal
    there = {piece.persistence for piece, _ in place.entry.agent.extra if piece.persistence}
    yield from told(
        (
            not resource.disk.HasField("persistence"),
            f"Not a persistent volume: Resource {resource.name} does not have DiskInfo",
        ),
        (
            resource.disk.volume.mode == mesos_pb2.Volume.RO,
            "Not a persistent volume: Read-only persistent volume not supported",
        ),
    )
    if kind == Operation.DESTROY:
        yield from told((persistence.id not in there, "Persistent volumes not found"))
        return
    yield from told(
        (persistence.id in there, f"Persistence ID '{persistence.id}' is not unique"),
        (
            principal and persistence.principal != principal,
            f"Create volume operation attempted by principal '{principal}', but there is a volume in the "
            "operation with another principal, or none, set in 'disk.persistence'",
        ),
    )


def _reserve_faults(
    place: Place, resource: mesos_pb2.Resource, last: mesos_pb2.Resource.ReservationInfo
) -> Iterator[str]:
    principal, role = place.framework.info.principal, resource.allocation_info.role
    if resource.HasField("revocable"):
        yield "Invalid ReservationInfo: a dynamic reservation cannot be created from revocable resources"
    if principal and last.principal != principal:
        yield (
            f"A reserve operation was attempted by principal '{principal}', but there is a reserved resource "
            "in the request with another principal, or with no principal set"
        )
    if role != last.role:
        yield (
            f"A reserve operation was attempted for a resource with role '{last.role}', but the resource was "
            f"allocated to role '{role}'"
        )
    if role not in place.framework.roles:
        yield f"the framework only has roles '{', '.join(place.framework.roles)}'"


_CHANGES: Mapping[int, Callable[[Operation], Sequence[mesos_pb2.Resource]]] = {
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
    where = Launching(
        framework.id,
        entry.agent.id,
        remaining,
        lambda task_id: _taken(master, framework, task_id),
        lambda executor_id: _living(entry.agent, framework, executor_id),
    )
    executor = group_executor
    if executor is None and tasks[0].HasField("executor"):
        executor = tasks[0].executor
        executor.framework_id.value = executor.framework_id.value or framework.id
    why = of_task(tasks[0], where) if group_executor is None else of_group(tasks, group_executor, where)
    if why:
        invalid = Status.REASON_TASK_INVALID if group_executor is None else Status.REASON_TASK_GROUP_INVALID
        for task in tasks:
            master.tell(framework.id, task, mesos_pb2.TASK_ERROR, invalid, why)
        return remaining
    if not entry.connected:
        for task in tasks:
            state, reason = master.dropped(framework.id), Status.REASON_AGENT_DISCONNECTED
            master.tell(framework.id, task, state, reason, "Agent disconnected")
        return remaining
    needed = Resources()
    for task in tasks:
        needed += parse(task.resources)
        if group_executor is not None:
            task.executor.CopyFrom(group_executor)  # so that operators see whose task it is
    if executor is not None and where.living(executor.executor_id.value) is None:
        needed += parse(executor.resources)
    entry.agent.launch(framework.id, tasks, executor, now)
    entry.agent.tick(now, connected=True)
    return remaining - needed


def _taken(master: Master, framework: Framework, task_id: str) -> bool:
    """Whether a task of this id lives, or is not known to be gone."""
    return any(
        (task := entry.agent.tasks.get(task_id)) is not None and task.framework_id == framework.id
        for entry in master.books.agents.values()
    )


def _living(agent: FakeAgent, framework: Framework, executor_id: str) -> mesos_pb2.ExecutorInfo | None:
    found = agent.executors.get((framework.id, executor_id))
    return found.info if found is not None else None
