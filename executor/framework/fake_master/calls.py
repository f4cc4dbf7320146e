"""A scheduler's calls, checked and carried out as a master does: first the ladder of HTTP codes, then each
call.

A call whose meaning is wrong is still answered 202; what becomes of it is an event or nothing at all.
"""

import base64
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.master import Master
from executor.framework.fake_master.state import AgentEntry, Framework
from executor.framework.fake_master.validation import allocated, of_executor, of_task, same_executor
from executor.framework.sdk.resources import InvalidResourceError, Kind, Resources, parse
from executor.protocol.encoding import DecodeError, Encoding, decode

Call = scheduler_pb2.Call
Operation = offers_pb2.Offer.Operation
Status = mesos_pb2.TaskStatus
PATHS = ("/api/v1/scheduler", "/master/api/v1/scheduler")


@dataclass(frozen=True, slots=True)
class Refused(Exception):
    """An answer other than 200 or 202."""

    status: int
    text: str
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """A call that passed; for SUBSCRIBE the encoding of its stream."""

    call: Call
    encoding: Encoding


def check(master: Master, method: str, target: str, fields: Mapping[str, str], body: bytes) -> Checked:
    """The ladder, in a master's order. Raises Refused."""
    options = master.options
    if options.principal:
        wanted = base64.b64encode(f"{options.principal}:{options.secret}".encode()).decode()
        if fields.get("authorization") != f"Basic {wanted}":
            realm = 'Basic realm="mesos-master-scheduler"'
            raise Refused(401, "", (("WWW-Authenticate", realm),))
    if target not in PATHS:
        raise Refused(404, "")
    if master.leader is None:
        raise Refused(503, "No leader elected")
    if master.leader != master.address:
        raise Refused(307, "", (("Location", f"//{master.leader}{target}"),))
    if method != "POST":
        raise Refused(405, "", (("Allow", "POST"),))
    call = _decoded(fields, body)
    _union(call)
    encoding = _acceptable(call, fields)
    if call.type == Call.SUBSCRIBE:
        if "mesos-stream-id" in fields:
            raise Refused(400, "Subscribe calls should not include the 'Mesos-Stream-Id' header")
        return Checked(call, encoding)
    framework = master.books.frameworks.get(call.framework_id.value)
    if framework is None:
        raise Refused(400, "Framework cannot be found")
    if framework.stream is None:
        raise Refused(403, "Framework is not subscribed")
    stream_id = fields.get("mesos-stream-id")
    if stream_id is None:
        raise Refused(400, "All non-subscribe calls should include the 'Mesos-Stream-Id' header")
    if stream_id != framework.stream.id:
        raise Refused(
            400,
            f"The stream ID '{stream_id}' included in this request didn't match the stream ID currently "
            f"associated with framework ID {framework.id}",
        )
    return Checked(call, encoding)


def _decoded(fields: Mapping[str, str], body: bytes) -> Call:
    kind = fields.get("content-type")
    if kind is None:
        raise Refused(400, "Expecting 'Content-Type' to be present")
    encoding = Encoding.of_content_type(kind)
    if encoding is None:
        raise Refused(
            415, f"Expecting 'Content-Type' of application/json or application/x-protobuf, not {kind}"
        )
    coding = fields.get("content-encoding", "")
    if coding == "gzip":
        try:
            body = zlib.decompress(body, wbits=31)
        except zlib.error as error:
            raise Refused(400, "the body is no gzip") from error
    elif coding:
        raise Refused(400, "Failed to parse body into Call protobuf")
    try:
        return decode(body, Call(), encoding)
    except DecodeError as error:
        raise Refused(400, f"Failed to parse body into Call protobuf: {error}") from error


_BODIES = {
    Call.SUBSCRIBE: "subscribe",
    Call.ACCEPT: "accept",
    Call.DECLINE: "decline",
    Call.ACCEPT_INVERSE_OFFERS: "accept_inverse_offers",
    Call.DECLINE_INVERSE_OFFERS: "decline_inverse_offers",
    Call.KILL: "kill",
    Call.SHUTDOWN: "shutdown",
    Call.ACKNOWLEDGE: "acknowledge",
    Call.ACKNOWLEDGE_OPERATION_STATUS: "acknowledge_operation_status",
    Call.RECONCILE: "reconcile",
    Call.RECONCILE_OPERATIONS: "reconcile_operations",
    Call.MESSAGE: "message",
    Call.REQUEST: "request",
    Call.UPDATE_FRAMEWORK: "update_framework",
}


def _union(call: Call) -> None:
    if not call.HasField("type"):
        raise Refused(400, "Failed to validate scheduler::Call: Expecting 'type' to be present")
    name = _BODIES.get(call.type)
    if name is not None and not call.HasField(name):
        raise Refused(400, f"Failed to validate scheduler::Call: Expecting '{name}' to be present")
    if call.type in (Call.SUBSCRIBE, Call.UPDATE_FRAMEWORK):
        info = (call.subscribe if call.type == Call.SUBSCRIBE else call.update_framework).framework_info
        if info.id.value != call.framework_id.value:
            raise Refused(
                400, "Failed to validate scheduler::Call: 'framework_id' differs from 'framework_info.id'"
            )
    elif not call.framework_id.value:
        raise Refused(400, "Failed to validate scheduler::Call: Expecting 'framework_id' to be present")
    if call.type == Call.ACKNOWLEDGE and len(call.acknowledge.uuid) != 16:
        raise Refused(400, "Failed to validate scheduler::Call: Not a valid UUID")
    if call.type == Call.UNKNOWN:
        raise Refused(501, "Received 'UNKNOWN' call")


def _acceptable(call: Call, fields: Mapping[str, str]) -> Encoding:
    if call.type not in (Call.SUBSCRIBE, Call.RECONCILE_OPERATIONS):
        return Encoding.PROTOBUF
    accepted = [item.split(";")[0].strip() for item in fields.get("accept", "*/*").split(",")]
    if any(item in ("*/*", "application/*", "application/json") for item in accepted):
        return Encoding.JSON
    if Encoding.PROTOBUF.content_type in accepted:
        return Encoding.PROTOBUF
    raise Refused(406, "Expecting 'Accept' to allow application/json or application/x-protobuf")


def carry_out(master: Master, call: Call, now: float) -> None:
    """Do a call other than SUBSCRIBE. Raises Refused for UPDATE_FRAMEWORK alone."""
    framework = master.books.frameworks[call.framework_id.value]
    _CALLS.get(call.type, _nothing)(master, framework, call, now)


def _nothing(_master: Master, _framework: Framework, _call: Call, _now: float) -> None:
    """202 and no more."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an ACCEPT works: whose it is, on which agent, in which role."""

    master: Master
    framework: Framework
    entry: AgentEntry
    role: str


def _accept(master: Master, framework: Framework, call: Call, now: float) -> None:
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
        return
    entry = master.books.agents[valid[0].agent_id]
    place = _Place(master, framework, entry, valid[0].role)
    remaining = Resources()
    for offer in valid:
        remaining += offer.resources
    for operation in body.operations:
        remaining = _operation(place, operation, remaining, now)
    refusal = body.filters.refuse_seconds if body.HasField("filters") else master.options.default_refusal
    _refuse(place, remaining, refusal, now)


def _refuse(place: _Place, left: Resources, seconds: float, now: float) -> None:
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


def _operation(place: _Place, operation: Operation, remaining: Resources, now: float) -> Resources:
    """Carry one operation out; what is left for those behind it."""
    if operation.type == Operation.LAUNCH:
        for task in operation.launch.task_infos:
            remaining = _launch(place, [task], None, remaining, now)
        return remaining
    if operation.type == Operation.LAUNCH_GROUP:
        group = operation.launch_group
        return _launch(place, list(group.task_group.tasks), group.executor, remaining, now)
    if operation.type in (Operation.RESERVE, Operation.UNRESERVE):
        return _reservation(place, operation, remaining)
    return remaining


def _reservation(place: _Place, operation: Operation, remaining: Resources) -> Resources:
    """Speculative: later operations of the same ACCEPT may use the result."""
    reserving = operation.type == Operation.RESERVE
    named = parse((operation.reserve if reserving else operation.unreserve).resources)
    named = allocated(named, place.role)
    bare = Resources()
    for kind, amount in named:
        bare += Resources({_unreserved(kind): amount})
    before, after = (bare, named) if reserving else (named, bare)
    if not remaining.contains(before):
        return remaining
    place.entry.taken += allocated(before, "")
    place.entry.extra += allocated(after, "")
    return remaining - before + after


def _unreserved(kind: Kind) -> Kind:
    return replace(kind, reservations=kind.reservations[:-1], reserved_to="", labelled=False)


def _launch(
    place: _Place,
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
    place: _Place, tasks: list[mesos_pb2.TaskInfo], group_executor: mesos_pb2.ExecutorInfo | None
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


def _decline(master: Master, framework: Framework, call: Call, now: float) -> None:
    body = call.decline
    seconds = body.filters.refuse_seconds if body.HasField("filters") else master.options.default_refusal
    for item in body.offer_ids:
        offer = master.books.offers.get(item.value)
        if offer is not None and offer.framework_id == framework.id:
            del master.books.offers[item.value]
            place = _Place(master, framework, master.books.agents[offer.agent_id], offer.role)
            _refuse(place, offer.resources, seconds, now)


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
    if entry is not None and entry.connected:
        entry.agent.shutdown(framework.id, call.shutdown.executor_id.value, now)


def _acknowledge(master: Master, _framework: Framework, call: Call, now: float) -> None:
    entry = master.books.agents.get(call.acknowledge.agent_id.value)
    if entry is not None and entry.connected and not entry.recovered:
        entry.agent.acknowledge(call.acknowledge.task_id.value, call.acknowledge.uuid)
        entry.agent.tick(now, connected=True)


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
    task.task_id.value, task.agent_id.value = task_id, agent_id
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
    if body.framework_info.principal != framework.info.principal:
        raise Refused(400, "Changing framework's principal is not allowed")
    framework.info.CopyFrom(body.framework_info)
    framework.suppressed = set(body.suppressed_roles)
    framework.constraints = body.offer_constraints if body.HasField("offer_constraints") else None
    master.allocate(now)


def _inverse(master: Master, _framework: Framework, call: Call, _now: float) -> None:
    accepting = call.type == Call.ACCEPT_INVERSE_OFFERS
    body = call.accept_inverse_offers if accepting else call.decline_inverse_offers
    for item in body.inverse_offer_ids:
        master.books.inverse.pop(item.value, None)


_Handler = Callable[[Master, Framework, Call, float], None]

_CALLS: Mapping[int, _Handler] = {
    Call.ACCEPT: _accept,
    Call.DECLINE: _decline,
    Call.REVIVE: _revive,
    Call.SUPPRESS: _suppress,
    Call.KILL: _kill,
    Call.SHUTDOWN: _shutdown,
    Call.ACKNOWLEDGE: _acknowledge,
    Call.RECONCILE: _reconcile,
    Call.MESSAGE: _message,
    Call.TEARDOWN: _teardown,
    Call.UPDATE_FRAMEWORK: _update_framework,
    Call.ACCEPT_INVERSE_OFFERS: _inverse,
    Call.DECLINE_INVERSE_OFFERS: _inverse,
}
