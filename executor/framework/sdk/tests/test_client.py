"""The client against the fake master: bytes on the wire, both encodings."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master.agent import FakeAgent
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.options import Options
from executor.framework.fake_master.server import FakeMasterServer, Fault, serve
from executor.framework.sdk import calls
from executor.framework.sdk.client import Client, Notice, Settings
from executor.framework.sdk.credentials import basic
from executor.framework.sdk.session_events import (
    Connected,
    Deliver,
    Disconnected,
    Failed,
    Fate,
    Superseded,
)
from executor.protocol.encoding import Encoding, encode
from executor.protocol.recordio import frame

Call = scheduler_pb2.Call
Event = scheduler_pb2.Event

QUICK = Options(heartbeat=0.2, allocation=0.05, retry=0.2, longest_retry=1.0)


def framework(**fields: object) -> mesos_pb2.FrameworkInfo:
    info = mesos_pb2.FrameworkInfo(user="root", name="test", roles=["web"], checkpoint=True, **fields)  # type: ignore[arg-type]
    for kind in ("MULTI_ROLE", "PARTITION_AWARE", "RESERVATION_REFINEMENT"):
        info.capabilities.add(type=mesos_pb2.FrameworkInfo.Capability.Type.Value(kind))
    info.failover_timeout = 60
    return info


def agent(number: int = 1, cpus: float = 4.0) -> FakeAgent:
    info = mesos_pb2.AgentInfo(hostname=f"host{number}")
    info.id.value = f"A{number}"
    for name, value in (("cpus", cpus), ("mem", 1024.0), ("disk", 1024.0)):
        info.resources.add(name=name, type=mesos_pb2.Value.SCALAR).scalar.value = value
    ports = info.resources.add(name="ports", type=mesos_pb2.Value.RANGES)
    ports.ranges.range.add(begin=31000, end=31099)
    return FakeAgent(info, QUICK)


class Reader:
    """Takes notices of a client until one is what a test waits for."""

    def __init__(self, client: Client) -> None:
        self._notices = aiter(client)
        self.seen: list[Notice] = []

    async def until(self, wanted: Callable[[Notice], bool], seconds: float = 20.0) -> Notice:
        async with asyncio.timeout(seconds):
            async for notice in self._notices:
                self.seen.append(notice)
                if wanted(notice):
                    return notice
        raise AssertionError(self.seen)

    async def event(self, kind: Event.Type) -> Event:
        notice = await self.until(lambda it: isinstance(it, Deliver) and it.event.type == kind)
        assert isinstance(notice, Deliver)
        return notice.event

    async def connected(self) -> Connected:
        notice = await self.until(lambda it: isinstance(it, Connected))
        assert isinstance(notice, Connected)
        return notice


Scenario = Callable[[FakeMasterServer, Settings], Awaitable[None]]


def play(scenario: Scenario, encoding: Encoding = Encoding.PROTOBUF, options: Options = QUICK) -> None:
    async def run() -> None:
        async with serve(Master(options)) as server:
            await scenario(server, Settings((server.address,), encoding, longest_delay=0.2))

    asyncio.run(run())


@pytest.fixture(params=list(Encoding), ids=lambda it: it.value)
def encoding(request: pytest.FixtureRequest) -> Encoding:
    found: Encoding = request.param
    return found


def task_of(offer: Event, name: str) -> mesos_pb2.TaskInfo:
    first = offer.offers.offers[0]
    task = mesos_pb2.TaskInfo(name=name)
    task.task_id.value = name
    task.agent_id.CopyFrom(first.agent_id)
    task.command.value = "sleep 1000"
    task.resources.add(name="cpus", type=mesos_pb2.Value.SCALAR).scalar.value = 0.5
    return task


def test_from_the_subscription_to_the_last_acknowledgement(encoding: Encoding) -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        server.master.register(agent(), server.now())
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            connected = await reader.connected()
            assert connected.first
            first = server.log[0]
            assert first.call.type == Call.SUBSCRIBE and not first.call.HasField("framework_id")
            assert first.fields["content-type"] == first.fields["accept"] == encoding.content_type
            assert "mesos-stream-id" not in first.fields
            offers = await reader.event(Event.OFFERS)
            offer = offers.offers.offers[0]
            accept = calls.accept([offer.id.value], [calls.launch([task_of(offers, "t1")])], 0.0)
            assert (await client.call(accept)).fate is Fate.TAKEN
            states: list[mesos_pb2.TaskState] = []
            while not states or states[-1] != mesos_pb2.TASK_RUNNING:
                status = (await reader.event(Event.UPDATE)).update.status
                states.append(status.state)
                assert len(status.uuid) == 16
                assert (await client.call(calls.acknowledge(status))).fate is Fate.TAKEN
            assert states == [mesos_pb2.TASK_STARTING, mesos_pb2.TASK_RUNNING]
            await client.call(calls.kill(calls.TaskRef("t1", "A1")))
            killed = (await reader.event(Event.UPDATE)).update.status
            assert killed.state == mesos_pb2.TASK_KILLED
            await client.call(calls.acknowledge(killed))
            assert not server.master.books.agents["A1"].agent.tasks
            streams = {item.fields.get("mesos-stream-id") for item in server.log[1:]}
            assert len(streams) == 1 and None not in streams
            assert len({item.connection for item in server.log[1:]}) == 1
            ids = {item.call.framework_id.value for item in server.log[1:]}
            assert ids == {connected.framework_id}

    play(scenario, encoding)


def test_records_cut_anywhere(encoding: Encoding) -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        server.cut = lambda data: [data[at : at + 1] for at in range(len(data))]
        server.master.register(agent(), server.now())
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            assert len((await reader.event(Event.OFFERS)).offers.offers) == 1

    play(scenario, encoding)


def test_what_is_no_event_is_counted_and_passed_over() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            await reader.connected()
            server.push(b"5\nhello")
            rescind = Event(type=Event.RESCIND)
            rescind.rescind.offer_id.value = "O"
            server.master.send(next(iter(server.master.books.frameworks)), rescind)
            await reader.event(Event.RESCIND)
            assert client.undecodable == 1
            assert len(server.calls(Call.SUBSCRIBE)) == 1

    play(scenario)


@pytest.mark.parametrize("garbage", [b"-5\n", b"x\n", b"9" * 30 + b"\n", b"\n", b"99999999999\n"])
def test_garbage_for_a_length_is_a_new_subscription_with_the_same_id(garbage: bytes) -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            first = await reader.connected()
            server.push(garbage)
            second = await reader.connected()
            assert second.framework_id == first.framework_id and not second.first
            again = server.calls(Call.SUBSCRIBE)[-1]
            assert again.framework_id.value == again.subscribe.framework_info.id.value == first.framework_id

    play(scenario)


def test_a_stream_that_ends_is_opened_anew_and_told_once() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            await reader.connected()
            server.break_streams()
            await reader.connected()
            assert sum(isinstance(notice, Disconnected) for notice in reader.seen) == 1

    play(scenario)


def test_silence_is_the_end_of_a_stream() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            await reader.connected()
            server.stalled = True
            await reader.until(lambda it: isinstance(it, Disconnected))
            server.stalled = False
            await reader.connected()

    play(scenario, options=Options(heartbeat=1.0, allocation=0.05))


def test_no_stream_id_is_no_subscription() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        server.without_stream_id = True
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            while len(server.calls(Call.SUBSCRIBE)) < 2:
                await asyncio.sleep(0.01)
            server.without_stream_id = False
            await reader.connected()

    play(scenario)


def test_a_standby_sends_on_to_the_leader() -> None:
    async def run() -> None:
        async with serve(Master(QUICK)) as standby, serve(Master(QUICK)) as leader:
            standby.master.leader = leader.address
            async with Client(framework(), Settings((standby.address,))) as client:
                connected = await Reader(client).connected()
                assert connected.master == leader.address
                assert (await client.call(calls.revive(["web"]))).fate is Fate.TAKEN
            assert not standby.log and len(leader.log) == 2

    asyncio.run(run())


def test_a_master_that_is_not_there_and_one_that_recovers() -> None:
    async def run() -> None:
        async with serve(Master(QUICK)) as server:
            server.faults.append(Fault(Call.SUBSCRIBE, times=3, status=503))
            settings = Settings(("127.0.0.1:1", server.address), longest_delay=0.2)
            async with Client(framework(), settings) as client:
                await Reader(client).connected()
            assert len(server.calls(Call.SUBSCRIBE)) == 4

    asyncio.run(run())


def test_a_superseded_instance_is_silent_until_it_is_told() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        async with Client(framework(), settings) as one:
            first = Reader(one)
            connected = await first.connected()
            info = framework()
            info.id.value = connected.framework_id
            async with Client(info, settings) as two:
                await Reader(two).connected()
                await first.until(lambda it: isinstance(it, Superseded))
                await asyncio.sleep(0.5)
                assert len(server.calls(Call.SUBSCRIBE)) == 2
                assert (await one.call(calls.revive(["web"]))).fate is Fate.NOT_SENT

    play(scenario)


def test_a_removed_framework_never_comes_back_by_itself() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        info = framework()
        info.id.value = "gone"
        server.master.books.completed["gone"] = None
        async with Client(info, settings) as client:
            failed = await Reader(client).until(lambda it: isinstance(it, Failed))
            assert failed == Failed("Framework has been removed")
            await asyncio.sleep(0.3)
            assert len(server.calls(Call.SUBSCRIBE)) == 1

    play(scenario)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_an_accept_that_was_lost_is_never_repeated_and_a_kill_is(done: bool) -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        server.faults += [
            Fault(Call.ACCEPT, reset=True, done=done),
            Fault(Call.KILL, reset=True, done=done),
        ]
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            await reader.connected()
            assert (await client.call(calls.accept(["O"], [], 0.0))).fate is Fate.UNKNOWN
            await reader.connected()
            assert (await client.call(calls.kill(calls.TaskRef("t", "A1")))).fate is Fate.TAKEN
            assert len(server.calls(Call.ACCEPT)) == 1
            assert len(server.calls(Call.KILL)) == 2

    play(scenario)


def test_calls_stay_in_order_behind_a_slow_answer() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        server.faults.append(Fault(Call.KILL, delay=0.3))
        async with Client(framework(), settings) as client:
            await Reader(client).connected()
            waiting = [client.post(calls.kill(calls.TaskRef(f"t{n}", "A1"))) for n in range(5)]
            await asyncio.gather(*waiting)
            assert [call.kill.task_id.value for call in server.calls(Call.KILL)] == [
                f"t{n}" for n in range(5)
            ]

    play(scenario)


def test_large_calls_are_compressed_where_that_is_asked_for() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        quick = Settings((server.address,), compress_above=1000)
        async with Client(framework(), quick) as client:
            await Reader(client).connected()
            many = calls.decline([f"offer-{number}" for number in range(500)], 5.0)
            assert (await client.call(many)).fate is Fate.TAKEN
            assert server.log[-1].fields["content-encoding"] == "gzip"
            assert len(server.log[-1].call.decline.offer_ids) == 500
            assert "content-encoding" not in server.log[0].fields

    play(scenario)


def test_a_wrong_secret_ends_it_and_is_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    options = Options(principal="me", secret=secret.read_text()[::-1].strip())

    async def scenario(server: FakeMasterServer, _settings: Settings) -> None:
        settings = Settings((server.address,), credentials=basic("me", secret), longest_delay=0.1)
        async with Client(framework(), settings) as client:
            failed = await Reader(client).until(lambda it: isinstance(it, Failed))
            assert "401" in str(failed) and "sesame" not in str(failed)

    play(scenario, options=options)
    assert "sesame" not in caplog.text


def test_a_renewed_secret_is_read_again(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("old\n")
    new = "new"
    options = Options(principal="me", secret=new)

    async def scenario(server: FakeMasterServer, _settings: Settings) -> None:
        settings = Settings((server.address,), credentials=basic("me", secret), longest_delay=0.5)
        async with Client(framework(principal="me"), settings) as client:
            await asyncio.sleep(0)
            secret.write_text(f"{new}\n")
            await Reader(client).connected()

    play(scenario, options=options)


def test_whoever_does_not_listen_holds_up_the_master_and_not_the_memory() -> None:
    async def scenario(server: FakeMasterServer, _settings: Settings) -> None:
        settings = Settings((server.address,), max_waiting=10)
        async with Client(framework(), settings) as client:
            while not server.master.books.frameworks:
                await asyncio.sleep(0.01)
            framework_id = next(iter(server.master.books.frameworks))
            event = Event(type=Event.MESSAGE)
            event.message.agent_id.value, event.message.executor_id.value = "A", "E"
            event.message.data = b"x" * 200_000
            for _ in range(200):
                server.master.send(framework_id, event)
            await asyncio.sleep(1.5)
            assert client.session.phase.value == "subscribed"
            reader = Reader(client)
            for _ in range(200):
                await reader.event(Event.MESSAGE)
            assert not any(isinstance(notice, Disconnected) for notice in reader.seen)

    play(scenario)


def test_a_record_of_32_mib_is_an_event_and_one_beyond_the_limit_is_not(
    encoding: Encoding,
) -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        limited = replace(settings, max_record=48 * 1024 * 1024)
        async with Client(framework(), limited) as client:
            reader = Reader(client)
            connected = await reader.connected()
            event = Event(type=Event.MESSAGE)
            event.message.agent_id.value, event.message.executor_id.value = "A1", "E1"
            event.message.data = bytes(32 * 1024 * 1024 // (1 if encoding is Encoding.PROTOBUF else 2))
            server.push(frame(encode(event, encoding, explicit_defaults=True)))
            found = await reader.event(Event.MESSAGE)
            assert len(found.message.data) == len(event.message.data)
            server.push(b"%d\n" % (limited.max_record + 1))
            lost = await reader.until(lambda it: isinstance(it, Disconnected))
            assert isinstance(lost, Disconnected) and str(limited.max_record) in lost.why.replace(",", "")
            assert (await reader.connected()).framework_id == connected.framework_id

    play(scenario, encoding)


def test_an_update_of_the_framework_is_answered_at_once() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        async with Client(framework(principal="us"), settings) as client:
            await Reader(client).connected()
            info = mesos_pb2.FrameworkInfo()
            info.CopyFrom(client.session.info)
            info.name = "renamed"
            outcome = await client.call(calls.update_framework(info, ["web"], None))
            assert (outcome.fate, outcome.status) == (Fate.TAKEN, 200)
            known = server.master.books.frameworks[info.id.value]
            assert known.info.name == "renamed" and known.suppressed == {"web"}
            info.principal = "them"
            outcome = await client.call(calls.update_framework(info, (), None))
            assert (outcome.fate, outcome.status) == (Fate.REFUSED, 400)
            assert outcome.text == (
                "FrameworkInfo update is not valid: Changing framework's principal is not allowed."
            )

    play(scenario)


def test_a_detector_that_names_a_standby_ends_on_the_leader_without_haste() -> None:
    """It says B, which knows of no leader at first and then sends on to A."""

    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        other = Master(QUICK)
        other.leader = None
        async with serve(other) as standby, Client(framework(), replace(settings, masters=())) as client:
            client.lead(standby.address)
            await asyncio.sleep(1.0)
            assert 2 <= standby.connections <= 50
            standby.master.leader = server.address
            connected = await Reader(client).connected()
            assert connected.master == server.address
            assert not standby.log and len(server.calls(Call.SUBSCRIBE)) == 1

    play(scenario)
