"""The fake master in a process of its own, so that what it costs is not counted as the framework's.

python framework_master.py AGENTS TASKS

Prints the address it listens on; then, whenever TASKS tasks have come to run and no update awaits its
acknowledgement, the moment (seconds of CLOCK_MONOTONIC, the same for every process). Ends when its input
does.
"""

from __future__ import annotations

import asyncio
import sys
import time

from mesos.v1 import mesos_pb2

from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.options import Options
from executor.framework.fake_master.server import FakeMasterServer, serve


def agent(number: int, cpus: float = 64.0) -> FakeAgent:
    info = mesos_pb2.AgentInfo(hostname=f"host{number}")
    info.id.value = f"A{number}"
    for name, value in (("cpus", cpus), ("mem", 262_144.0), ("disk", 1_000_000.0)):
        info.resources.add(name=name, type=mesos_pb2.Value.SCALAR).scalar.value = value
    info.attributes.add(name="rack", type=mesos_pb2.Value.TEXT).text.value = f"r{number % 10}"
    return FakeAgent(info, Options())


async def run(agents: int, tasks: int) -> None:
    # Agents take their steps seldom, and the scheduler's acknowledgements drive them on: a master that waits
    # must not take the processor from who is measured.
    async with serve(Master(Options()), tick=0.02) as server:
        for number in range(agents):
            server.master.register(agent(number), server.now())
        _say(server.address)
        watch = asyncio.create_task(_watch(server, tasks))
        await asyncio.to_thread(sys.stdin.read)
        watch.cancel()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _watch(server: FakeMasterServer, tasks: int) -> None:
    while True:
        while not _all_run(server, tasks):
            await asyncio.sleep(0.005)
        _say(str(time.monotonic()))
        while _all_run(server, tasks):
            await asyncio.sleep(0.05)


def _all_run(server: FakeMasterServer, tasks: int) -> bool:
    there = [entry.agent.tasks for entry in server.master.books.agents.values()]
    if sum(map(len, there)) != tasks:
        return False
    found = [task for each in there for task in each.values()]
    return all(task.state == mesos_pb2.TASK_RUNNING and not task.updates for task in found)


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), int(sys.argv[2])))
