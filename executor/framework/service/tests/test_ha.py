"""Two instances as processes, on a real etcd and a real ZooKeeper: killed, stopped, cut off."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.master import Master
from executor.framework.fake_master.server import FakeMasterServer, serve
from executor.framework.sdk.connection import dial
from executor.framework.service.core import Framework
from executor.framework.service.tests.setup import QUICK, agent, running, settings_for, until
from executor.framework.store import sqlite
from executor.framework.store.interface import FencedError, Put, Txn
from executor.framework.store.tests import servers
from executor.framework.store.tests.servers import Server

Call = scheduler_pb2.Call

LEASE = 3.0
START = "from cni_plugins.cli.main import main; main()"


@dataclass(slots=True)
class Process:
    """One `mesokit framework`."""

    process: "subprocess.Popen[bytes]"
    address: str
    log: Path

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ask(self, method: str, target: str, document: Any = None) -> tuple[int, Any]:
        """A request to its API; what it answers, without following."""
        body = json.dumps(document).encode() if document is not None else b""
        async with await dial(self.address, None, 5) as connection:
            head = await connection.request(method, target, [("Host", self.address)], body)
            text = await connection.body()
        return head.status, json.loads(text) if text.startswith((b"{", b"[")) else head.fields.get("location")

    async def leads(self) -> bool:
        try:
            async with asyncio.timeout(2):
                return (await self.ask("GET", "/health"))[0] == 200
        except (OSError, TimeoutError):
            return False


@contextmanager
def process(folder: Path, name: str, *options: str) -> Iterator[Process]:
    port = servers.free_port()
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        found = subprocess.Popen(
            [
                sys.executable,
                "-c",
                START,
                "framework",
                "--listen",
                f"127.0.0.1:{port}",
                *options,
            ],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    try:
        yield Process(found, f"127.0.0.1:{port}", log)
    finally:
        found.send_signal(signal.SIGCONT)
        found.kill()
        found.wait()


@pytest.fixture(params=["etcd", "zookeeper"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, tuple[str, ...]]]:
    """A store's server and the options that name it."""
    opened: Callable[[Path], Any] = servers.etcd if request.param == "etcd" else servers.zookeeper
    option = "--store-etcd" if request.param == "etcd" else "--store-zk"
    with opened(tmp_path / request.param) as server:
        yield server, (option, server.address, "--lease", str(LEASE))


async def _until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not await condition():
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.1)


@asynccontextmanager
async def pair(
    folder: Path, options: tuple[str, ...]
) -> AsyncIterator[tuple[FakeMasterServer, Process, Process]]:
    """A master, and two instances: the one that leads, with three tasks running, and the other."""
    async with serve(Master(QUICK)) as master:
        for number in (1, 2):
            master.master.register(agent(number), master.now())
        common = ("--master", master.address, "--role", "web", *options)
        with process(folder, "one", *common) as one:
            await _until(one.leads, 60, "nobody leads")
            with process(folder, "two", *common) as two:
                document = {"version": 1, "name": "web", "instances": 3, "command": {"cmd": "sleep 1000"}}
                status, _ = await one.ask("POST", "/v1/apps", document)
                assert status == 201
                await until(lambda: len(_tasks(master)) == 3, 30)
                await _until(lambda: _done(one), 30, "the deployment is not done")
                await _until(lambda: _answers(two), 60, "the follower does not answer")
                yield master, one, two


async def _done(one: Process) -> bool:
    _, found = await one.ask("GET", "/v1/apps/web")
    return bool(found["deployment"]["status"] == "done")


def _tasks(master: FakeMasterServer) -> list[str]:
    return sorted(
        task_id
        for entry in master.master.books.agents.values()
        for task_id, task in entry.agent.tasks.items()
        if not task.ended
    )


def _launched(master: FakeMasterServer) -> list[str]:
    return [
        task.task_id.value
        for call in master.calls(Call.ACCEPT)
        for operation in call.accept.operations
        for task in operation.launch_group.task_group.tasks
    ]


def test_a_follower_sends_on_and_takes_over_from_a_leader_that_is_killed(
    tmp_path: Path, store: tuple[Server, tuple[str, ...]]
) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, store[1]) as (master, one, two):
            before = _tasks(master)
            status, location = await two.ask("GET", "/v1/apps")
            assert (status, location) == (307, f"http://{one.address}/v1/apps")
            one.send(signal.SIGKILL)
            await _until(two.leads, LEASE + 20, "the follower does not lead")
            status, _ = await two.ask("POST", "/v1/apps/web/scale", {"instances": 4})
            assert status == 200
            await until(lambda: len(_tasks(master)) == 4, 30)
            assert set(before) < set(_tasks(master))
            assert len(master.master.books.frameworks) == 1

    asyncio.run(scenario())


def test_a_leader_that_stood_still_acts_no_more(
    tmp_path: Path, store: tuple[Server, tuple[str, ...]]
) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, store[1]) as (master, one, two):
            one.send(signal.SIGSTOP)
            await _until(two.leads, LEASE + 25, "the follower does not lead")
            await two.ask("POST", "/v1/apps/web/scale", {"instances": 5})
            await until(lambda: len(_tasks(master)) == 5, 30)
            asked = len(master.log)
            one.send(signal.SIGCONT)
            await asyncio.to_thread(one.process.wait, 30)
            assert one.process.returncode == 3, one.log.read_text()[-1500:]
            await asyncio.sleep(1.0)
            stale = {item.fields.get("mesos-stream-id") for item in master.log[:asked]}
            later = master.log[asked:]
            assert all(item.call.type != Call.ACCEPT for item in later)
            assert {item.fields.get("mesos-stream-id") for item in later} <= stale
            assert len(_tasks(master)) == 5
            launched = _launched(master)
            assert len(set(launched)) == len(launched) == 5

    asyncio.run(scenario())


def test_a_store_out_of_reach_ends_a_leadership_and_nothing_runs_twice(
    tmp_path: Path, store: tuple[Server, tuple[str, ...]]
) -> None:
    async def scenario() -> None:
        async with pair(tmp_path, store[1]) as (master, one, two):
            before = _tasks(master)
            store[0].pause()
            await asyncio.to_thread(one.process.wait, 60)
            store[0].resume()
            assert one.process.returncode == 3, one.log.read_text()[-1500:]
            await _until(two.leads, 60, "the follower does not lead")
            assert _tasks(master) == before
            launched = _launched(master)
            assert len(set(launched)) == len(launched) == 3

    asyncio.run(scenario())


async def _answers(one: Process) -> bool:
    try:
        return (await one.ask("GET", "/health"))[0] == 503
    except OSError:
        return False


def test_two_that_are_not_told_of_each_other_do_not_take_turns_for_ever(tmp_path: Path) -> None:
    """Two stores, one framework id: the master cannot know who is right, so one of them gives up."""

    async def scenario() -> None:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
        async with (
            serve(Master(QUICK)) as server,
            running(tmp_path / "one", server, resume_after=0.05) as one,
        ):
            store = await sqlite.open_store(tmp_path / "other" / "state.db")
            leadership = await store.campaign("")
            known = Put("framework", one.framework.books.framework_id.encode())
            await store.commit(Txn((known,)), leadership)
            other = Framework(settings_for(server.address, resume_after=0.05), store, leadership)
            task = asyncio.create_task(other.run())
            try:
                await until(lambda: one.framework.books.counters["superseded"] == 4 and other.books.connected)
                asked = len(server.calls(Call.SUBSCRIBE))
                await asyncio.sleep(0.5)
                assert len(server.calls(Call.SUBSCRIBE)) == asked <= 10
                assert other.books.connected and not task.done()
            finally:
                other.stop()
                await task
                await store.close()

    with pytest.raises(FencedError, match="failed over"):
        asyncio.run(scenario())
