"""A scheduler's calls, carried out as a master does.

A call whose meaning is wrong is still answered 202; what becomes of it is an event or nothing at all.
"""

from collections.abc import Callable, Mapping

from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.ladder import Refused
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.offer_constraints import OfferConstraints
from executor.framework.fake_master.operations import Place, accept, refuse
from executor.framework.fake_master.state import AgentEntry, Framework
from executor.framework.fake_master.subscription import of_change, of_framework, of_wishes, roles_of

Call = scheduler_pb2.Call
Status = mesos_pb2.TaskStatus


def carry_out(master: Master, call: Call, now: float) -> None:
    """Do a call other than SUBSCRIBE. Raises Refused for UPDATE_FRAMEWORK alone."""
    framework = master.books.frameworks[call.framework_id.value]
    _CALLS.get(call.type, _nothing)(master, framework, call, now)


def _nothing(_master: Master, _framework: Framework, _call: Call, _now: float) -> None:
    """202 and no more."""


def _decline(master: Master, framework: Framework, call: Call, now: float) -> None:
    body = call.decline
    seconds = body.filters.refuse_seconds if body.HasField("filters") else master.options.default_refusal
    for item in body.offer_ids:
        offer = master.books.offers.get(item.value)
        if offer is not None and offer.framework_id == framework.id:
            del master.books.offers[item.value]
            place = Place(master, framework, master.books.agents[offer.agent_id], offer.role)
            refuse(place, offer.resources, seconds, now)


def _revive(master: Master, framework: Framework, call: Call, now: float) -> None:
    roles = set(call.revive.roles) or set(framework.roles)
    if not roles <= set(framework.roles):
        return
    framework.suppressed -= roles
    for key in [key for key in framework.filters if key[0] in roles]:
        del framework.filters[key]
    master.allocate(now)


def _suppress(_master: Master, framework: Framework, call: Call, _now: float) -> None:
    roles = set(call.suppress.roles) or set(framework.roles)
    if roles <= set(framework.roles):
        framework.suppressed |= roles


def _kill(master: Master, framework: Framework, call: Call, now: float) -> None:
    task_id = call.kill.task_id.value
    entry = _holder(master, framework, task_id)
    if entry is None:
        _answer(master, framework, task_id, call.kill.agent_id.value, now)
    elif entry.connected and call.kill.agent_id.value in ("", entry.agent.id):
        entry.agent.kill(task_id, now, call.kill.kill_policy)


def _holder(master: Master, framework: Framework, task_id: str) -> AgentEntry | None:
    """The agent whose task this is, as far as the master knows."""
    for entry in master.books.agents.values():
        task = entry.agent.tasks.get(task_id)
        known = not entry.recovered and entry.unreachable is None and not entry.gone
        if task is not None and task.framework_id == framework.id and known:
            return entry
    return None


def _shutdown(master: Master, framework: Framework, call: Call, now: float) -> None:
    entry = master.books.agents.get(call.shutdown.agent_id.value)
    key = (framework.id, call.shutdown.executor_id.value)
    if entry is not None and entry.connected and key in entry.agent.executors:
        entry.agent.shutdown(framework.id, call.shutdown.executor_id.value, now)


def _acknowledge(master: Master, _framework: Framework, call: Call, now: float) -> None:
    entry = master.books.agents.get(call.acknowledge.agent_id.value)
    if entry is not None and entry.connected and not entry.recovered:
        entry.agent.acknowledge(call.acknowledge.task_id.value, call.acknowledge.uuid)
        task = entry.agent.tasks.get(call.acknowledge.task_id.value)
        if task is not None:
            entry.agent.say(task, now)


def _acknowledge_operation(master: Master, _framework: Framework, call: Call, _now: float) -> None:
    body = call.acknowledge_operation_status
    entry = master.books.agents.get(body.agent_id.value)
    if entry is not None and entry.connected and not entry.recovered:
        entry.agent.acknowledge_operation(body.operation_id.value, body.uuid)


def _reconcile(master: Master, framework: Framework, call: Call, now: float) -> None:
    if call.reconcile.tasks:
        for item in call.reconcile.tasks:
            _answer(master, framework, item.task_id.value, item.agent_id.value, now)
        return
    for entry in master.books.agents.values():
        if entry.recovered or entry.unreachable is not None or entry.gone:
            continue
        for task in list(entry.agent.tasks.values()):
            if task.framework_id == framework.id:
                master.send(framework.id, master.update(task, now))


def _answer(master: Master, framework: Framework, task_id: str, agent_id: str, now: float) -> None:
    """One explicit question; agents that have not come back are nothing to speak of."""
    holder = _holder(master, framework, task_id)
    if holder is not None:
        master.send(framework.id, master.update(holder.agent.tasks[task_id], now))
        return
    agents = master.books.agents
    entry = agents.get(agent_id)
    if entry.recovered if entry is not None else not agent_id and any(it.recovered for it in agents.values()):
        return
    task = mesos_pb2.TaskInfo()
    task.task_id.value = task_id
    if agent_id:
        task.agent_id.value = agent_id
    if entry is None:
        state = mesos_pb2.TASK_UNKNOWN
    elif entry.gone:
        state = mesos_pb2.TASK_GONE_BY_OPERATOR
    elif entry.unreachable is not None:
        state = mesos_pb2.TASK_UNREACHABLE
    else:
        state = mesos_pb2.TASK_GONE
    state = master.lost(framework.id, state)
    master.tell(framework.id, task, state, Status.REASON_RECONCILIATION, "Reconciliation")


def _message(_master: Master, _framework: Framework, _call: Call, _now: float) -> None:
    """No executor of a script listens."""


def _teardown(master: Master, framework: Framework, _call: Call, _now: float) -> None:
    master.teardown(framework.id)


def _update_framework(master: Master, framework: Framework, call: Call, now: float) -> None:
    body = call.update_framework
    if not master.options.knows(1, 9):
        raise Refused(501, "Received 'UNKNOWN' call")
    info, constraints = body.framework_info, master.understood(body)
    if why := of_framework(info, master.options, master.books.completed):
        raise Refused(400, f"Supplied FrameworkInfo is not valid: {why}")
    if why := of_change(framework.info, info):
        raise Refused(400, f"FrameworkInfo update is not valid: {why}")
    if why := of_wishes(info, body.suppressed_roles, constraints or OfferConstraints()):
        raise Refused(400, f"'UpdateFramework' call is not valid: {why}")
    gone = set(framework.roles) - set(roles_of(info))
    awake = framework.suppressed - set(body.suppressed_roles)
    for key in [key for key in framework.filters if key[0] in awake | gone]:
        del framework.filters[key]
    framework.info.CopyFrom(info)
    framework.suppressed = set(body.suppressed_roles)
    framework.constraints = constraints
    for offer_id in [
        key
        for key, offer in master.books.offers.items()
        if offer.framework_id == framework.id and offer.role in gone
    ]:
        master.rescind(offer_id)


def _inverse(master: Master, framework: Framework, call: Call, now: float) -> None:
    accepting = call.type == Call.ACCEPT_INVERSE_OFFERS
    body = call.accept_inverse_offers if accepting else call.decline_inverse_offers
    seconds = body.filters.refuse_seconds if body.HasField("filters") else master.options.default_refusal
    for item in body.inverse_offer_ids:
        master.answered_inverse(item.value, framework.id, now + max(seconds, master.options.allocation))


def _reconcile_operations(master: Master, framework: Framework, call: Call, _now: float) -> None:
    agents = master.books.agents
    known = {
        name: told.status
        for entry in agents.values()
        if not (entry.recovered or entry.gone or entry.unreachable is not None)
        for name, told in entry.agent.operations.items()
        if told.framework_id == framework.id
    }
    asked = [(item.operation_id.value, item.agent_id.value) for item in call.reconcile_operations.operations]
    for operation_id, agent_id in asked or [(name, "") for name in known]:
        status = offers_pb2.OperationStatus()
        if operation_id in known:
            status.CopyFrom(known[operation_id])
            status.ClearField("uuid")  # an answer is nothing to acknowledge
        else:
            entry = agents.get(agent_id)
            status.operation_id.value = operation_id
            if agent_id:
                status.agent_id.value = agent_id
            status.state = offers_pb2.OPERATION_UNKNOWN
            if entry is not None and entry.recovered:
                status.state = offers_pb2.OPERATION_RECOVERING
            elif entry is not None and entry.gone:
                status.state = offers_pb2.OPERATION_GONE_BY_OPERATOR
            elif entry is not None and entry.unreachable is not None:
                status.state = offers_pb2.OPERATION_UNREACHABLE
            status.message = f"Reconciliation: {offers_pb2.OperationState.Name(status.state)}"
        master.tell_operation(framework.id, status)


_Handler = Callable[[Master, Framework, Call, float], None]

_CALLS: Mapping[int, _Handler] = {
    Call.ACCEPT: accept,
    Call.DECLINE: _decline,
    Call.REVIVE: _revive,
    Call.SUPPRESS: _suppress,
    Call.KILL: _kill,
    Call.SHUTDOWN: _shutdown,
    Call.ACKNOWLEDGE: _acknowledge,
    Call.ACKNOWLEDGE_OPERATION_STATUS: _acknowledge_operation,
    Call.RECONCILE: _reconcile,
    Call.RECONCILE_OPERATIONS: _reconcile_operations,
    Call.MESSAGE: _message,
    Call.TEARDOWN: _teardown,
    Call.UPDATE_FRAMEWORK: _update_framework,
    Call.ACCEPT_INVERSE_OFFERS: _inverse,
    Call.DECLINE_INVERSE_OFFERS: _inverse,
}
