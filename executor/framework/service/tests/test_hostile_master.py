"""What no master should do: offers told twice, amounts that nobody has, tasks that nobody started, events
without end. Nothing is lost and nothing is done twice.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import pytest
from mesos.v1 import mesos_pb2, offers_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.service import core, wishes
from executor.framework.service.tests.setup import Bench, agent, app, bench, until
from executor.framework.store.interface import Leadership, StoreError, Txn
from executor.protocol.encoding import Encoding, encode
from executor.protocol.recordio import frame

Call = scheduler_pb2.Call
Event = scheduler_pb2.Event


def offer(name: str, agent_id: str, cpus: float = 1.0, host: str = "") -> offers_pb2.Offer:
    found = offers_pb2.Offer(hostname=host or agent_id)
    found.id.value, found.agent_id.value, found.framework_id.value = name, agent_id, "F"
    for kind, value in (("cpus", cpus), ("mem", 1024.0), ("disk", 1024.0)):
        resource = found.resources.add(name=kind, type=mesos_pb2.Value.SCALAR)
        resource.scalar.value = value
        resource.allocation_info.role = "web"
    found.allocation_info.role = "web"
    return found


def offers(*listed: offers_pb2.Offer) -> Event:
    event = Event(type=Event.OFFERS)
    event.offers.offers.extend(listed)
    return event


def say(here: Bench, *events: Event) -> None:
    for event in events:
        here.server.push(frame(encode(event, Encoding.PROTOBUF, explicit_defaults=True)))


def accepts(here: Bench) -> list[tuple[list[str], int]]:
    """The offers of each ACCEPT, and how many instances it starts."""
    return [
        ([item.value for item in call.accept.offer_ids], len(call.accept.operations))
        for call in here.server.calls(Call.ACCEPT)
    ]


def declined(here: Bench) -> set[str]:
    calls = here.server.calls(Call.DECLINE)
    return {item.value for call in calls for item in call.decline.offer_ids}


def test_an_offer_that_is_told_twice_is_used_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as here:
            await here.framework.wish(wishes.deploy(app(instances=4, resources={"cpu": 0.6})))
            twice = offers(offer("O1", "X"), offer("O1", "X"))
            say(here, twice, offers(offer("O2", "Y"), offer("O2", "Z")))
            await until(lambda: len(accepts(here)) == 2)
            assert accepts(here) == [(["O1"], 1), (["O2"], 1)]
            # It was told last that the second is of Z.
            (task,) = here.server.calls(Call.ACCEPT)[1].accept.operations[0].launch_group.task_group.tasks
            assert task.agent_id.value == "Z"
            assert not here.framework.books.pool.held

    asyncio.run(scenario())


def test_amounts_that_nobody_has_cost_their_offer_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path) as here:
            await here.framework.wish(wishes.deploy(app(instances=2, resources={"cpu": 0.6})))
            amounts = (float("nan"), float("inf"), 1e306, 1.7e308, -4.0)
            absurd = [offer(f"bad{number}", f"B{number}", cpus) for number, cpus in enumerate(amounts)]
            odd = offer("odd", "ODD")
            odd.attributes.add(name="@address", type=mesos_pb2.Value.TEXT).text.value = "127.0.0.1:1"
            odd.attributes.add(name="load", type=mesos_pb2.Value.SCALAR).scalar.value = float("nan")
            backwards = offer("backwards", "BACK")
            backwards.resources.add(name="ports", type=mesos_pb2.Value.RANGES).ranges.range.add(
                begin=9, end=1
            )
            listed = [offer("good", "G"), *absurd, backwards, odd]
            say(here, offers(*listed))
            await until(lambda: len(accepts(here)) == 2)
            await until(lambda: len(declined(here)) == 6)
            assert declined(here) == {"backwards", *(item.id.value for item in absurd)}
            assert not here.framework.books.counters["defects"]
            # An attribute is no word of the master's on where an agent answers.
            assert all("@address" not in item.place for item in here.framework.books.instances.values())

    asyncio.run(scenario())


def test_words_about_what_is_not_there_change_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with bench(tmp_path, agent()) as here:
            await here.framework.wish(wishes.deploy(app()))
            await until(here.running)
            (running,) = here.running()
            say(here, *_nonsense(running.id))
            # What was said before is answered before what is said after.
            await until(
                lambda: any(call.kill.task_id.value == "last" for call in here.server.calls(Call.KILL))
            )
            killed = {call.kill.task_id.value for call in here.server.calls(Call.KILL)}
            assert killed == {"", "none", "web.", f"{running.id}?", f"{running.id}.another", "last"}
            assert here.running() == [running] and not here.framework.books.counters["defects"]

    asyncio.run(scenario())


def _nonsense(instance_id: str) -> Iterable[Event]:
    gone = Event(type=Event.RESCIND)
    gone.rescind.offer_id.value = "never made"
    yield gone
    yield gone
    inverse = Event(type=Event.RESCIND_INVERSE_OFFER)
    inverse.rescind_inverse_offer.inverse_offer_id.value = "never made"
    yield inverse
    failure = Event(type=Event.FAILURE)
    failure.failure.agent_id.value = "no such agent"
    yield failure
    yield Event(type=Event.FAILURE, failure=Event.Failure())
    operation = Event(type=Event.UPDATE_OPERATION_STATUS)
    operation.update_operation_status.status.state = offers_pb2.OPERATION_FAILED
    operation.update_operation_status.status.uuid.value = b"u" * 16
    yield operation
    lacking = Event(type=Event.UPDATE)
    lacking.update.status.task_id.value = "ended"
    lacking.update.status.state = mesos_pb2.TASK_FAILED
    lacking.update.status.uuid = b"u" * 16
    yield lacking
    for task_id in ("", "none", "web.", f"{instance_id}?", f"{instance_id}.another", "last"):
        event = Event(type=Event.UPDATE)
        event.update.status.task_id.value, event.update.status.agent_id.value = task_id, "X"
        event.update.status.state = mesos_pb2.TASK_RUNNING
        event.update.status.timestamp = float("nan")
        yield event


def test_a_store_that_stalls_holds_up_the_master_and_not_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "_WAITING", 20)

    async def scenario() -> None:
        async with bench(tmp_path, give_up_store=30.0) as here:
            down = True
            commit = here.store.commit

            async def failing(txn: Txn, fence: Leadership) -> None:
                if down:
                    raise StoreError("no answer")
                await commit(txn, fence)

            monkeypatch.setattr(here.store, "commit", failing)
            deployed = asyncio.create_task(here.framework.wish(wishes.deploy(app())))
            await until(lambda: "the store does not answer" in here.framework.books.problem)
            said = 3000
            for number in range(said):
                event = Event(type=Event.RESCIND)
                event.rescind.offer_id.value = f"O{number}"
                say(here, event)
            client = here.framework._client
            assert client is not None
            await until(lambda: not client._room.is_set())
            assert here.framework._inbox.qsize() <= 40
            down = False
            await deployed
            await until(lambda: client._room.is_set() and not here.framework._inbox.qsize())

    asyncio.run(scenario())
