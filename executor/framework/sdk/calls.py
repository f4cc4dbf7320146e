"""Calls of a scheduler: builders, and which of them may be said again.

A call that was lost on its way may have been carried out. All but two may be repeated: they are idempotent or
say what level is wanted. ACCEPT never: a second copy names offers that are used up, and the master then
declares tasks lost that run (master.cpp `accept`). MESSAGE is at most once by its nature.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk.resources import Resources, wire

Call = scheduler_pb2.Call
Operation = offers_pb2.Offer.Operation

MAX_REFUSAL = 31_536_000.0
"""Seconds. What a master caps a filter at."""

_ONCE = frozenset({Call.ACCEPT, Call.MESSAGE, Call.SUBSCRIBE, Call.TEARDOWN, Call.UPDATE_FRAMEWORK})


def repeatable(call: Call) -> bool:
    """Whether a call whose answer was lost may be sent again."""
    return call.type not in _ONCE


@dataclass(frozen=True, slots=True)
class TaskRef:
    """A task to reconcile. Without the agent an unreachable task is reported UNKNOWN, so give it."""

    task_id: str
    agent_id: str


@dataclass(frozen=True, slots=True)
class OperationRef:
    """An operation to reconcile. Without the agent one that is not known is UNKNOWN wherever it was."""

    operation_id: str
    agent_id: str


def subscribe(
    info: mesos_pb2.FrameworkInfo,
    suppressed: Iterable[str] = (),
    constraints: scheduler_pb2.OfferConstraints | None = None,
) -> Call:
    """A subscription. Suppressed roles and constraints are said every time: the master keeps neither."""
    call = Call(type=Call.SUBSCRIBE)
    call.subscribe.framework_info.CopyFrom(info)
    call.subscribe.suppressed_roles.extend(sorted(suppressed))
    if constraints is not None:
        call.subscribe.offer_constraints.CopyFrom(constraints)
    if info.id.value:
        call.framework_id.value = info.id.value
    return call


def accept(offer_ids: Sequence[str], operations: Iterable[Operation], refuse_seconds: float) -> Call:
    """Use offers of one agent and role; what is left of them comes back after `refuse_seconds`."""
    call = Call(type=Call.ACCEPT)
    for offer_id in offer_ids:
        call.accept.offer_ids.add(value=offer_id)
    call.accept.operations.extend(operations)
    call.accept.filters.refuse_seconds = min(refuse_seconds, MAX_REFUSAL)
    return call


def launch(tasks: Iterable[mesos_pb2.TaskInfo]) -> Operation:
    """LAUNCH: every task by itself."""
    operation = Operation(type=Operation.LAUNCH)
    operation.launch.task_infos.extend(tasks)
    return operation


def launch_group(executor: mesos_pb2.ExecutorInfo, tasks: Iterable[mesos_pb2.TaskInfo]) -> Operation:
    """LAUNCH_GROUP: all or none, under one executor, which must name its framework."""
    operation = Operation(type=Operation.LAUNCH_GROUP)
    operation.launch_group.executor.CopyFrom(executor)
    operation.launch_group.task_group.tasks.extend(tasks)
    return operation


def reserve(resources: Resources, operation_id: str = "") -> Operation:
    """RESERVE: the pieces as they shall be, each with one dynamic reservation more. With an id its outcome is
    told as an UPDATE_OPERATION_STATUS; a master refuses the id for an agent that cannot tell.
    """
    operation = _identified(Operation.RESERVE, operation_id)
    operation.reserve.resources.extend(wire(resources))
    return operation


def unreserve(resources: Resources, operation_id: str = "") -> Operation:
    """UNRESERVE: the pieces as they are."""
    operation = _identified(Operation.UNRESERVE, operation_id)
    operation.unreserve.resources.extend(wire(resources))
    return operation


def create(volumes: Resources, operation_id: str = "") -> Operation:
    """CREATE: the volumes as they shall be."""
    operation = _identified(Operation.CREATE, operation_id)
    operation.create.volumes.extend(wire(volumes))
    return operation


def destroy(volumes: Resources, operation_id: str = "") -> Operation:
    """DESTROY: the volumes, and what is in them."""
    operation = _identified(Operation.DESTROY, operation_id)
    operation.destroy.volumes.extend(wire(volumes))
    return operation


def _identified(kind: Operation.Type, operation_id: str) -> Operation:
    operation = Operation(type=kind)
    if operation_id:
        operation.id.value = operation_id
    return operation


def decline(offer_ids: Iterable[str], refuse_seconds: float) -> Call:
    """Give offers back, of any agents and roles."""
    call = Call(type=Call.DECLINE)
    for offer_id in offer_ids:
        call.decline.offer_ids.add(value=offer_id)
    call.decline.filters.refuse_seconds = min(refuse_seconds, MAX_REFUSAL)
    return call


def revive(roles: Iterable[str]) -> Call:
    """Offer these roles again, filters forgotten. Never without a role: that would be all of them."""
    call = Call(type=Call.REVIVE)
    call.revive.roles.extend(sorted(roles))
    return call


def suppress(roles: Iterable[str]) -> Call:
    """No more offers for these roles."""
    call = Call(type=Call.SUPPRESS)
    call.suppress.roles.extend(sorted(roles))
    return call


def kill(task: TaskRef, grace: float | None = None) -> Call:
    """Kill a task; `grace` in seconds overrides its own policy."""
    call = Call(type=Call.KILL)
    call.kill.task_id.value = task.task_id
    if task.agent_id:
        call.kill.agent_id.value = task.agent_id
    if grace is not None:
        call.kill.kill_policy.grace_period.nanoseconds = int(grace * 1e9)
    return call


def acknowledge(status: mesos_pb2.TaskStatus) -> Call:
    """Acknowledge an update that has a uuid."""
    call = Call(type=Call.ACKNOWLEDGE)
    call.acknowledge.task_id.CopyFrom(status.task_id)
    call.acknowledge.agent_id.CopyFrom(status.agent_id)
    call.acknowledge.uuid = status.uuid
    return call


def acknowledge_operation(status: offers_pb2.OperationStatus) -> Call:
    """Acknowledge an operation's status; the agent must be known to the status."""
    call = Call(type=Call.ACKNOWLEDGE_OPERATION_STATUS)
    body = call.acknowledge_operation_status
    body.agent_id.CopyFrom(status.agent_id)
    if status.HasField("resource_provider_id"):
        body.resource_provider_id.CopyFrom(status.resource_provider_id)
    body.uuid = status.uuid.value
    body.operation_id.CopyFrom(status.operation_id)
    return call


def reconcile(tasks: Iterable[TaskRef]) -> Call:
    """Ask for the state of these tasks, or, given none, of all that the master knows."""
    call = Call(type=Call.RECONCILE)
    call.reconcile.SetInParent()
    for task in tasks:
        entry = call.reconcile.tasks.add()
        entry.task_id.value = task.task_id
        if task.agent_id:
            entry.agent_id.value = task.agent_id
    return call


def reconcile_operations(operations: Iterable[OperationRef]) -> Call:
    """Ask what became of these operations, or, given none, of all that the master knows."""
    call = Call(type=Call.RECONCILE_OPERATIONS)
    call.reconcile_operations.SetInParent()
    for operation in operations:
        entry = call.reconcile_operations.operations.add()
        entry.operation_id.value = operation.operation_id
        if operation.agent_id:
            entry.agent_id.value = operation.agent_id
    return call


def shutdown(executor_id: str, agent_id: str) -> Call:
    """End an executor and whatever it runs."""
    call = Call(type=Call.SHUTDOWN)
    call.shutdown.executor_id.value = executor_id
    call.shutdown.agent_id.value = agent_id
    return call


def message(executor_id: str, agent_id: str, data: bytes) -> Call:
    """Bytes for an executor, at most once."""
    call = Call(type=Call.MESSAGE)
    call.message.executor_id.value = executor_id
    call.message.agent_id.value = agent_id
    call.message.data = data
    return call


def answer_inverse(offer_ids: Iterable[str], *, accept: bool, refuse_seconds: float) -> Call:
    """Say whether this framework will leave those machines in time."""
    kind = Call.ACCEPT_INVERSE_OFFERS if accept else Call.DECLINE_INVERSE_OFFERS
    call = Call(type=kind)
    body = call.accept_inverse_offers if accept else call.decline_inverse_offers
    for offer_id in offer_ids:
        body.inverse_offer_ids.add(value=offer_id)
    body.filters.refuse_seconds = min(refuse_seconds, MAX_REFUSAL)
    return call


def teardown() -> Call:
    """End the framework for good: every task is killed and the id is spent."""
    return Call(type=Call.TEARDOWN)


def update_framework(
    info: mesos_pb2.FrameworkInfo,
    suppressed: Iterable[str],
    constraints: scheduler_pb2.OfferConstraints | None,
) -> Call:
    """Replace FrameworkInfo, suppressed roles and constraints; answered synchronously."""
    call = Call(type=Call.UPDATE_FRAMEWORK)
    call.update_framework.framework_info.CopyFrom(info)
    call.update_framework.suppressed_roles.extend(sorted(suppressed))
    if constraints is not None:
        call.update_framework.offer_constraints.CopyFrom(constraints)
    return call
