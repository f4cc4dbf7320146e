"""Chaos for the framework: masters fail over, agents go and return, updates are lost, late and doubled, the
store stalls, the leader is cut off or killed; all of it drawn from a seed.

What must hold throughout: no task id is launched twice. What must hold once it is calm: as many instances of
each app run as are wanted, at agents and in the books alike, and nothing else does.
"""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.server import FakeMasterServer, Fault, serve
from executor.framework.service import wishes
from executor.framework.service.core import Framework
from executor.framework.service.instance import State
from executor.framework.service.rollout import Status
from executor.framework.service.tests.setup import QUICK, agent, app, settings_for
from executor.framework.service.wishes import WishError
from executor.framework.store import sqlite
from executor.framework.store.interface import FencedError, Leadership, Store, StoreError, Txn

Call = scheduler_pb2.Call
Event = scheduler_pb2.Event

AGENTS = 4
APPS = ("web", "api", "db")
CALM = 60.0
"""Seconds in which everything must be as it is wanted once nothing more is done to it."""


class BrokenError(AssertionError):
    """What must hold did not."""


class StallingStore:
    """A store that is out of reach while `stalled`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.stalled = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, txn: Txn, fence: Leadership) -> None:
        if self.stalled:
            raise StoreError("stalled")
        await self._store.commit(txn, fence)


@dataclass
class World:
    """All of it, and what was done to it."""

    folder: Path
    random: random.Random
    note: Callable[[str], None]
    agents: list[FakeAgent] = field(default_factory=list)
    wanted: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    logs: list[FakeMasterServer] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    server: FakeMasterServer = field(init=False)
    framework: Framework = field(init=False)
    store: StallingStore = field(init=False)
    task: "asyncio.Task[None]" = field(init=False)
    address: str = ""

    # ---- parts

    async def master(self, *, recovered: bool) -> None:
        """A master at the address of the one before; agents are known to it, but have yet to return."""
        host, _, port = (self.address or "127.0.0.1:0").rpartition(":")
        made = Master(QUICK, recovered=self.agents if recovered else ())
        made.update_hook = self.on_its_way
        self.stack = AsyncExitStack()
        for _ in range(200):
            with suppress(OSError):  # the port of the one before is free in a moment
                self.server = await self.stack.enter_async_context(serve(made, host, int(port)))
                break
            await asyncio.sleep(0.02)
        self.address = self.server.address
        self.logs.append(self.server)

    async def start(self) -> None:
        """An instance of the framework on the store."""
        self.store = StallingStore(await sqlite.open_store(self.folder / "state.db"))
        leadership = await self.store.campaign("")
        self.framework = Framework(settings_for(self.address), self.store, leadership)
        self.task = asyncio.create_task(self.framework.run())

    async def end(self) -> None:
        """As kill -9 ends it: whatever it was at, it does not finish."""
        self.task.cancel()
        with suppress(asyncio.CancelledError, FencedError):
            await self.task
        await self.store.close()

    def on_its_way(self, event: Event) -> list[Event]:
        draw = self.random.random()
        if draw < 0.1:
            return []
        if draw < 0.2:
            return [event, event]
        if draw < 0.3 and event.update.status.uuid:
            task_id = event.update.status.task_id.value
            framework_id = next(iter(self.server.master.books.frameworks), "")
            self.note(f"late: {task_id}")
            delay = self.random.uniform(0.1, 0.8)
            server = self.server
            asyncio.get_running_loop().call_later(delay, lambda: server.master.send(framework_id, event))
            return []
        return [event]

    # ---- what is done

    async def wish(self) -> None:
        name = self.random.choice(APPS)
        count = self.random.randint(0, 6)
        version = self.random.randint(0, 2)
        wanted = app(
            name,
            count,
            f"sleep {1000 + version}",
            update={"on_failure": "continue", "floor": 0.5},
            replace_after="1secs",
            restart={"delay": "100ms", "longest": "500ms"},
            launch_timeout="3secs",
        )
        asked = asyncio.ensure_future(self.framework.wish(wishes.deploy(wanted, force=True)))
        await asyncio.wait({asked, self.task}, timeout=30.0, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            with suppress(WishError):
                asked.result()
                self.wanted[name], self.versions[name] = count, wanted.version
            return
        # Nobody said whether it was stored: ask once more when it can be answered.
        asked.cancel()
        self.wanted.pop(name, None)

    async def kill_framework(self) -> None:
        await self.end()
        await self.start()

    async def fail_over(self) -> None:
        """The master dies with all it knows; agents come back to the next one at their leisure."""
        await self.stack.aclose()
        await self.master(recovered=True)
        for one in self.agents:
            await asyncio.sleep(self.random.uniform(0.0, 0.3))
            self.server.master.register(one, self.server.now())

    async def lose_agent(self) -> None:
        one = self.random.choice(self.agents)
        self.server.master.lose(one.id, self.server.now())
        await asyncio.sleep(self.random.uniform(0.1, 2.0))
        if self.random.random() < 0.3:
            one.reboot()
        self.server.master.register(one, self.server.now())

    async def stall_store(self) -> None:
        self.store.stalled = True
        await asyncio.sleep(self.random.uniform(0.2, 1.5))
        self.store.stalled = False

    async def cut_off(self) -> None:
        """Every connection with the master breaks, some calls are lost on the way, done or not."""
        for kind in (Call.ACCEPT, Call.KILL, Call.ACKNOWLEDGE, Call.RECONCILE):
            if self.random.random() < 0.5:
                self.server.faults.append(Fault(kind, reset=True, done=self.random.random() < 0.5))
        if self.random.random() < 0.5:
            self.server.break_streams()

    async def crash_tasks(self) -> None:
        one = self.random.choice(self.agents)
        for task_id in list(one.tasks)[:2]:
            one.kill(task_id, self.server.now())

    # ---- what must hold

    def launched_twice(self) -> list[str]:
        ids = [
            task.task_id.value
            for server in self.logs
            for call in server.calls(Call.ACCEPT)
            for operation in call.accept.operations
            for task in operation.launch_group.task_group.tasks
        ]
        return sorted({task_id for task_id in ids if ids.count(task_id) > 1})

    def unlike_wanted(self) -> str:
        """What is not yet as it is wanted, "" if all is."""
        books = self.framework.books
        if self.task.done() or not books.connected:
            return f"not subscribed: {books.problem}"
        for name, count in self.wanted.items():
            state = books.apps.get(name)
            if state is None or state.deployment.status is not Status.DONE:
                return f"{name}: {state and state.deployment}"
            mine = [books.instances[key] for key in books.by_app[name]]
            if len(mine) != count or any(
                item.state is not State.RUNNING or item.version != self.versions[name] for item in mine
            ):
                return f"{name}: {count} wanted, {[(item.id, item.state.value) for item in mine]}"
        known = sorted(task_id for item in books.instances.values() for task_id in item.living_tasks)
        there = sorted(
            task_id for one in self.agents for task_id, task in one.tasks.items() if not task.ended
        )
        return "" if known == there else f"known {known}, at agents {there}"


async def play(seed: int, seconds: float, folder: Path, note: Callable[[str], None]) -> str:
    """One seed. Raises BrokenError."""
    world = World(folder, random.Random(seed), note)
    world.agents = [agent(number) for number in range(1, AGENTS + 1)]
    await world.master(recovered=False)
    for one in world.agents:
        world.server.master.register(one, world.server.now())
    await world.start()
    doings = (
        (world.wish, 6),
        (world.kill_framework, 2),
        (world.fail_over, 2),
        (world.lose_agent, 3),
        (world.stall_store, 2),
        (world.cut_off, 3),
        (world.crash_tasks, 3),
    )
    loop = asyncio.get_running_loop()
    end, rounds = loop.time() + seconds, 0
    try:
        while loop.time() < end:
            for _ in range(world.random.randint(3, 10)):
                (do,) = world.random.choices([it for it, _ in doings], [weight for _, weight in doings])
                note(do.__name__)
                world.done[do.__name__] = world.done.get(do.__name__, 0) + 1
                await do()
                await asyncio.sleep(world.random.uniform(0.0, 0.5))
            rounds += 1
            await _calm(world, seed)
    finally:
        await world.end()
        await world.stack.aclose()
    counts = ", ".join(f"{name} {number}" for name, number in sorted(world.done.items()))
    return f"seed {seed}: calm after each of {rounds} rounds: {counts}"


async def _calm(world: World, seed: int) -> None:
    """Nothing more is done, and all must come to be as it is wanted."""
    world.server.faults.clear()
    world.server.master.update_hook = lambda event: [event]
    if world.task.done():
        await world.kill_framework()
    loop = asyncio.get_running_loop()
    end = loop.time() + CALM
    while why := world.unlike_wanted():
        if loop.time() > end:
            raise BrokenError(f"seed {seed}: not as it is wanted after {CALM:g} s of calm: {why}")
        await asyncio.sleep(0.05)
    if twice := world.launched_twice():
        raise BrokenError(f"seed {seed}: launched twice: {twice}")
    world.server.master.update_hook = world.on_its_way
