"""A framework with a fake master and a store of its own, for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mesos.v1 import mesos_pb2

from executor.framework.fake_master.agent import FakeAgent, Script, runs
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.options import Options
from executor.framework.fake_master.server import FakeMasterServer, serve
from executor.framework.sdk.client import Settings as ClientSettings
from executor.framework.sdk.reconcile import Pace
from executor.framework.service.books import Settings
from executor.framework.service.core import Framework
from executor.framework.service.instance import Instance, State
from executor.framework.service.spec import App, read_app
from executor.framework.store import sqlite
from executor.framework.store.interface import Store

QUICK = Options(heartbeat=0.5, allocation=0.05, retry=0.3, longest_retry=1.0)


def agent(
    number: int = 1,
    *,
    cpus: float = 8.0,
    mem: float = 8192.0,
    script: Script = runs,
    kill_takes: float = 0.0,
    options: Options = QUICK,
    **attributes: str,
) -> FakeAgent:
    """An agent with room for a dozen instances."""
    info = mesos_pb2.AgentInfo(hostname=f"host{number}")
    info.id.value = f"A{number}"
    for name, value in (("cpus", cpus), ("mem", mem), ("disk", 10_000.0)):
        info.resources.add(name=name, type=mesos_pb2.Value.SCALAR).scalar.value = value
    ports = info.resources.add(name="ports", type=mesos_pb2.Value.RANGES)
    ports.ranges.range.add(begin=31000, end=31999)
    for name, text in attributes.items():
        info.attributes.add(name=name, type=mesos_pb2.Value.TEXT).text.value = text
    return FakeAgent(info, options, script=script, kill_takes=kill_takes)


def app(name: str = "web", instances: int = 1, cmd: str = "sleep 1000", **keys: Any) -> App:
    """An app of the richer form."""
    return read_app(
        {"version": 1, "name": name, "instances": instances, "command": {"cmd": cmd}, **keys}, "test"
    )


def settings_for(address: str, **changes: Any) -> Settings:
    """Clocks for a test."""
    given: dict[str, Any] = {
        "client": ClientSettings((address,), longest_delay=0.3),
        "roles": ("web",),
        "reconcile": Pace(0.3, 1.0, 5.0),
        "kill_again": 0.5,
        "revive_every": 0.05,
        "tick": 0.05,
        "give_up_store": 5.0,
    }
    return Settings(**{**given, **changes})


@dataclass(slots=True)
class Bench:
    """All three."""

    server: FakeMasterServer
    framework: Framework
    store: Store

    @property
    def master(self) -> Master:
        return self.server.master

    def add(self, *agents: FakeAgent) -> None:
        for item in agents:
            self.master.register(item, self.server.now())

    def living(self, name: str = "web") -> list[Instance]:
        """The app's instances that the framework knows."""
        found = [self.framework.books.instances[key] for key in self.framework.books.by_app[name]]
        return sorted(found, key=lambda item: item.wall_launched)

    def running(self, name: str = "web", version: str = "") -> list[Instance]:
        return [
            item
            for item in self.living(name)
            if item.state is State.RUNNING and not item.killed_for and version in ("", item.version)
        ]

    def tasks(self) -> list[str]:
        """The tasks that live at the agents, whatever the framework thinks."""
        return sorted(
            task_id
            for entry in self.master.books.agents.values()
            for task_id, task in entry.agent.tasks.items()
            if not task.ended
        )


async def until(condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> None:
    """Wait for a condition."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not condition():
        assert loop.time() < end, what or "what was waited for did not come"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path, server: FakeMasterServer, **changes: Any) -> AsyncIterator[Bench]:
    """A framework that runs, on a store in `folder`."""
    store = await sqlite.open_store(folder / "state.db")
    framework = Framework(settings_for(server.address, **changes), store, await store.campaign(""))
    task = asyncio.create_task(framework.run())
    try:
        await until(lambda: framework.books.connected or task.done())
        yield Bench(server, framework, store)
    finally:
        framework.stop()
        try:
            await task
        finally:
            await store.close()


@asynccontextmanager
async def bench(folder: Path, *agents: FakeAgent, **changes: Any) -> AsyncIterator[Bench]:
    """A master with these agents, and a framework."""
    async with serve(Master(QUICK)) as server:
        for item in agents:
            server.master.register(item, server.now())
        async with running(folder, server, **changes) as found:
            yield found
