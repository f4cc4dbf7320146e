"""Measures the framework against the fake master, which is a process of its own.

python framework_figures.py > figures.json

Wall time tells how busy the machine was as well, so each figure has the processor time of the framework
beside it, and of the fake master apart.

launches      instances a second: an app of 1,000, from the POST to the last acknowledged RUNNING (synced)
launch_cpu    milliseconds of processor time of the framework for each of them; master_cpu: of the fake master
idle          per cent of a core that the framework takes after that, beside 1,000 agents
restore       seconds: 10,000 instances of 100 apps, from the open file to the loaded framework; restore_cpu
match         milliseconds for each 100 of 1,000 agents' offers, from the event's bytes to the bytes of the
              ACCEPTs, against 10,000 pending instances of 100 apps with three constraints each; match_cpu
match_all     the same for all 1,000 agents in one event; match_all_cpu
memory        bytes a task, for 10,000 of them
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from framework_master import agent
from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk import calls
from executor.framework.sdk.client import Settings as ClientSettings
from executor.framework.sdk.session_state import Phase
from executor.framework.service import serve as service
from executor.framework.service.apps import AppState, write_version, writes_of
from executor.framework.service.books import Settings
from executor.framework.service.core import Framework
from executor.framework.service.instance import Instance, State, TaskState, encode, new_id
from executor.framework.service.matching import Assignment, Demand, OfferPool, WhyNot, match
from executor.framework.service.rollout import Deployment, Status
from executor.framework.service.spec import App, read_app
from executor.framework.service.taskinfo import Delivery, Launcher, Terms
from executor.framework.store import sqlite
from executor.framework.store.interface import MAX_WRITES, Put, Txn, Write
from executor.protocol.encoding import Encoding, decode
from executor.protocol.encoding import encode as encode_message

Call = scheduler_pb2.Call

LAUNCHES = 1_000
IDLE = 10.0
APPS = 100
TASKS = 10_000
AGENTS = 1_000
OFFERS = 100
ROUNDS = 5


def app(name: str, instances: int, **keys: object) -> App:
    document = {"version": 1, "name": name, "instances": instances, "command": {"cmd": "sleep 1000"}, **keys}
    return read_app(document, "bench")


@contextmanager
def master(agents: int, tasks: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The fake master's address, and its process."""
    script = Path(__file__).with_name("framework_master.py")
    process = subprocess.Popen(
        [sys.executable, script, str(agents), str(tasks)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    with process:
        yield process.stdout.readline().strip(), process
        process.stdin.close()


async def launches(folder: Path) -> dict[str, float]:
    """Launches a second from the POST on, and what each costs; then what it costs to be idle."""
    document = {"version": 1, "name": "bench", "instances": LAUNCHES, "command": {"cmd": "sleep 1000"}}
    with master(AGENTS, LAUNCHES) as (address, process):
        made = service.Instance()
        settings = Settings(ClientSettings((address,)))
        stored = service.Stored(sqlite=folder / "launches.db")
        running = asyncio.create_task(service.run(settings, service.Place(port=0), stored, made=made))
        await made.leading.wait()
        assert made.site is not None and made.site.framework is not None
        while made.site.framework.phase is not Phase.SUBSCRIBED:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.5)  # the first offers are declined
        theirs, ours, began = _seconds(process.pid), time.process_time(), time.monotonic()
        await asyncio.to_thread(_post, made.port, document)
        assert process.stdout is not None
        done = float(await asyncio.to_thread(process.stdout.readline))
        ours, theirs = time.process_time() - ours, _seconds(process.pid) - theirs
        await asyncio.sleep(1.5)  # to be quiet
        idle, since = time.process_time(), time.monotonic()
        await asyncio.sleep(IDLE)
        idle = (time.process_time() - idle) / (time.monotonic() - since)
        made.stop.set()
        await running
    return {
        "launches": LAUNCHES / (done - began),
        "launch_cpu": ours / LAUNCHES * 1000,
        "master_cpu": theirs / LAUNCHES * 1000,
        "idle": idle * 100,
    }


def _seconds(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return used.user + used.system


def _post(port: int, document: dict[str, object]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/v1/apps", json.dumps(document), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status in (200, 201), answer.read()
    connection.close()


async def restore(folder: Path) -> dict[str, float]:
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
    began, used = time.monotonic(), time.process_time()
    store = await sqlite.open_store(path)
    framework = Framework(Settings(ClientSettings()), store, await store.campaign(""))
    await framework._load()
    took, used = time.monotonic() - began, time.process_time() - used
    size = (psutil.Process().memory_info().rss - before) / TASKS
    await store.close()
    return {"restore": took, "restore_cpu": used, "memory": size}


def matching(offers: int) -> tuple[list[float], list[float]]:
    """Milliseconds, and those of the processor, for each so many of the agents: from an OFFERS event's bytes
    to the bytes of the ACCEPTs.
    """
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
    took, used, found = [], [], 0
    for first in range(0, AGENTS, offers):
        data = encode_message(_offers(first, offers), Encoding.PROTOBUF, explicit_defaults=True)
        began, before = time.monotonic(), time.process_time()
        pool = OfferPool()
        for offer in decode(data, scheduler_pb2.Event(), Encoding.PROTOBUF).offers.offers:
            pool.add(offer)
        launcher = Launcher(Terms(Delivery(), "F", lambda _name: b""))
        by_place: dict[tuple[str, str], list[offers_pb2.Offer.Operation]] = {}
        for item in match(pool, demands, random.randrange, why_not):
            by_place.setdefault(item.key, []).append(_launched(launcher, item))
            found += 1
        for key, operations in by_place.items():
            call = calls.accept(pool.held[key].ids, operations, 0.0)
            encode_message(call, Encoding.PROTOBUF, explicit_defaults=False)
        took.append((time.monotonic() - began) * 1000)
        used.append((time.process_time() - before) * 1000)
    assert found > AGENTS, found
    return took, used


def _offers(first: int, offers: int) -> scheduler_pb2.Event:
    event = scheduler_pb2.Event(type=scheduler_pb2.Event.OFFERS)
    for number in range(first, first + offers):
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


def _launched(launcher: Launcher, item: Assignment) -> offers_pb2.Offer.Operation:
    name = new_id(item.app.name)
    tasks = tuple(TaskState(task.name) for task in item.app.tasks)
    place = item.place
    one = Instance(
        name, item.app.name, item.app.version, place.agent_id, place.hostname, f"{name}.executor", tasks
    )
    made = launcher.launch_of(item.app, one, item.pieces)
    return calls.launch_group(made.executor, made.tasks)


def main() -> int:
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(ROUNDS):
            folder = Path(name) / str(number)
            folder.mkdir()
            found = asyncio.run(restore(folder))
            if number:
                del found["memory"]  # later ones find memory that is there already
            for title, value in (found | asyncio.run(launches(folder))).items():
                figures.setdefault(title, []).append(value)
            service.settle_memory()
            for title, offers in (("match", OFFERS), ("match_all", AGENTS)):
                took, used = matching(offers)
                figures.setdefault(title, []).extend(took)
                figures.setdefault(f"{title}_cpu", []).extend(used)
    json.dump(figures, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
