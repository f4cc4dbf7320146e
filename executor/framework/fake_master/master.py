"""The master's side of the scheduler API: subscriptions, offers, tasks, reconciliation. No I/O; give it the
time.

What it copies is in the reference of a real one: the order of its checks and their codes
(src/master/http.cpp), its errors in a 200, offers by agent and role with filters that hold while what is free
is contained in what was refused, an ACCEPT that is all stale if one offer is, updates from agents that
repeat, its silence about agents that have not come back. It is no simulation of load: one loop, one machine.
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace

from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.agent import Executor, FakeAgent, Task
from executor.framework.fake_master.offer_constraints import OfferConstraints, excluded
from executor.framework.fake_master.options import Options
from executor.framework.fake_master.state import AgentEntry, Books, Filter, Framework, Offer, Stream
from executor.framework.fake_master.subscription import of_framework, of_wishes
from executor.framework.fake_master.validation import allocated
from executor.framework.sdk.resources import Resources, wire

Event = scheduler_pb2.Event
Status = mesos_pb2.TaskStatus
Capability = mesos_pb2.FrameworkInfo.Capability


class Master:
    """One master's life. `address` is `host:port`, what SUBSCRIBED tells of it. `agents` were known to the
    one before: they are silent until `register` is called for them.
    """

    def __init__(
        self, options: Options, address: str = "127.0.0.1:5050", recovered: Iterable[FakeAgent] = ()
    ) -> None:
        self.options = options
        self.address = address
        self.id = str(uuid.uuid4())
        self.books = Books()
        self.leader: str | None = address
        """Who leads, as this master knows: another one's address makes it a standby, None nobody."""
        self.update_hook: Callable[[Event], list[Event]] = lambda event: [event]
        """What becomes of an UPDATE on its way: none loses it, two double it."""
        self.operation_hook: Callable[[offers_pb2.Offer.Operation], str] = lambda _operation: ""
        """Why an operation on resources is refused, "" for not."""
        self.recovering = False
        """Whether it was elected but has not read the registry yet."""
        self._allocate_at = 0.0
        for agent in recovered:
            self.books.agents[agent.id] = AgentEntry(agent, connected=False, recovered=True)
            self._attach(agent)

    # ---- agents

    def register(self, agent: FakeAgent, now: float) -> None:
        """An agent comes, or comes back."""
        entry = self.books.agents.get(agent.id)
        returned = entry is not None and entry.unreachable is not None
        if entry is None:
            entry = self.books.agents[agent.id] = AgentEntry(agent)
        self._attach(agent)
        entry.connected, entry.recovered, entry.unreachable = True, False, None
        agent.registered()
        if returned:
            for task in agent.tasks.values():
                if not task.ended and task.last is not None:
                    self._tell(task.framework_id, self._status(task, Status.REASON_AGENT_REREGISTERED, now))
        self.allocate(now)

    def _attach(self, agent: FakeAgent) -> None:
        agent.send = self._from_agent
        agent.ended = self._executor_ended
        agent.tell_operation = self.tell_operation

    def disconnect(self, agent_id: str) -> None:
        """The agent's socket breaks; its tasks stay in the books."""
        self.books.agents[agent_id].connected = False
        self._rescind([offer for offer in self.books.offers.values() if offer.agent_id == agent_id])

    def lose(self, agent_id: str, now: float) -> None:
        """The agent did not answer pings: its tasks are unreachable."""
        self.disconnect(agent_id)
        entry = self.books.agents[agent_id]
        entry.unreachable = now
        for task in list(entry.agent.tasks.values()):
            if task.ended:
                continue
            status = self._status(task, Status.REASON_AGENT_REMOVED, now)
            status.state = (
                mesos_pb2.TASK_UNREACHABLE if self._aware(task.framework_id) else mesos_pb2.TASK_LOST
            )
            status.unreachable_time.nanoseconds = int(now * 1e9)
            self._tell(task.framework_id, status)
        self._failure(agent_id)

    def mark_gone(self, agent_id: str, now: float) -> None:
        """The operator's word that the agent will not come back."""
        self.disconnect(agent_id)
        entry = self.books.agents[agent_id]
        entry.gone = True
        for task in list(entry.agent.tasks.values()):
            status = self._status(task, Status.REASON_AGENT_REMOVED_BY_OPERATOR, now)
            aware = self._aware(task.framework_id)
            status.state = mesos_pb2.TASK_GONE_BY_OPERATOR if aware else mesos_pb2.TASK_LOST
            self._tell(task.framework_id, status)
        entry.agent.reboot()
        self._failure(agent_id)

    def drain(self, agent_id: str, now: float) -> None:
        """DRAIN_AGENT: no more offers, and what runs is killed."""
        entry = self.books.agents[agent_id]
        entry.deactivated = True
        self._rescind([offer for offer in self.books.offers.values() if offer.agent_id == agent_id])
        for task_id in list(entry.agent.tasks):
            task = entry.agent.tasks[task_id]
            entry.agent.kill(task_id, now)
            if task.steps:
                due, step = task.steps.pop()
                task.steps.append((due, replace(step, reason=Status.REASON_AGENT_DRAINING)))

    def maintain(self, agent_id: str, start: float, duration: float = 0.0) -> None:
        """Schedule maintenance of the agent's machine: new offers say so, and it is asked for back. Without a
        duration it has no end.
        """
        entry = self.books.agents[agent_id]
        entry.unavailability = offers_pb2.Unavailability()
        entry.unavailability.start.nanoseconds = int(start * 1e9)
        if duration:
            entry.unavailability.duration.nanoseconds = int(duration * 1e9)
        self._rescind([offer for offer in self.books.offers.values() if offer.agent_id == agent_id])
        self._ask_back(entry)

    def _ask_back(self, entry: AgentEntry) -> None:
        """INVERSE_OFFERS to those who use an agent, and were not asked lately."""
        outstanding = set(self.books.inverse.values())
        agent_id = entry.agent.id
        for framework_id in {task.framework_id for task in entry.agent.tasks.values() if not task.ended}:
            if framework_id in entry.asked_back or (framework_id, agent_id) in outstanding:
                continue
            self.books.numbers += 1
            offer_id = f"{self.id}-O{self.books.numbers}"
            self.books.inverse[offer_id] = (framework_id, agent_id)
            event = Event(type=Event.INVERSE_OFFERS)
            inverse = event.inverse_offers.inverse_offers.add()
            inverse.id.value = offer_id
            inverse.framework_id.value = framework_id
            inverse.agent_id.value = agent_id
            if entry.unavailability is not None:
                inverse.unavailability.CopyFrom(entry.unavailability)
            self.send(framework_id, event)

    def answered_inverse(self, offer_id: str, framework_id: str, again_at: float) -> None:
        """An inverse offer was accepted or declined: the same question comes again later."""
        asked, agent_id = self.books.inverse.get(offer_id, ("", ""))
        if asked == framework_id:
            del self.books.inverse[offer_id]
            self.books.agents[agent_id].asked_back[framework_id] = again_at

    def _from_agent(self, agent: FakeAgent, task: Task, status: Status) -> None:
        self._tell(task.framework_id, status)

    def _executor_ended(self, agent: FakeAgent, executor: Executor) -> None:
        event = Event(type=Event.FAILURE)
        event.failure.agent_id.value = agent.id
        event.failure.executor_id.CopyFrom(executor.info.executor_id)
        event.failure.status = 0
        self.send(executor.framework_id, event)

    def _failure(self, agent_id: str) -> None:
        for framework in self.books.frameworks.values():
            event = Event(type=Event.FAILURE)
            event.failure.agent_id.value = agent_id
            self.send(framework.id, event)

    def _aware(self, framework_id: str) -> bool:
        framework = self.books.frameworks.get(framework_id)
        return framework is not None and framework.can(Capability.PARTITION_AWARE)

    def _status(self, task: Task, reason: Status.Reason, now: float) -> Status:
        """The last state of a task in the master's words: no uuid, and nothing of the original's data."""
        # What an agent has sent and nobody has acknowledged counts; what waits behind it is not told.
        last = task.updates[0] if task.updates else task.last
        state = task.state if last is None else last.state
        status = Status(state=state, source=Status.SOURCE_MASTER, reason=reason, timestamp=now)
        status.task_id.CopyFrom(task.info.task_id)
        status.agent_id.CopyFrom(task.info.agent_id)
        if task.executor_id:
            status.executor_id.value = task.executor_id
        if last is not None and last.HasField("healthy"):
            status.healthy = last.healthy
        if last is not None and last.HasField("container_status"):
            status.container_status.CopyFrom(last.container_status)
        return status

    # ---- frameworks

    def subscribe(self, call: scheduler_pb2.Call, stream: Stream, now: float) -> None:
        """A valid SUBSCRIBE: SUBSCRIBED on the stream, or ERROR and its end."""
        body = call.subscribe
        framework_id = body.framework_info.id.value
        if why := self._refusal(body):
            self._end_stream(stream, why)
            return
        known = self.books.frameworks.get(framework_id)
        if known is None:
            if not framework_id:
                self.books.numbers += 1
                framework_id = f"{self.id}-{self.books.numbers:04}"
            known = Framework(mesos_pb2.FrameworkInfo())
            self.books.frameworks[framework_id] = known
        elif known.stream is not None:
            self._end_stream(known.stream, "Framework failed over")
        self._drop_offers(framework_id)
        before = mesos_pb2.FrameworkInfo()
        before.CopyFrom(known.info)
        known.info.CopyFrom(body.framework_info)
        known.info.id.value = framework_id
        if before.HasField("id"):  # these two are what they were, whatever is said later
            known.info.user, known.info.checkpoint = before.user, before.checkpoint
        known.suppressed = set(body.suppressed_roles)
        known.constraints = self.understood(body)
        known.filters.clear()
        known.gone_at = None
        known.stream = stream
        event = Event(type=Event.SUBSCRIBED)
        event.subscribed.framework_id.value = framework_id
        event.subscribed.heartbeat_interval_seconds = self.options.heartbeat
        info = event.subscribed.master_info
        host, _, port = self.address.rpartition(":")
        info.id, info.ip, info.port, info.hostname = self.id, 0, int(port), host
        info.version = self.options.version
        info.address.ip, info.address.port = host, int(port)
        stream.send(event)
        stream.send(Event(type=Event.HEARTBEAT))
        stream.heartbeat_at = now + self.options.heartbeat
        self.allocate(now)

    def _refusal(self, body: scheduler_pb2.Call.Subscribe) -> str:
        info = body.framework_info
        known = self.books.frameworks.get(info.id.value)
        changed = known is not None and known.info.principal != info.principal
        return (
            of_framework(info, self.options, self.books.completed)
            or of_wishes(info, body.suppressed_roles, self.understood(body) or OfferConstraints())
            or ("Changing framework's principal is not allowed." if changed else "")
        )

    def understood(
        self, body: scheduler_pb2.Call.Subscribe | scheduler_pb2.Call.UpdateFramework
    ) -> scheduler_pb2.OfferConstraints | None:
        """The offer constraints of a call, as far as this master knows of such things."""
        if body.HasField("offer_constraints") and self.options.knows(1, 11):
            return body.offer_constraints
        return None

    def _end_stream(self, stream: Stream, why: str) -> None:
        event = Event(type=Event.ERROR)
        event.error.message = why
        stream.send(event)
        stream.close()

    def stream_closed(self, stream: Stream, now: float) -> None:
        """The scheduler's socket ended: it may come back within its failover timeout."""
        for framework in self.books.frameworks.values():
            if framework.stream is stream:
                framework.stream = None
                framework.filters.clear()
                self._drop_offers(framework.id)
                framework.gone_at = now + framework.info.failover_timeout

    def teardown(self, framework_id: str) -> None:
        """The framework ends: its tasks too, without a word."""
        framework = self.books.frameworks.pop(framework_id)
        self._drop_offers(framework_id)
        self.books.completed[framework_id] = None
        while len(self.books.completed) > self.options.completed_frameworks:
            self.books.completed.popitem(last=False)
        for entry in self.books.agents.values():
            entry.agent.forget(framework_id)
        if framework.stream is not None:
            framework.stream.close()

    def send(self, framework_id: str, event: Event) -> None:
        """An event to a framework; lost while it is not subscribed."""
        framework = self.books.frameworks.get(framework_id)
        if framework is not None and framework.stream is not None:
            framework.stream.send(event)

    def _tell(self, framework_id: str, status: Status) -> None:
        event = Event(type=Event.UPDATE)
        event.update.status.CopyFrom(status)
        for item in self.update_hook(event):
            self.send(framework_id, item)

    def update(self, task: Task, now: float) -> Event:
        """What the master knows of a task, as an answer to a question."""
        event = Event(type=Event.UPDATE)
        event.update.status.CopyFrom(self._status(task, Status.REASON_RECONCILIATION, now))
        return event

    def tell(
        self,
        framework_id: str,
        task: mesos_pb2.TaskInfo,
        state: mesos_pb2.TaskState,
        reason: Status.Reason,
        message: str,
    ) -> None:
        """An update of the master's own, sent once."""
        status = Status(state=state, source=Status.SOURCE_MASTER, reason=reason, message=message)
        status.task_id.CopyFrom(task.task_id)
        status.agent_id.CopyFrom(task.agent_id)
        self._tell(framework_id, status)

    def tell_operation(self, framework_id: str, status: offers_pb2.OperationStatus) -> None:
        """What became of an operation that has an id."""
        event = Event(type=Event.UPDATE_OPERATION_STATUS)
        event.update_operation_status.status.CopyFrom(status)
        self.send(framework_id, event)

    def dropped(self, framework_id: str) -> mesos_pb2.TaskState:
        """What a task that never started becomes, for this framework."""
        return mesos_pb2.TASK_DROPPED if self._aware(framework_id) else mesos_pb2.TASK_LOST

    def lost(self, framework_id: str, state: mesos_pb2.TaskState) -> mesos_pb2.TaskState:
        """A state that only those hear who know of partitions."""
        return state if self._aware(framework_id) else mesos_pb2.TASK_LOST

    # ---- offers

    def _drop_offers(self, framework_id: str) -> None:
        for offer_id in [
            key for key, offer in self.books.offers.items() if offer.framework_id == framework_id
        ]:
            del self.books.offers[offer_id]

    def _rescind(self, offers: Iterable[Offer]) -> None:
        for offer in list(offers):
            del self.books.offers[offer.message.id.value]
            event = Event(type=Event.RESCIND)
            event.rescind.offer_id.CopyFrom(offer.message.id)
            self.send(offer.framework_id, event)

    def rescind(self, offer_id: str) -> None:
        """Take an offer back."""
        self._rescind([self.books.offers[offer_id]])

    def refuse(
        self, framework: Framework, agent_id: str, role: str, refused: Resources, until: float
    ) -> None:
        """Remember what a role does not want of an agent."""
        framework.filters.setdefault((role, agent_id), []).append(_filter(refused, until))

    def free(self, entry: AgentEntry) -> Resources:
        """What nobody uses and nobody was offered."""
        free = entry.total - allocated(entry.agent.used(), "")
        for offer in self.books.offers.values():
            if offer.agent_id == entry.agent.id:
                free -= allocated(offer.resources, "")
        return free

    def allocate(self, now: float) -> None:
        """Offer what is free, an event for each framework."""
        found: dict[str, list[offers_pb2.Offer]] = {}
        for entry in self.books.agents.values():
            if not entry.offered:
                continue
            for framework in list(self.books.frameworks.values()):
                if framework.stream is None:
                    continue
                for role in framework.roles:
                    if role in framework.suppressed or excluded(
                        framework.constraints, role, entry.agent.info
                    ):
                        continue
                    offer = self._offer(entry, framework, role, now)
                    if offer is not None:
                        found.setdefault(framework.id, []).append(offer)
        for framework_id, offers in found.items():
            event = Event(type=Event.OFFERS)
            event.offers.offers.extend(offers)
            self.send(framework_id, event)

    def _offer(
        self, entry: AgentEntry, framework: Framework, role: str, now: float
    ) -> offers_pb2.Offer | None:
        free = self.free(entry)
        mine = Resources({kind: amount for kind, amount in free if kind.reserved_to in ("", role)})
        if mine.total("cpus") < 10 and mine.total("mem") < 32000:
            return None
        kept = [item for item in framework.filters.get((role, entry.agent.id), []) if item.until > now]
        framework.filters[role, entry.agent.id] = kept
        if any(item.refused.contains(mine) for item in kept):
            return None
        self.books.numbers += 1
        message = offers_pb2.Offer(hostname=entry.agent.info.hostname)
        message.id.value = f"{self.id}-O{self.books.numbers}"
        message.framework_id.value = framework.id
        message.agent_id.value = entry.agent.id
        message.allocation_info.role = role
        # Its agents answer where the master does (sandboxes.py).
        host, _, port = self.address.rpartition(":")
        message.url.scheme, message.url.path = "http", "/slave(1)"
        message.url.address.hostname, message.url.address.ip = entry.agent.info.hostname, host
        message.url.address.port = int(port)
        message.resources.extend(wire(allocated(mine, role)))
        message.attributes.extend(entry.agent.info.attributes)
        if entry.agent.info.HasField("domain"):
            message.domain.CopyFrom(entry.agent.info.domain)
        for framework_id, executor_id in entry.agent.executors:
            if framework_id == framework.id:
                message.executor_ids.add(value=executor_id)
        if entry.unavailability is not None:
            message.unavailability.CopyFrom(entry.unavailability)
        self.books.offers[message.id.value] = Offer(
            message, framework.id, entry.agent.id, role, allocated(mine, role), now
        )
        return message

    # ---- time

    def tick(self, now: float) -> None:
        """Heartbeats, allocations, time-outs, and the agents' steps."""
        for framework in list(self.books.frameworks.values()):
            stream = framework.stream
            if stream is not None and now >= stream.heartbeat_at:
                stream.heartbeat_at = now + self.options.heartbeat
                stream.send(Event(type=Event.HEARTBEAT))
            if stream is None and framework.gone_at is not None and now >= framework.gone_at:
                self.teardown(framework.id)
        timeout = self.options.offer_timeout
        if timeout is not None:
            self._rescind([offer for offer in self.books.offers.values() if now >= offer.made + timeout])
        for entry in self.books.agents.values():
            entry.agent.tick(now, connected=entry.connected and not entry.recovered)
            if entry.unavailability is not None:
                entry.asked_back = {name: due for name, due in entry.asked_back.items() if due > now}
                self._ask_back(entry)
        if now >= self._allocate_at:
            self._allocate_at = now + self.options.allocation
            self.allocate(now)


def _filter(refused: Resources, until: float) -> Filter:
    return Filter(allocated(refused, ""), until)
