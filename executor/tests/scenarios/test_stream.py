"""Scenarios 15 to 23: what a stream of events can do to its reader."""

from __future__ import annotations

import itertools
import json
import time

from mesos.v1.executor import executor_pb2

from executor.protocol import Encoding, frame
from executor.tests.scenarios import processes
from executor.tests.scenarios.answers import Accept, Reset
from executor.tests.scenarios.events import error, heartbeat, kill, launch, message, task
from executor.tests.scenarios.http_wire import chunk
from executor.tests.scenarios.scene import Scene, scenario, together
from executor.tests.scenarios.scripted_agent import Call, ScriptedAgent

STAY = {"MESOKIT_STAY": "true"}


def _works(agent: ScriptedAgent, task_id: str) -> None:
    """The executor still takes and finishes a task."""
    agent.send(launch(task(task_id, "exit 0")))
    agent.wait_state(task_id, "FINISHED")


def _single_bytes(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


@scenario()
def test_15_one_byte_at_a_time(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    stream = agent.stream
    stream.segments(_single_bytes(chunk(stream.records([launch(task("segments", "exec sleep 600"))]))))
    agent.wait_state("segments", "RUNNING")
    stream.chunks(_single_bytes(stream.records([launch(task("chunks", "exit 0")), kill("segments")])))
    agent.wait_state("chunks", "FINISHED")
    agent.wait_state("segments", "KILLED")
    assert executor.wait_exit() == 0
    assert len(agent.streams) == 1


@scenario()
def test_16_many_records_in_a_chunk(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    stream = agent.stream
    names = [f"t{number}" for number in range(10)]
    stream.chunks([stream.records(launch(task(name, "exit 0")) for name in names)])
    split = [f"s{number}" for number in range(10)]
    # Every record has a length of three digits; each chunk ends after the first of the next one's.
    records = [stream.records([launch(task(name, "exit 0"))]) for name in split]
    assert all(record.index(b"\n") >= 2 for record in records)
    body = b"".join(records)
    cuts = [0]
    for record in records:
        cuts.append(cuts[-1] + len(record))
    edges = [0, *(cut + 1 for cut in cuts[1:-1]), len(body)]
    stream.chunks(body[start:end] for start, end in itertools.pairwise(edges))
    for name in names + split:
        agent.wait_state(name, "FINISHED")
    seen: list[str] = []
    for entry in agent.calls(Call.UPDATE):
        assert entry.call is not None
        name = entry.call.update.status.task_id.value
        if name not in seen:
            seen.append(name)
    assert seen == names + split
    assert executor.running


@scenario()
def test_17_large_records(scene: Scene) -> None:
    def large() -> None:
        stage = scene.another()
        agent = stage.agent()
        executor = stage.start(agent, STAY)
        _works(agent, "before")
        agent.send(launch(task("large", data=b'{"command": "exit 0"}' + b" " * (16 << 20))))
        agent.wait_state("large", "FINISHED")
        agent.send(message(bytes(range(256)) * (64 << 12)))
        _works(agent, "after")
        assert len(agent.streams) == 1
        # The largest record, decoded once, is all that may be held, and not for long.
        processes.wait_until(
            lambda: processes.memory(executor.pid) < 128 << 20,
            lambda: f"memory of {processes.memory(executor.pid)} goes down",
        )

    def limited() -> None:
        stage = scene.another()
        agent = stage.agent()
        executor = stage.start(agent, {**STAY, "MESOKIT_MAX_RECORD": "1MB"})
        agent.send(message(b"x" * (2 << 20)))
        agent.subscription(2)
        _works(agent, "after")
        assert executor.running

    together(large, limited)


@scenario()
def test_18_garbage_length(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", "exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    for number, garbage in enumerate((b"12x\nabcdef", b"-5\nabcde", b"1" * 30 + b"\n", b"\n", b" 3\nabc"), 1):
        agent.subscription(number).chunks([garbage])
        agent.subscription(number + 1)
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0


@scenario()
def test_19_events_to_ignore(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    stream = agent.stream
    if scene.encoding is Encoding.PROTOBUF:
        unknown = [b"\x08\x63", b"\xff\xff\xff", b"\x0a\x7f", b""]
    else:
        unknown = [
            b'{"type":"FROM_THE_FUTURE"}',
            b'{"type":',
            b"[]",
            b"\xff\xfe",
            json.dumps({"type": "KILL", "kill": {"task_id": {}}}).encode(),
            b"",
        ]
    for record in unknown:
        stream.chunks([frame(record)])
    stream.send(heartbeat(), error("relic"), executor_pb2.Event())
    bare = ("SUBSCRIBED", "LAUNCH", "LAUNCH_GROUP", "KILL", "ACKNOWLEDGED", "MESSAGE", "ERROR", "UNKNOWN")
    stream.send(*(executor_pb2.Event(type=name) for name in bare))
    _works(agent, "after")
    assert executor.wait_exit() == 0
    assert len(agent.streams) == 1


@scenario()
def test_20_end_inside_a_record(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    record = agent.stream.records([launch(task("half", "exit 0"))])
    agent.stream.cut_after(record[: len(record) // 2])
    agent.subscription(2).chunks([record[:2]])
    agent.streams[1].end()
    agent.subscription(3).segments([chunk(record)[:20]])
    agent.streams[2].reset()
    agent.subscription(4)
    _works(agent, "whole")
    assert executor.wait_exit() == 0
    assert agent.states("half") == []


@scenario()
def test_21_silence(scene: Scene) -> None:
    def silent() -> None:
        stage = scene.another()
        agent = stage.agent()
        stage.start(agent, {"MESOKIT_WATCHDOG": "700ms"})
        agent.subscription(2)
        _works(agent, "after")

    def beating() -> None:
        stage = scene.another()
        agent = stage.agent()
        stage.start(agent, {"MESOKIT_WATCHDOG": "2secs", "MESOKIT_HEARTBEAT_INTERVAL": "200ms"})
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            agent.send(heartbeat())
            time.sleep(0.05)
        assert len(agent.streams) == 1
        agent.wait(lambda: len(agent.calls(Call.HEARTBEAT)) >= 3, "heartbeat calls")

    together(silent, beating)


@scenario()
def test_22_call_connection_reset(scene: Scene) -> None:
    def lost(taken: bool) -> None:
        stage = scene.another()
        agent = stage.agent()
        executor = stage.start(agent)
        agent.answer(Call.UPDATE, Accept(), Reset(taken=taken))
        agent.send(launch(task("t", "exit 0")))
        agent.wait_state("t", "FINISHED")
        agent.wait_state("t", "RUNNING")
        assert executor.wait_exit() == 0
        (broken,) = [entry for entry in agent.calls(Call.UPDATE) if isinstance(entry.outcome, Reset)]
        assert broken.call is not None
        assert agent.ledger.deliveries[broken.call.update.status.uuid] >= (2 if taken else 1)

    together(lambda: lost(False), lambda: lost(True))


@scenario()
def test_23_subscribed_twice(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent)
    agent.send(launch(task("t", "echo started >>log; exec sleep 600")))
    agent.wait_state("t", "RUNNING")
    agent.send(agent.subscribed(), agent.subscribed())
    agent.send(launch(task("u", "exit 0")))
    agent.wait_state("u", "FINISHED")
    processes.wait_until(lambda: scene.text("log") == "started\n", "it ran once")
    assert len(executor.task_pids()) == 1
    assert agent.states("t") == ["STARTING", "RUNNING"]
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0
