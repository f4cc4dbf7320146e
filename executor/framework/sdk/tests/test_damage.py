"""Strings that are not UTF-8, as agents and tasks can put them into a master's events."""

import asyncio

from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.server import FakeMasterServer
from executor.framework.sdk.client import Client, Settings
from executor.framework.sdk.tests.test_client import Call, Event, Reader, encoding, framework, play
from executor.protocol.encoding import Encoding, encode
from executor.protocol.recordio import frame

__all__ = ["encoding"]


def offers(*hostnames: str) -> scheduler_pb2.Event:
    event = Event(type=Event.OFFERS)
    for number, hostname in enumerate(hostnames):
        offer = event.offers.offers.add(hostname=hostname)
        offer.id.value, offer.framework_id.value, offer.agent_id.value = f"O{number}", "F", f"A{number}"
        offer.allocation_info.role = "web"
    return event


def damaged(event: scheduler_pb2.Event, encoding: Encoding, *texts: bytes) -> bytes:
    """The event's record with each text replaced by as many bytes that are no UTF-8."""
    data = encode(event, encoding, explicit_defaults=True)
    for text in texts:
        assert text in data
        data = data.replace(text, b"\xff" * len(text))
    return frame(data)


def test_an_offer_that_cannot_be_read_is_declined_and_the_others_are_kept(encoding: Encoding) -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            await reader.connected()
            server.push(damaged(offers("one", "badbad", "two", "worse"), encoding, b"badbad", b"worse"))
            event = await reader.event(Event.OFFERS)
            assert [offer.hostname for offer in event.offers.offers] == ["one", "two"]
            server.push(damaged(offers("badbad"), encoding, b"badbad"))
            server.push(damaged(offers("last"), encoding))
            assert [it.hostname for it in (await reader.event(Event.OFFERS)).offers.offers] == ["last"]
            while len(server.calls(Call.DECLINE)) < 2:
                await asyncio.sleep(0.01)
            first, second = server.calls(Call.DECLINE)
            assert [it.value for it in first.decline.offer_ids] == ["O1", "O3"]
            assert [it.value for it in second.decline.offer_ids] == ["O0"]
            assert len(server.calls(Call.SUBSCRIBE)) == 1

    play(scenario, encoding)


def status(task_id: str, message: str) -> scheduler_pb2.Event:
    event = Event(type=Event.UPDATE)
    found = event.update.status
    found.task_id.value, found.agent_id.value, found.message = task_id, "A1", message
    found.state, found.uuid = mesos_pb2.TASK_FAILED, b"u" * 16
    return event


def test_what_a_task_says_is_heard_whatever_its_bytes_are(encoding: Encoding) -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            await reader.connected()
            server.push(damaged(status("task", "so bad"), encoding, b"bad"))
            heard = (await reader.event(Event.UPDATE)).update.status
            assert (heard.task_id.value, heard.message) == ("task", "so \ufffd\ufffd\ufffd")
            error = Event(type=Event.FAILURE)
            error.failure.executor_id.value = "evil"
            server.push(damaged(error, encoding, b"evil"))
            await reader.event(Event.FAILURE)
            assert len(server.calls(Call.SUBSCRIBE)) == 1

    play(scenario, encoding)


def test_an_update_of_a_task_whose_id_is_no_text_is_acknowledged_as_it_came() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            await reader.connected()
            server.push(damaged(status("evil", "said"), Encoding.PROTOBUF, b"evil"))
            server.push(damaged(status("good", "said"), Encoding.PROTOBUF))
            assert (await reader.event(Event.UPDATE)).update.status.task_id.value == "good"
            (said,) = [item.call for item in client.session._state.under_way]
            assert said.type == Call.ACKNOWLEDGE
            assert b"\xff\xff\xff\xff" in said.acknowledge.task_id.SerializeToString()

    play(scenario)
