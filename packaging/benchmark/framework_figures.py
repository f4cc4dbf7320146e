"""Measures the framework against the fake master, all in one process: an upper bound of what it costs.

python framework_figures.py > figures.json

launches    instances a second: an app of 300, from the request to the last acknowledged RUNNING (synced)
restore     seconds: 10,000 instances of 100 apps, from the open file to the loaded framework
match       milliseconds for each 100 of 1,000 agents' offers, from the event's bytes to the bytes of the
            ACCEPTs, against 10,000 pending instances of 100 apps with three constraints each
memory      bytes a task, for 10,000 of them
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import psutil
from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.options import Options
from executor.framework.fake_master.server import serve
from executor.framework.sdk import calls
from executor.framework.sdk.client import Settings as ClientSettings
from executor.framework.service import wishes
from executor.framework.service.apps import AppState, write_version, writes_of
from executor.framework.service.books import Settings
from executor.framework.service.core import Framework
from executor.framework.service.instance import Instance, State, TaskState, encode, new_id
from executor.framework.service.matching import Assignment, Demand, OfferPool, WhyNot, match
from executor.framework.service.rollout import Deployment, Status
from executor.framework.service.spec import App, read_app
from executor.framework.service.taskinfo import Delivery, Terms, launch_of
from executor.framework.store import sqlite
from executor.framework.store.interface import MAX_WRITES, Put, Txn, Write
from executor.protocol.encoding import Encoding, decode
from executor.protocol.encoding import encode as encode_message

Call = scheduler_pb2.Call

LAUNCHES = 300
APPS = 100
TASKS = 10_000
AGENTS = 1_000
OFFERS = 100
ROUNDS = 5


def agent(number: int, cpus: float = 64.0) -> FakeAgent:
    info = mesos_pb2.AgentInfo(hostname=f"host{number}")
    info.id.value = f"A{number}"
    for name, value in (("cpus", cpus), ("mem", 262_144.0), ("disk", 1_000_000.0)):
        info.resources.add(name=name, type=mesos_pb2.Value.SCALAR).scalar.value = value
    info.attributes.add(name="rack", type=mesos_pb2.Value.TEXT).text.value = f"r{number % 10}"
    return FakeAgent(info, Options())


def app(name: str, instances: int, **keys: object) -> App:
    document = {"version": 1, "name": name, "instances": instances, "command": {"cmd": "sleep 1000"}, **keys}
    return read_app(document, "bench")


async def launches(folder: Path) -> float:
    """Instances a second."""
    async with serve(Master(Options(allocation=0.1))) as server:
        for number in range(10):
            server.master.register(agent(number), server.now())
        store = await sqlite.open_store(folder / "launches.db")
        settings = Settings(ClientSettings((server.address,)), roles=("*",), tick=0.1, revive_every=0.05)
        framework = Framework(settings, store, await store.campaign(""))
        task = asyncio.create_task(framework.run())
        while not framework.books.connected:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await framework.wish(wishes.deploy(app("bench", LAUNCHES)))
        while framework.books.apps["bench"].deployment.status is not Status.DONE:
            await asyncio.sleep(0.005)
        while any(
            task.updates
            for number in range(10)
            for task in server.master.books.agents[f"A{number}"].agent.tasks.values()
        ):
            await asyncio.sleep(0.005)
        took = time.monotonic() - began
        framework.stop()
        await task
        await store.close()
    return LAUNCHES / took


async def restore(folder: Path) -> tuple[float, float]:
    """Seconds to load, bytes a task."""
    path = folder / "restore.db"
    store = await sqlite.open_store(path)
    leadership = await store.campaign("")
    writes: list[Write] = []
    for number in range(APPS):
        found = app(f"app{number}", TASKS // APPS)
        deployment = Deployment("d", found.version, status=Status.DONE)
        state = AppState(found, found.instances, deployment, {found.version: found})
        writes += [*writes_of(state), write_version(found)]
        for _ in range(TASKS // APPS):
            one = Instance(
                new_id(found.name), found.name, found.version, "A1", "host1", "E",
                (TaskState("task", State.RUNNING, ips=("10.0.0.1",)),), {"@hostname": "host1"}, (), 1.0,
            )  # fmt: skip
            writes.append(Put(f"instances/{one.id}", encode(one)))
    await asyncio.gather(
        *(
            store.commit(Txn(tuple(writes[at : at + MAX_WRITES])), leadership)
            for at in range(0, len(writes), MAX_WRITES)
        )
    )
    await store.close()
    del writes
    before = psutil.Process().memory_info().rss
    began = time.monotonic()
    store = await sqlite.open_store(path)
    framework = Framework(Settings(ClientSettings()), store, await store.campaign(""))
    await framework._load()
    took = time.monotonic() - began
    size = (psutil.Process().memory_info().rss - before) / TASKS
    await store.close()
    return took, size


def matching() -> list[float]:
    """Milliseconds for each 100 of the agents: from an OFFERS event's bytes to the bytes of the ACCEPTs."""
    constraints = [
        {"field": "rack", "operator": "max_per", "value": "50"},
        {"field": "zone", "operator": "like", "value": "z[0-3]"},
        {"field": "@hostname", "operator": "unlike", "value": "host7.*"},
    ]
    demands = [
        Demand(app(f"app{number}", 100, constraints=constraints, resources={"cpu": 1 + number % 4}), 100)
        for number in range(APPS)
    ]
    assert sum(demand.count for demand in demands) == TASKS
    why_not = {demand.app.name: WhyNot() for demand in demands}
    took, found = [], 0
    for first in range(0, AGENTS, OFFERS):
        data = encode_message(_offers(first), Encoding.PROTOBUF, explicit_defaults=True)
        began = time.monotonic()
        pool = OfferPool()
        for offer in decode(data, scheduler_pb2.Event(), Encoding.PROTOBUF).offers.offers:
            pool.add(offer)
        by_place: dict[tuple[str, str], list[offers_pb2.Offer.Operation]] = {}
        for item in match(pool, demands, random.randrange, why_not):
            by_place.setdefault(item.key, []).append(_launched(item))
            found += 1
        for key, operations in by_place.items():
            call = calls.accept(pool.held[key].ids, operations, 0.0)
            encode_message(call, Encoding.PROTOBUF, explicit_defaults=False)
        took.append((time.monotonic() - began) * 1000)
    assert found > AGENTS, found
    return took


def _offers(first: int) -> scheduler_pb2.Event:
    event = scheduler_pb2.Event(type=scheduler_pb2.Event.OFFERS)
    for number in range(first, first + OFFERS):
        offer = event.offers.offers.add(hostname=f"host{number}")
        offer.id.value, offer.agent_id.value = f"O{number}", f"A{number}"
        offer.framework_id.value, offer.allocation_info.role = "F", "web"
        one = agent(number, cpus=8.0)
        offer.resources.extend(one.info.resources)
        for resource in offer.resources:
            resource.allocation_info.role = "web"
        offer.attributes.extend(one.info.attributes)
        zone = offer.attributes.add(name="zone", type=mesos_pb2.Value.TEXT)
        zone.text.value = f"z{number % 5}"
    return event


def _launched(item: Assignment) -> offers_pb2.Offer.Operation:
    name = new_id(item.app.name)
    tasks = tuple(TaskState(task.name) for task in item.app.tasks)
    place = item.place
    one = Instance(
        name, item.app.name, item.app.version, place.agent_id, place.hostname, f"{name}.executor", tasks
    )
    made = launch_of(item.app, one, item.pieces, Terms(Delivery(), "F", lambda _name: b""))
    return calls.launch_group(made.executor, made.tasks)


def main() -> int:
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(ROUNDS):
            folder = Path(name) / str(number)
            folder.mkdir()
            figures.setdefault("launches", []).append(asyncio.run(launches(folder)))
            took, size = asyncio.run(restore(folder))
            figures.setdefault("restore", []).append(took)
            if number == 0:  # later ones find memory that is there already
                figures["memory"] = [size]
            figures.setdefault("match", []).extend(matching())
    json.dump(figures, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
