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
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk import calls
from executor.framework.sdk.calls import Call, TaskRef
from executor.framework.sdk.client import Client, Notice
from executor.framework.sdk.reconcile import Reconciler
from executor.framework.sdk.session_events import (
    Connected,
    Deliver,
    Disconnected,
    Failed,
    Fate,
    Outcome,
    Superseded,
)
from executor.framework.sdk.session_state import Phase
from executor.framework.service import apps as records
from executor.framework.service import claim as claims
from executor.framework.service import clock, planning, updates, volumes
from executor.framework.service.books import Books, Settings
from executor.framework.service.instance import (
    State,
    decode,
)
from executor.framework.service.offer_constraints import OfferConstraints
from executor.framework.service.rollout import readiness
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
_WAITING = 2000
"""Notices and wishes that wait for a turn, from which on the stream is not listened to: a store that stalls
holds up the master, and not the memory.
"""
_RETRY_STORE = 0.5


_Item = Notice | Callable[[Turn], None]


class Framework:
    """See the module. `run` it until it ends; the rest may be called meanwhile, in the same event loop."""

    def __init__(self, settings: Settings, store: Store, leadership: Leadership) -> None:
        self.books = Books(settings, Reconciler(settings.reconcile))
        self.store = store
        self.leadership = leadership
        self._inbox: asyncio.Queue[_Item] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._client: Client | None = None
        self._leader = ""
        self._ended = asyncio.Event()
        self._planned: asyncio.TimerHandle | None = None
        self.refused = False
        """Whether a master has refused this framework for good; the books' `problem` says why."""
        self.loaded = asyncio.Event()
        """Set when what was stored has been read: before that nobody should ask for anything."""

    # ---- life

    async def run(self) -> None:
        """Load, subscribe, and go on until the leadership is lost or the master refuses us for good.

        Raises FencedError in the first case; in the second `problem` says why and this returns.
        """
        await self._load()
        client = Client(self._info(), self.books.settings.client)
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
                if self._planned is not None:
                    self._planned.cancel()
                self._client = None

    def stop(self) -> None:
        """Leave: the stream is closed, tasks go on, another instance may take over."""
        self._ended.set()
        self._inbox.put_nowait(lambda _turn: None)

    @property
    def phase(self) -> Phase:
        """Where the subscription stands."""
        return self._client.session.phase if self._client is not None else Phase.CLOSED

    async def _load(self) -> None:
        entry = await self.store.get("framework")
        self.books.framework_id = entry.value.decode() if entry is not None else ""
        self.books.apps = records.read_state(
            await self.store.entries("apps/"), await self.store.entries("versions/")
        )
        now = _now()
        for item in await self.store.entries("instances/"):
            self.books.keep(decode(item.value))
        for item in await self.store.entries("claims/"):
            claim = claims.decode(item.value)
            self.books.claims[claim.id] = claim
        for entry in await self.store.entries("history/"):
            name = entry.key.split("/")[1]
            if name in self.books.apps:
                self.books.apps[name].history.append(decode(entry.value))
        for state in self.books.apps.values():
            state.started_at = now
            state.history = deque(
                sorted(state.history, key=lambda item: item.wall_ended), maxlen=records.HISTORY
            )
        for instance in self.books.instances.values():
            self.books.silent_since[instance.id] = now
            owner = self.books.apps.get(instance.app)
            if owner is not None and readiness(owner.versions.get(instance.version, owner.app), instance):
                self.books.ready_since[instance.id] = now
            if instance.state is State.UNREACHABLE:
                self.books.away_since[instance.id] = now
        self.loaded.set()
        log.info("loaded %d apps and %d instances", len(self.books.apps), len(self.books.instances))

    def _info(self) -> mesos_pb2.FrameworkInfo:
        settings = self.books.settings
        info = mesos_pb2.FrameworkInfo(user=settings.user, name=settings.name, checkpoint=True)
        info.roles.extend(settings.roles)
        info.failover_timeout = settings.failover_timeout
        info.hostname = socket.gethostname()
        if settings.principal:
            info.principal = settings.principal
        if settings.webui_url:
            info.webui_url = settings.webui_url
        kinds = mesos_pb2.FrameworkInfo.Capability
        for kind, announced in (
            (kinds.PARTITION_AWARE, True),
            (kinds.TASK_KILLING_STATE, True),
            (kinds.MULTI_ROLE, True),
            (kinds.RESERVATION_REFINEMENT, True),
            (kinds.GPU_RESOURCES, settings.gpus),
            (kinds.REGION_AWARE, settings.regions),
        ):
            if announced:
                info.capabilities.add(type=kind)
        if self.books.framework_id:
            info.id.value = self.books.framework_id
        return info

    async def _listen(self, client: Client) -> None:
        async for notice in client:
            self._inbox.put_nowait(notice)
            while self._inbox.qsize() >= _WAITING:
                self._taken.clear()
                await self._taken.wait()

    async def _pace(self) -> None:
        while True:
            self._inbox.put_nowait(self._time_passes)
            await asyncio.sleep(self.books.settings.tick)

    def _time_passes(self, turn: Turn) -> None:
        if self.leadership.lost.is_set():
            raise FencedError("this instance leads no more")
        if not self.books.connected and self._client is not None and self._client.session.problem:
            self.books.problem = self._client.session.problem
        clock.time_passes(self.books, turn)

    async def _turns(self) -> None:
        while not self._ended.is_set():
            batch = [await self._inbox.get()]
            while len(batch) < _BATCH and not self._inbox.empty():
                batch.append(self._inbox.get_nowait())
            self._taken.set()
            await self._take_turn(batch)

    async def _take_turn(self, batch: Sequence[_Item]) -> None:
        turn = Turn()
        for item in batch:
            if callable(item):
                item(turn)
            else:
                self._notice(item, turn)
        planning.plan_touched(self.books, turn)
        if self.books.connected:
            planning.place(self.books, turn)
        await self._store(turn)
        if turn.constraints is not None:
            self._constrain(turn.constraints)
        if turn.suppressed is not None and self._client is not None:
            self._client.session.suppressed = turn.suppressed
        for call in turn.calls:
            self._post(call)
        for action in turn.after:
            action()
        due = planning.next_plan(self.books)
        if due is not None and self._planned is None:
            self._planned = asyncio.get_running_loop().call_at(due, self._plan_later)

    def _plan_later(self) -> None:
        self._planned = None
        self._inbox.put_nowait(lambda _turn: None)

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
                    self.books.problem = f"the store does not answer: {error}"
                    log.warning("%s", self.books.problem)
                    if self.leadership.lost.is_set() or _now() - since > self.books.settings.give_up_store:
                        raise FencedError(self.books.problem) from error
                    await asyncio.sleep(_RETRY_STORE)
        if since is not None:
            self.books.problem = ""
        self.books.counters["writes"] += len(writes)

    # ---- wishes

    async def wish(self, do: Callable[[Books, Turn], Any]) -> Any:
        """Do something in a turn; its result once all of that is stored. Raises WishError."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def item(turn: Turn) -> None:
            try:
                result = do(self.books, turn)
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
                self.books.connected = False
                self.books.pool.clear()
                self.books.reconciler.disconnected()
                self.books.say("framework.disconnected", "", {"why": why})
            case Superseded(why):
                # The master cannot know who is right; the store can. Whoever still leads there goes on.
                self.books.problem = why
                self.books.counters["superseded"] += 1
                log.error("another instance subscribed with our id: %s", why)
                if self.leadership.lost.is_set() or self.books.counters["superseded"] > 3:
                    raise FencedError(why)
                asyncio.get_running_loop().call_later(self.books.settings.resume_after, self._resume)
            case Failed(why):
                self.books.problem = why
                self.refused = True
                log.critical("the master refuses this framework: %s", why)
                self._ended.set()
            case Deliver(event):
                try:
                    updates.event(self.books, event, turn)
                except Exception:
                    # Whatever a master or a task puts into one event, the next one counts.
                    self.books.counters["defects"] += 1
                    log.exception("a defect met in an event of type %s", Event.Type.Name(event.type))

    def lead(self, address: str) -> None:
        """A detector's word on which master leads, "" for none."""
        self._leader = address
        if self._client is not None:
            self._client.lead(address)

    def _resume(self) -> None:
        if self._client is not None and self.leadership.certain:
            self._client.resume()

    def _on_connected(self, framework_id: str, master: str, turn: Turn) -> None:
        self.books.connected, self.books.problem = True, ""
        self.books.pool.clear()
        self.books.inverse.clear()
        # The subscription said so, and the master goes by it.
        self.books.suppressed = self._client is not None and bool(self._client.session.suppressed)
        # What the subscription said holds; whether the master keeps to such things its version tells.
        constraints = self._client.session.constraints if self._client is not None else None
        self.books.constraints = constraints if constraints is not None else OfferConstraints()
        self.books.constraining = False
        self.books.framework_id = framework_id
        turn.put("framework", framework_id.encode())
        now = _now()
        tasks = [
            TaskRef(task_id, instance.agent_id)
            for instance in self.books.instances.values()
            for task_id in instance.living_tasks
        ]
        for call in self.books.reconciler.subscribed(tasks, now):
            turn.call(call)
        volumes.ask(self.books, turn)
        for instance_id in self.books.instances:
            self.books.silent_since[instance_id] = now
            self.books.kill_at.pop(instance_id, None)
        turn.dirty.update(self.books.apps)
        log.info("subscribed with %s as %s", master, framework_id)
        self.books.say("framework.connected", "", {"master": master, "framework_id": framework_id})

    # ---- calls

    def _constrain(self, constraints: OfferConstraints) -> None:
        """UPDATE_FRAMEWORK with the framework as it is and other constraints. Refused, it is not tried again
        with this master, and what it kept to before is taken back.
        """
        client = self._client
        if client is None or self.leadership.lost.is_set() or not self.leadership.certain:
            return
        session = client.session

        def said(done: "asyncio.Future[Outcome]") -> None:
            if done.cancelled() or done.result().fate is not Fate.REFUSED:
                taken = not done.cancelled() and done.result().fate is Fate.TAKEN
                if taken:
                    session.constraints = constraints if constraints.role_constraints else None
                return
            log.warning("the master refuses offer constraints: %s", done.result().text)
            self.books.constraining = False
            self.books.counters["constraints_refused"] += 1
            before, session.constraints = session.constraints, None
            self.books.constraints = OfferConstraints()
            if before is not None:
                client.post(calls.update_framework(session.info, session.suppressed, None))

        client.post(calls.update_framework(session.info, session.suppressed, constraints)).add_done_callback(
            said
        )

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
                    updates.update(self.books, status, turn)

        self._inbox.put_nowait(lose)


def _settle(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _now() -> float:
    return asyncio.get_running_loop().time()


__all__ = ["Framework"]
