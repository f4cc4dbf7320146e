"""The framework itself: one owner of all state, a turn at a time.

A turn takes what came (events of the master, wishes of people, the time), changes the state in memory, plans
what each touched app needs next (rollout.py), matches that with the offers it holds (matching.py), and stores
all of it in transactions under the leader's fence. Only then it speaks: ACCEPT after the intent is stored,
ACKNOWLEDGE after the update is. While the store does not answer, the turn waits and nothing is said; when it
says that somebody else leads, the framework stops. So at any moment it may be killed: what was stored and not
said is asked for again after the next start, what was said was stored.
"""

import asyncio
import logging
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk import calls
from executor.framework.sdk.calls import Call, TaskRef
from executor.framework.sdk.client import Client, Notice
from executor.framework.sdk.client import Settings as ClientSettings
from executor.framework.sdk.reconcile import Pace, Reconciler
from executor.framework.sdk.session import Connected, Deliver, Disconnected, Failed, Fate, Phase, Superseded
from executor.framework.service import apps as records
from executor.framework.service.apps import AppState
from executor.framework.service.cron import next_after
from executor.framework.service.instance import (
    NOT_ITS_FAULT,
    Instance,
    State,
    TaskState,
    after_update,
    decode,
    encode,
    instance_of,
    new_id,
)
from executor.framework.service.journal import Journal
from executor.framework.service.matching import Assignment, Demand, Held, OfferPool, match
from executor.framework.service.rollout import Seen, Situation, Status, plan, readiness
from executor.framework.service.taskinfo import Delivery, Terms, launch_of, name_ports
from executor.framework.service.turn import Turn
from executor.framework.service.wishes import WishError
from executor.framework.store.interface import (
    MAX_WRITES,
    FencedError,
    Leadership,
    Store,
    StoreError,
    Txn,
)

log = logging.getLogger(__name__)

Event = scheduler_pb2.Event
TaskStatus = mesos_pb2.TaskStatus

_BATCH = 500
_RETRY_STORE = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """Seconds. `name`, `user`, `roles`, `principal` go into FrameworkInfo; `avoid_before_maintenance`: how
    long before a machine's maintenance nothing is placed there; `give_up_store`: how long the store may be
    out of reach before this instance leads no more.
    """

    client: ClientSettings
    name: str = "mesokit"
    user: str = "root"
    roles: tuple[str, ...] = ("*",)
    principal: str = ""
    webui_url: str = ""
    failover_timeout: float = 7 * 86400.0
    delivery: Delivery = field(default_factory=Delivery)
    secrets: Path | None = None
    reconcile: Pace = field(default_factory=Pace)
    kill_again: float = 10.0
    revive_every: float = 5.0
    refuse_idle: float = 3600.0
    refuse_busy: float = 5.0
    avoid_before_maintenance: float = 3600.0
    give_up_store: float = 60.0
    tick: float = 1.0


_Item = Notice | Callable[[Turn], None]


class Framework:
    """See the module. `run` it until it ends; the rest may be called meanwhile, in the same event loop."""

    def __init__(self, settings: Settings, store: Store, leadership: Leadership) -> None:
        self.settings = settings
        self.store = store
        self.leadership = leadership
        self.apps: dict[str, AppState] = {}
        self.instances: dict[str, Instance] = {}
        self.by_app: dict[str, set[str]] = defaultdict(set)
        self.journal = Journal()
        self.framework_id = ""
        self.connected = False
        self.problem = ""
        self.counters: dict[str, int] = defaultdict(int)
        self._pool = OfferPool()
        self._reconciler = Reconciler(settings.reconcile)
        self._inbox: asyncio.Queue[_Item] = asyncio.Queue()
        self._client: Client | None = None
        self._ready_since: dict[str, float] = {}
        self._silent_since: dict[str, float] = {}
        self._kill_at: dict[str, float] = {}
        self._away_since: dict[str, float] = {}
        self._leaving_agents: set[str] = set()
        self._missing: dict[str, tuple[int, str]] = {}
        self._leader = ""
        self._suppressed = False
        self._revive_at = 0.0
        self._ended = asyncio.Event()
        self.loaded = asyncio.Event()
        """Set when what was stored has been read: before that nobody should ask for anything."""

    # ---- life

    async def run(self) -> None:
        """Load, subscribe, and go on until the leadership is lost or the master refuses us for good.

        Raises FencedError in the first case; in the second `problem` says why and this returns.
        """
        await self._load()
        client = Client(self._info(), self.settings.client)
        self._client = client
        async with client:
            if self._leader:
                client.lead(self._leader)
            tasks = [asyncio.create_task(self._listen(client)), asyncio.create_task(self._pace())]
            try:
                await self._turns()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._client = None

    def stop(self) -> None:
        """Leave: the stream is closed, tasks go on, another instance may take over."""
        self._ended.set()
        self._inbox.put_nowait(lambda _turn: None)

    @property
    def phase(self) -> Phase:
        """Where the subscription stands."""
        return self._client.session.phase if self._client is not None else Phase.CLOSED

    @property
    def unreconciled(self) -> int:
        """Tasks that the master has not answered for since the subscription."""
        return self._reconciler.remaining

    def missing(self, name: str) -> int:
        """How many instances of an app wait for offers."""
        return self._missing.get(name, (0, ""))[0]

    def is_ready(self, instance: Instance) -> bool:
        """Whether an instance runs and is healthy, its watch time aside."""
        return instance.id in self._ready_since

    async def _load(self) -> None:
        entry = await self.store.get("framework")
        self.framework_id = entry.value.decode() if entry is not None else ""
        self.apps = records.read_state(
            await self.store.entries("apps/"), await self.store.entries("versions/")
        )
        now = _now()
        for item in await self.store.entries("instances/"):
            self._keep(decode(item.value))
        for entry in await self.store.entries("history/"):
            name = entry.key.split("/")[1]
            if name in self.apps:
                self.apps[name].history.append(decode(entry.value))
        for state in self.apps.values():
            state.started_at = now
            state.history = deque(
                sorted(state.history, key=lambda item: item.wall_ended), maxlen=records.HISTORY
            )
        for instance in self.instances.values():
            self._silent_since[instance.id] = now
            owner = self.apps.get(instance.app)
            if owner is not None and readiness(owner.versions.get(instance.version, owner.app), instance):
                self._ready_since[instance.id] = now
            if instance.state is State.UNREACHABLE:
                self._away_since[instance.id] = now
        self.loaded.set()
        log.info("loaded %d apps and %d instances", len(self.apps), len(self.instances))

    def _info(self) -> mesos_pb2.FrameworkInfo:
        settings = self.settings
        info = mesos_pb2.FrameworkInfo(user=settings.user, name=settings.name, checkpoint=True)
        info.roles.extend(settings.roles)
        info.failover_timeout = settings.failover_timeout
        if settings.principal:
            info.principal = settings.principal
        if settings.webui_url:
            info.webui_url = settings.webui_url
        kinds = mesos_pb2.FrameworkInfo.Capability
        for kind in (
            kinds.PARTITION_AWARE,
            kinds.TASK_KILLING_STATE,
            kinds.MULTI_ROLE,
            kinds.RESERVATION_REFINEMENT,
        ):
            info.capabilities.add(type=kind)
        if self.framework_id:
            info.id.value = self.framework_id
        return info

    async def _listen(self, client: Client) -> None:
        async for notice in client:
            self._inbox.put_nowait(notice)

    async def _pace(self) -> None:
        while True:
            self._inbox.put_nowait(self._time_passes)
            await asyncio.sleep(self.settings.tick)

    async def _turns(self) -> None:
        while not self._ended.is_set():
            batch = [await self._inbox.get()]
            while len(batch) < _BATCH and not self._inbox.empty():
                batch.append(self._inbox.get_nowait())
            await self._take_turn(batch)

    async def _take_turn(self, batch: Sequence[_Item]) -> None:
        turn = Turn()
        for item in batch:
            if callable(item):
                item(turn)
            else:
                self._notice(item, turn)
        for name in sorted(turn.dirty):
            self._plan(name, turn)
        if self.connected:
            self._place(turn)
        await self._store(turn)
        for action in turn.after:
            action()

    async def _store(self, turn: Turn) -> None:
        """All writes, in transactions as large as the store takes. Waits for a store that is out of reach."""
        writes = list(turn.writes.values())
        since: float | None = None
        for start in range(0, len(writes), MAX_WRITES):
            txn = Txn(tuple(writes[start : start + MAX_WRITES]))
            while True:
                try:
                    await self.store.commit(txn, self.leadership)
                    break
                except StoreError as error:
                    since = since if since is not None else _now()
                    self.problem = f"the store does not answer: {error}"
                    log.warning("%s", self.problem)
                    if self.leadership.lost.is_set() or _now() - since > self.settings.give_up_store:
                        raise FencedError(self.problem) from error
                    await asyncio.sleep(_RETRY_STORE)
        if since is not None:
            self.problem = ""
        self.counters["writes"] += len(writes)

    # ---- wishes

    def now(self) -> float:
        """The clock that everything here goes by, in seconds; it never jumps."""
        return _now()

    async def wish(self, do: Callable[["Framework", Turn], Any]) -> Any:
        """Do something in a turn; its result once all of that is stored. Raises WishError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def item(turn: Turn) -> None:
            try:
                result = do(self, turn)
            except WishError as error:
                if not future.done():
                    future.set_exception(error)
                return
            turn.after.append(lambda: _settle(future, result))

        self._inbox.put_nowait(item)
        return await future

    # ---- notices of the master

    def _notice(self, notice: Notice, turn: Turn) -> None:
        match notice:
            case Connected(framework_id, master, _):
                self._on_connected(framework_id, master, turn)
            case Disconnected(why):
                log.warning("disconnected: %s", why)
                self.connected = False
                self._pool.clear()
                self._reconciler.disconnected()
                self.say("framework.disconnected", "", {"why": why})
            case Superseded(why):
                # The master cannot know who is right; the store can. Whoever still leads there goes on.
                self.problem = why
                self.counters["superseded"] += 1
                log.error("another instance subscribed with our id: %s", why)
                if self.leadership.lost.is_set() or self.counters["superseded"] > 3:
                    raise FencedError(why)
                asyncio.get_running_loop().call_later(30.0, self._resume)
            case Failed(why):
                self.problem = why
                log.critical("the master refuses this framework: %s", why)
                self._ended.set()
            case Deliver(event):
                self._event(event, turn)

    def lead(self, address: str) -> None:
        """A detector's word on which master leads, "" for none."""
        self._leader = address
        if self._client is not None:
            self._client.lead(address)

    def _resume(self) -> None:
        if self._client is not None and self.leadership.certain:
            self._client.resume()

    def _on_connected(self, framework_id: str, master: str, turn: Turn) -> None:
        self.connected, self.problem = True, ""
        self._pool.clear()
        self._suppressed = False
        self.framework_id = framework_id
        turn.put("framework", framework_id.encode())
        now = _now()
        tasks = [
            TaskRef(task_id, instance.agent_id)
            for instance in self.instances.values()
            for task_id in instance.living_tasks
        ]
        for call in self._reconciler.subscribed(tasks, now):
            self._post_after(turn, call)
        for instance_id in self.instances:
            self._silent_since[instance_id] = now
            self._kill_at.pop(instance_id, None)
        turn.dirty.update(self.apps)
        log.info("subscribed with %s as %s", master, framework_id)
        self.say("framework.connected", "", {"master": master, "framework_id": framework_id})

    def _event(self, event: Event, turn: Turn) -> None:
        match event.type:
            case Event.OFFERS:
                refused = [offer.id.value for offer in event.offers.offers if not self._pool.add(offer)]
                self.counters["offers"] += len(event.offers.offers)
                if refused:
                    self._post_after(turn, calls.decline(refused, self.settings.refuse_idle))
            case Event.RESCIND:
                self._pool.rescind(event.rescind.offer_id.value)
            case Event.UPDATE:
                self._update(event.update.status, turn)
            case Event.FAILURE:
                self._failure(event.failure, turn)
            case Event.INVERSE_OFFERS:
                self._inverse(event.inverse_offers, turn)
            case Event.UPDATE_OPERATION_STATUS:
                status = event.update_operation_status.status
                if status.HasField("uuid"):
                    self._post_after(turn, calls.acknowledge_operation(status))

    def _update(self, status: TaskStatus, turn: Turn) -> None:
        self.counters["updates"] += 1
        task_id = status.task_id.value
        if self._reconciler.heard(task_id):
            return
        if self._reconciler.is_fence(task_id):
            return
        if status.HasField("uuid") and status.uuid:
            self._post_after(turn, calls.acknowledge(status))
        instance = self.instances.get(instance_of(task_id))
        if instance is None:
            if (
                TaskState("", _state_of(status)).state.ended is False
                and status.state != mesos_pb2.TASK_UNKNOWN
            ):
                log.warning("killing task %r, which this framework does not know", task_id)
                self._post_after(turn, calls.kill(TaskRef(task_id, status.agent_id.value)))
            return
        name = task_id.removeprefix(f"{instance.id}.")
        self._silent_since.pop(instance.id, None)
        self._changed(instance, after_update(instance, name, status, time.time()), status, turn)

    def _changed(self, old: Instance, new: Instance, status: TaskStatus | None, turn: Turn) -> None:
        """An instance became another; everything that follows from it."""
        if new == old:
            return
        state = self.apps.get(new.app)
        if new.state.ended:
            self._archive(new, state, turn)
        else:
            self._keep(new)
            turn.put(f"instances/{new.id}", encode(new))
        if new.state is not old.state or new.healthy != old.healthy:
            self.say(
                f"instance.{new.state.value}",
                new.app,
                {"instance": new.id, "host": new.hostname, "message": new.message, "healthy": new.healthy},
            )
        if state is None:
            return
        turn.dirty.add(new.app)
        if new.state.ended:
            self._count_end(state, new, status, turn)
        elif new.replaced and new.state is not State.UNREACHABLE and not new.killed_for:
            self.kill(new, "it was replaced while its agent was away", turn)
        if new.state is State.UNREACHABLE:
            self._away_since.setdefault(new.id, _now())
        else:
            self._away_since.pop(new.id, None)
        if readiness(state.versions.get(new.version, state.app), new):
            self._ready_since.setdefault(new.id, _now())
        else:
            self._ready_since.pop(new.id, None)

    def _count_end(self, state: AppState, ended: Instance, status: TaskStatus | None, turn: Turn) -> None:
        """What an end means for the app: a finished job, a failure, or nothing."""
        app = state.versions.get(ended.version, state.app)
        if ended.state is State.FINISHED and app.kind != "service":
            state.finished += 1
            self.write_app(state, turn)
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
        state.retry_at = _now() + min(wait, app.restart.longest)
        if ended.version == state.deployment.version and ended.state is not State.FINISHED:
            state.deployment = replace(state.deployment, failures=state.deployment.failures + 1)
        if status is not None and status.state == mesos_pb2.TASK_ERROR:
            # The master will refuse the same again: no use to repeat it.
            state.deployment = replace(state.deployment, status=Status.FAILED, message=ended.message)
        attempts = app.restart.attempts
        if attempts and state.failures_in_row > attempts:
            message = f"gave up after {state.failures_in_row} failures: {ended.message}"
            state.deployment = replace(state.deployment, status=Status.FAILED, message=message)
        self.write_app(state, turn)

    def _archive(self, instance: Instance, state: AppState | None, turn: Turn) -> None:
        self._forget(instance)
        turn.delete(f"instances/{instance.id}")
        if state is not None:
            state.history.append(instance)
            turn.put(f"history/{instance.app}/{state.history_number % records.HISTORY}", encode(instance))
            state.history_number += 1
            self.write_app(state, turn)

    def _failure(self, failure: Event.Failure, turn: Turn) -> None:
        """An executor or an agent is gone: what we know of its tasks is asked for, never concluded."""
        for instance in self.instances.values():
            if failure.HasField("executor_id"):
                touched = instance.executor_id == failure.executor_id.value
            else:
                touched = instance.agent_id == failure.agent_id.value
            if touched:
                for task_id in instance.living_tasks:
                    for call in self._reconciler.add(TaskRef(task_id, instance.agent_id), _now()):
                        self._post_after(turn, call)

    def _inverse(self, body: Event.InverseOffers, turn: Turn) -> None:
        """Machines that are wanted back: their instances are replaced elsewhere first, as by an update."""
        ids = [offer.id.value for offer in body.inverse_offers]
        for offer in body.inverse_offers:
            if offer.agent_id.value:
                self._leaving_agents.add(offer.agent_id.value)
        turn.dirty.update(
            instance.app for instance in self.instances.values() if instance.agent_id in self._leaving_agents
        )
        self._post_after(
            turn, calls.answer_inverse(ids, accept=True, refuse_seconds=self.settings.refuse_busy)
        )

    # ---- plans

    def _plan(self, name: str, turn: Turn) -> None:
        """What an app needs: kills now, starts with the offers that come."""
        state = self.apps.get(name)
        self._missing.pop(name, None)
        if state is None:
            return
        living = self._living(name)
        if state.deleting:
            for instance in living:
                self.kill(instance, "the app was deleted", turn)
            if not self.by_app[name]:
                self._drop_app(state, turn)
            return
        now = _now()
        before = state.deployment
        found = plan(
            state.target,
            Situation(self._wanted(state), now - state.started_at, now >= state.retry_at),
            state.deployment,
            [self._seen(instance, now) for instance in living],
        )
        state.deployment = found.deployment
        if found.start:
            self._missing[name] = (found.start, found.version)
        for instance, why in found.kill:
            self.kill(instance, why, turn)
        if found.deployment != before:
            self.write_app(state, turn)
            if found.deployment.status is not before.status:
                body = {"deployment": found.deployment.id, "message": found.deployment.message}
                self.say(f"deployment.{found.deployment.status.value.replace(' ', '_')}", name, body)
        self._prune_versions(state, turn)

    def _wanted(self, state: AppState) -> int:
        if state.app.kind == "service":
            return state.wanted
        if state.app.kind == "cron" and not state.runs:
            return 0
        return max(state.wanted - state.finished, 0)

    def _seen(self, instance: Instance, now: float) -> Seen:
        since = self._ready_since.get(instance.id)
        if instance.agent_id in self._leaving_agents:
            # Like an old version: replaced elsewhere first, never below the floor.
            instance = replace(instance, version=f"{instance.version} on a machine that leaves")
        return Seen(instance, now - since if since is not None else -1.0)

    def _living(self, name: str) -> list[Instance]:
        return [
            self.instances[instance_id]
            for instance_id in self.by_app[name]
            if not self.instances[instance_id].replaced
        ]

    def _place(self, turn: Turn) -> None:
        """Match what is missing with the offers that are held; decline the rest, or be quiet."""
        demands = []
        for name, (count, version) in self._missing.items():
            state = self.apps[name]
            app = state.versions.get(version)
            if app is not None:
                others = tuple(instance.place for instance in self._living(name))
                demands.append(Demand(app, count, others))
        if demands and self._pool.held:
            why_not = {demand.app.name: self.apps[demand.app.name].why_not for demand in demands}
            found = match(self._pool, demands, random.randrange, why_not, self._avoid)
            self._launch(found, turn)
            for name in {item.app.name for item in found}:
                self._plan(name, turn)
        self._level(bool(self._missing), turn)
        if self._pool.held:
            ids = [offer_id for held in self._pool.held.values() for offer_id in held.ids]
            self._pool.clear()
            seconds = self.settings.refuse_busy if self._missing else self.settings.refuse_idle
            self._post_after(turn, calls.decline(ids, seconds))

    def _avoid(self, held: Held) -> str:
        if held.place.agent_id in self._leaving_agents:
            return "its machine leaves"
        soon = held.unavailable is not None and (
            held.unavailable - time.time() < self.settings.avoid_before_maintenance
        )
        return "maintenance is due" if soon else ""

    def _level(self, wanting: bool, turn: Turn) -> None:
        """SUPPRESS while nothing is missing, REVIVE when something is: by what is so, not by what changed."""
        now = _now()
        roles = self.settings.roles
        if wanting and self._suppressed and now >= self._revive_at:
            self._suppressed = False
            self._revive_at = now + self.settings.revive_every
            self._set_suppressed(())
            self._post_after(turn, calls.revive(roles))
        elif not wanting and not self._suppressed:
            self._suppressed = True
            self._set_suppressed(roles)
            self._post_after(turn, calls.suppress(roles))

    def _set_suppressed(self, roles: Iterable[str]) -> None:
        if self._client is not None:
            self._client.session.suppressed = frozenset(roles)

    def _launch(self, found: Sequence[Assignment], turn: Turn) -> None:
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
            )
            by_place[item.key].append((item, instance))
        for key, listed in by_place.items():
            held = self._pool.take(key)
            operations = []
            for item, instance in listed:
                terms = Terms(self.settings.delivery, self.framework_id, self._secret)
                try:
                    made = launch_of(item.app, instance, item.pieces, terms)
                except (OSError, ValueError) as error:
                    self._refuse_to_launch(item.app.name, str(error), turn)
                    continue
                operations.append(calls.launch_group(made.executor, made.tasks))
                self._keep(instance)
                self._silent_since[instance.id] = _now()
                turn.put(f"instances/{instance.id}", encode(instance))
                self.counters["launches"] += 1
                self.say(
                    "instance.launching", instance.app, {"instance": instance.id, "host": instance.hostname}
                )
            call = calls.accept(held.ids, operations, 0.0)
            self._post_after(turn, call)

    def _refuse_to_launch(self, name: str, why: str, turn: Turn) -> None:
        state = self.apps[name]
        state.deployment = replace(
            state.deployment, status=Status.PAUSED, message=f"cannot be launched: {why}"
        )
        self.write_app(state, turn)

    def _secret(self, name: str) -> bytes:
        """A secret's bytes, from a file below the secrets folder. Raises ValueError, OSError."""
        folder = self.settings.secrets
        if folder is None:
            raise ValueError(f"secret {name!r}: this framework was started without --secrets")
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"secret {name!r} is outside the secrets folder")
        try:
            return path.read_bytes()
        except OSError as error:
            raise ValueError(f"secret {name!r} cannot be read: {error.strerror}") from None

    def kill(self, instance: Instance, why: str, turn: Turn) -> None:
        """Kill an instance: said again until it ends."""
        now = _now()
        if not instance.killed_for:
            was_ready = instance.id in self._ready_since
            instance = replace(instance, killed_for=why)
            self._keep(instance)
            self._ready_since.pop(instance.id, None)
            turn.put(f"instances/{instance.id}", encode(instance))
            self.say("instance.kill", instance.app, {"instance": instance.id, "why": why})
            state = self.apps.get(instance.app)
            drain = state.versions.get(instance.version, state.app).drain if state is not None else 0.0
            if drain and was_ready:
                # Whoever sends requests to it has so long to hear that it leaves.
                self._kill_at[instance.id] = now + drain
                return
        self._kill_at[instance.id] = now + self.settings.kill_again
        for task_id in instance.living_tasks:
            self._post_after(turn, calls.kill(TaskRef(task_id, instance.agent_id)))

    # ---- time

    def _time_passes(self, turn: Turn) -> None:
        now = _now()
        if self.leadership.lost.is_set():
            raise FencedError("this instance leads no more")
        if self.connected:
            for call in self._reconciler.due(now):
                self._post_after(turn, call)
        for instance_id, due in list(self._kill_at.items()):
            instance = self.instances.get(instance_id)
            if instance is None:
                del self._kill_at[instance_id]
            elif now >= due and self.connected:
                self.kill(instance, instance.killed_for, turn)
        for instance in list(self.instances.values()):
            if instance.killed_for and instance.id not in self._kill_at and self.connected:
                self.kill(instance, instance.killed_for, turn)
        self._look_after_silent(now, turn)
        self._look_after_away(now, turn)
        self._start_runs(turn)
        # Watch times, back-offs and deadlines end without anybody's word.
        turn.dirty.update(
            name
            for name, state in self.apps.items()
            if state.deployment.status is not Status.DONE or state.retry_at or state.deleting
        )

    def _look_after_silent(self, now: float, turn: Turn) -> None:
        for instance_id, since in list(self._silent_since.items()):
            instance = self.instances.get(instance_id)
            state = self.apps.get(instance.app) if instance is not None else None
            if instance is None or instance.state is not State.LAUNCHING or state is None:
                self._silent_since.pop(instance_id, None)
                continue
            timeout = state.versions.get(instance.version, state.app).launch_timeout
            if now - since < timeout or not self.connected:
                continue
            self._silent_since[instance_id] = now
            for task_id in instance.living_tasks:
                for call in self._reconciler.add(TaskRef(task_id, instance.agent_id), now):
                    self._post_after(turn, call)
            self.kill(instance, f"it did not start within {timeout:g} s", turn)

    def _look_after_away(self, now: float, turn: Turn) -> None:
        for instance_id, since in list(self._away_since.items()):
            instance = self.instances.get(instance_id)
            state = self.apps.get(instance.app) if instance is not None else None
            if instance is None or state is None or instance.state is not State.UNREACHABLE:
                del self._away_since[instance_id]
                continue
            after = state.versions.get(instance.version, state.app).replace_after
            if now - since >= after and not instance.replaced:
                instance = replace(instance, replaced=True)
                self._keep(instance)
                turn.put(f"instances/{instance.id}", encode(instance))
                turn.dirty.add(instance.app)
                self.say(
                    "instance.replaced", instance.app, {"instance": instance.id, "host": instance.hostname}
                )

    def _start_runs(self, turn: Turn) -> None:
        """Schedules: a run that is due, if the one before has ended or is not to be waited for."""
        wall = time.time()
        for state in self.apps.values():
            if state.app.kind != "cron" or state.deleting:
                continue
            if state.next_run is None:
                state.next_run = next_after(state.app.cron, wall)
            if wall < state.next_run:
                continue
            running = self._living(state.name)
            unfinished = bool(state.runs) and (bool(running) or self._wanted(state) > 0)
            if unfinished and state.app.collision == "queue":
                continue
            state.next_run = next_after(state.app.cron, wall)
            if unfinished and state.app.collision == "skip":
                self.say("run.skipped", state.name, {})
                continue
            for instance in running:
                self.kill(instance, "the next run is due", turn)
            state.runs += 1
            state.finished = 0
            state.failures_in_row = 0
            state.started_at = _now()
            state.deployment = replace(state.deployment, status=Status.DEPLOYING, failures=0, message="")
            turn.dirty.add(state.name)
            self.write_app(state, turn)
            self.say("run.started", state.name, {"run": state.runs})

    # ---- bookkeeping

    def _keep(self, instance: Instance) -> None:
        self.instances[instance.id] = instance
        self.by_app[instance.app].add(instance.id)

    def _forget(self, instance: Instance) -> None:
        self.instances.pop(instance.id, None)
        self.by_app[instance.app].discard(instance.id)
        for table in (self._ready_since, self._silent_since, self._kill_at, self._away_since):
            table.pop(instance.id, None)

    def write_app(self, state: AppState, turn: Turn) -> None:
        for write in records.writes_of(state):
            turn.writes[write.key] = write

    def _drop_app(self, state: AppState, turn: Turn) -> None:
        for write in records.deletes_of(state):
            turn.writes[write.key] = write
        del self.apps[state.name]
        self.say("app.gone", state.name, {})

    def _prune_versions(self, state: AppState, turn: Turn) -> None:
        """Forget documents that nothing runs of and nothing could be rolled back to."""
        used = {state.app.version, state.deployment.version, state.deployment.previous}
        used |= {self.instances[instance_id].version for instance_id in self.by_app[state.name]}
        for version in [version for version in state.versions if version not in used]:
            del state.versions[version]
            turn.delete(f"versions/{state.name}/{version}")

    def _post_after(self, turn: Turn, call: Call) -> None:
        turn.after.append(lambda: self._post(call))

    def _post(self, call: Call) -> None:
        if self._client is None or self.leadership.lost.is_set() or not self.leadership.certain:
            return
        future = self._client.post(call)
        if call.type == Call.ACCEPT:
            future.add_done_callback(lambda done: self._accept_done(call, done))

    def _accept_done(self, call: Call, done: "asyncio.Future[Any]") -> None:
        """An ACCEPT that nobody took: its instances are lost before they began, and say so."""
        if done.cancelled() or done.result().fate not in (Fate.REFUSED, Fate.NOT_SENT):
            return
        outcome = done.result()
        text = outcome.text or "not sent"

        def lose(turn: Turn) -> None:
            for operation in call.accept.operations:
                for task in operation.launch_group.task_group.tasks:
                    status = TaskStatus(state=mesos_pb2.TASK_DROPPED, message=f"ACCEPT: {text}")
                    status.task_id.CopyFrom(task.task_id)
                    status.reason = TaskStatus.REASON_INVALID_OFFERS
                    self._update(status, turn)

        self._inbox.put_nowait(lose)

    def say(self, kind: str, app: str, body: dict[str, Any]) -> None:
        self.journal.add(kind, app, time.time(), body)


def _state_of(status: TaskStatus) -> State:
    probe = after_update(Instance("", "", "", "", "", "", (TaskState("x"),)), "x", status, 0.0)
    return probe.state


def _settle(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _now() -> float:
    return asyncio.get_running_loop().time()


__all__ = ["Framework", "Settings"]
