"""The framework dies at every store write and every call of a deploy, an update and a scale-down.

A death is an exception out of the N-th commit (before it is done, or after) or the N-th call (before it is
sent, or after), which takes the framework down with whatever it held in memory; the next one starts from the
store. In the end the intended instances run, each once, whatever N was.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from executor.framework.fake_master.master import Master
from executor.framework.fake_master.server import FakeMasterServer, serve
from executor.framework.sdk.calls import Call
from executor.framework.service import wishes
from executor.framework.service.core import Framework
from executor.framework.service.rollout import Status
from executor.framework.service.tests.setup import QUICK, agent, app, settings_for, until
from executor.framework.store import sqlite
from executor.framework.store.interface import Leadership, Store, Txn


class KilledError(BaseException):
    """kill -9."""


@dataclass(slots=True)
class Fate:
    """Counts commits and calls, and kills at one of them."""

    at: int
    seen: int = 0

    def point(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise KilledError


class MortalStore:
    """A store whose commits may be the framework's last."""

    def __init__(self, store: Store, fate: Fate) -> None:
        self._store = store
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, txn: Txn, fence: Leadership) -> None:
        self._fate.point()
        await self._store.commit(txn, fence)
        self._fate.point()


class MortalFramework(Framework):
    """A framework whose calls may be its last."""

    fate: Fate

    def _post(self, call: Call) -> None:
        self.fate.point()
        super()._post(call)
        self.fate.point()


@asynccontextmanager
async def mortal(
    folder: Path, server: FakeMasterServer, fate: Fate
) -> AsyncIterator[tuple[Framework, "asyncio.Task[None]"]]:
    """A framework that dies when fate says so: its connections break, its memory is gone."""
    store = await sqlite.open_store(folder / "state.db")
    framework = MortalFramework(
        settings_for(server.address), MortalStore(store, fate), await store.campaign("")
    )
    framework.fate = fate
    task = asyncio.create_task(framework.run())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        yield framework, task
    finally:
        framework.stop()
        await asyncio.wait({task})
        await store.close()


async def _wished(framework: Framework, task: "asyncio.Task[None]", wish: Any) -> bool:
    """Whether a wish was granted before the framework died."""
    asked = asyncio.ensure_future(framework.wish(wish))
    await asyncio.wait({asked, task}, return_when=asyncio.FIRST_COMPLETED)
    if asked.done():
        asked.result()
        return True
    asked.cancel()
    return False


def _reached(framework: Framework, server: FakeMasterServer, version: str, number: int) -> bool:
    state = framework.books.apps.get("web")
    if state is None or state.deployment.status is not Status.DONE:
        return False
    living = [framework.books.instances[key] for key in framework.books.by_app["web"]]
    tasks = sorted(
        task_id
        for entry in server.master.books.agents.values()
        for task_id, task in entry.agent.tasks.items()
        if not task.ended
    )
    return (
        len(living) == number
        and all(item.version == version and item.state.value == "running" for item in living)
        and tasks == sorted(task_id for item in living for task_id in item.task_ids)
    )


async def _reach(
    framework: Framework, task: "asyncio.Task[None]", server: FakeMasterServer, *wanted: Any
) -> None:
    """Wait until what is wanted runs, or the framework is dead."""
    await until(
        lambda: task.done() or _reached(framework, server, *wanted),
        what="what is wanted never came about",
    )


STEPS = (
    ("deploy", app(instances=3), 3),
    ("update", app(instances=3, cmd="sleep 2000"), 3),
    ("scale", app(instances=1, cmd="sleep 2000"), 1),
)


SHARDS = 12
LAST = 180
"""More points than one life has (98 on an idle machine): beyond the last of them nobody is killed."""


@pytest.mark.parametrize("shard", range(SHARDS))
def test_killed_at_any_write_and_any_call(tmp_path: Path, shard: int) -> None:
    """Every point is in one shard; a shard plays its points side by side, each with a master and a store of
    its own.
    """

    async def scenario() -> None:
        points = range(1 + shard, LAST + 1, SHARDS)
        lives = await asyncio.gather(*(_killed_at(tmp_path / str(at), at) for at in points))
        if min(lives) >= LAST:  # side by side on a busy machine, they repeat what was not answered in time
            lives = [await _killed_at(tmp_path / "alone", LAST + 1)]
        assert min(lives) < LAST, "there are points beyond the last"

    asyncio.run(scenario())


async def _killed_at(folder: Path, at: int) -> int:
    """Die at a point, and go on until all is as it is wanted; how many points there were."""
    folder.mkdir()
    async with serve(Master(QUICK)) as server:
        for number in (1, 2):
            server.master.register(agent(number), server.now())
        step, fate, deaths = 0, Fate(at), 0
        while step < len(STEPS):
            async with mortal(folder, server, fate) as (framework, task):
                while step < len(STEPS) and not task.done():
                    name, wanted, number = STEPS[step]
                    wish = (
                        wishes.scale("web", number) if name == "scale" else wishes.deploy(wanted, force=True)
                    )
                    if not await _wished(framework, task, wish):
                        break
                    await _reach(framework, task, server, wanted.version, number)
                    if not task.done():
                        step += 1
            deaths += 1
            assert deaths < 5, f"killed at {at}"
        ids = [
            task.task_id.value
            for call in server.log
            for operation in call.call.accept.operations
            for task in operation.launch_group.task_group.tasks
        ]
        assert len(set(ids)) == len(ids), f"a task id was used twice after a death at {at}"
        return fate.seen
