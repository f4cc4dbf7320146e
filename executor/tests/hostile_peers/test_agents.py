"""Agents whose streams and answers never come to an end, in both encodings."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from functools import partial

from executor.protocol import frame
from executor.tests.hostile_peers.measured import (
    KILL_GRACE,
    VARIABLES,
    gone,
    kill_obeyed,
    measured,
    shutdown_obeyed,
    start_stubborn,
)
from executor.tests.scenarios import acknowledgements, processes
from executor.tests.scenarios.answers import Endless
from executor.tests.scenarios.events import heartbeat, kill, launch, task
from executor.tests.scenarios.http_wire import chunk
from executor.tests.scenarios.scene import Scene, scenario, together
from executor.tests.scenarios.scripted_agent import Call

QUICK = {"MESOKIT_SUBSCRIBE_TIMEOUT": "2secs"}
CHUNKED = b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n"

ANSWERS = {
    "100 Continue for ever": Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 9),
    "one byte a second": Endless(b"", b"H", 1.0),
    "one byte of a field a moment": Endless(b"HTTP/1.1 202 Accepted\r\nX: ", b"y", 0.05),
    "fields without end": Endless(b"HTTP/1.1 202 Accepted\r\n", b"X: y\r\n" * 99),
    "a body without end": Endless(b"HTTP/1.1 202 Accepted\r\n\r\n", b"x" * 999, taken=True),
    "chunks without end": Endless(CHUNKED, b"1\r\nx\r\n" * 99, taken=True),
    "a trailer without end": Endless(CHUNKED + b"0\r\n", b"X: y\r\n", taken=True),
    "a body of one byte a second": Endless(
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 9999\r\n\r\n", b"x", 1.0
    ),
}


@scenario()
def test_answers_to_updates_without_end(scene: Scene) -> None:
    """KILL and SHUTDOWN are obeyed while every UPDATE is answered so; where the agent then answers as it
    should, each update arrives.
    """

    def answered(what: str, answer: Endless) -> None:
        stage = scene.another()
        agent = stage.agent()
        agent.acks = acknowledgements.before_response
        executor = stage.start(agent, VARIABLES | QUICK | {"MESOKIT_ACK_TIMEOUT": "60secs"})
        start_stubborn(agent, executor, "kept")
        start_stubborn(agent, executor, "killed")
        for name in ("kept", "killed"):
            agent.wait_state(name, "RUNNING")
        agent.always[Call.UPDATE] = answer
        agent.send(launch(task("during", "exit 0")))
        processes.wait_until(lambda: agent.calls(Call.UPDATE)[-1].outcome == answer, "such an answer")
        kill_obeyed(agent, executor, "killed", what)
        del agent.always[Call.UPDATE]
        agent.wait_state("killed", "KILLED")
        agent.wait_state("during", "FINISHED")
        agent.always[Call.UPDATE] = answer
        shutdown_obeyed(executor, what, agent)

    together(*(partial(answered, what, answer) for what, answer in ANSWERS.items()))


@scenario()
def test_answers_to_subscribe_without_end(scene: Scene) -> None:
    """The stream is lost and SUBSCRIBE answered so: the executor leaves within its grace when told to, and
    subscribes when the agent answers as it should.
    """

    def answered(what: str, answer: Endless) -> None:
        stage = scene.another()
        agent = stage.agent()
        executor = stage.start(agent, VARIABLES | QUICK)
        start_stubborn(agent, executor, "t")
        agent.wait_state("t", "RUNNING")
        agent.always[Call.SUBSCRIBE] = answer
        agent.restart()
        agent.wait(lambda: len(agent.subscribes()) >= 3, "two such answers")
        del agent.always[Call.SUBSCRIBE]
        agent.subscription(2)
        kill_obeyed(agent, executor, "t", f"SUBSCRIBE answered by {what} before")
        start_stubborn(agent, executor, "u")
        agent.always[Call.SUBSCRIBE] = answer
        agent.restart()
        agent.wait(lambda: agent.subscribes()[-1].outcome == answer, "such an answer")
        shutdown_obeyed(executor, f"SUBSCRIBE answered by {what}")

    refusals = {
        f"{what}, 503": Endless(answer.first.replace(b"202 Accepted", b"503 No"), answer.again, answer.pause)
        for what, answer in itertools.islice(ANSWERS.items(), 3, 6)
    }
    heads = dict(itertools.islice(ANSWERS.items(), 4))
    together(*(partial(answered, what, answer) for what, answer in (heads | refusals).items()))


@scenario()
def test_a_flood_on_the_stream(scene: Scene) -> None:
    """Events faster than they can be read, forever: KILL among them is obeyed, SHUTDOWN beside them too."""
    agent = scene.agent()
    agent.acks = acknowledgements.at_once
    executor = scene.start(agent, VARIABLES)
    start_stubborn(agent, executor, "t")
    start_stubborn(agent, executor, "u")
    agent.wait_state("u", "RUNNING")
    stream = agent.stream
    flood = {
        "heartbeats": chunk(stream.records([heartbeat()] * 1000)),
        "heartbeats, one byte to a chunk": b"".join(
            chunk(bytes([byte])) for byte in stream.records([heartbeat()] * 20)
        ),
        "records of nothing": chunk(frame(b"") * 1000),
        "records that are no event": chunk(frame(b"\xff" * 50) * 100),
    }
    # What waits in the agent's own buffer is not the executor's doing.
    stream.bound_buffer(64 * 1024)
    base = processes.memory(executor.pid)
    over = threading.Event()
    between: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def pour() -> None:
        for data in itertools.cycle(flood.values()):
            for _ in range(20):
                if over.is_set() or not stream.raw(data):
                    return
                with contextlib.suppress(queue.Empty):
                    stream.raw(between.get_nowait())

    pouring = threading.Thread(target=pour, daemon=True)
    pouring.start()
    time.sleep(2.0)
    with measured("KILL, in a flood of events", KILL_GRACE, 20.0):
        between.put(chunk(stream.records([kill("t", KILL_GRACE)])))
        processes.wait_until(lambda: gone(executor, "t"), "t to be gone")
    assert processes.memory(executor.pid) < base + (64 << 20)
    shutdown_obeyed(executor, "in a flood of events")
    over.set()
    pouring.join(30)


@scenario()
def test_records_without_end(scene: Scene) -> None:
    """Records and chunks that are announced and never come to an end."""

    def announced(what: str, data: bytes) -> None:
        stage = scene.another()
        agent = stage.agent()
        executor = stage.start(agent, VARIABLES)
        start_stubborn(agent, executor, "t")
        agent.wait_state("t", "RUNNING")
        stream = agent.stream
        threading.Thread(
            target=lambda: stream.segments(itertools.chain([data], itertools.repeat(chunk(b"x"))), 0.5),
            daemon=True,
        ).start()
        time.sleep(1.0)
        shutdown_obeyed(executor, what)

    together(
        partial(announced, "a record of one byte a moment", chunk(b"100000\nx")),
        partial(announced, "a record of 200 MB of which nothing comes", chunk(b"200000000\n")),
        partial(announced, "a chunk of 2 GB of which nothing comes", b"7fffffff\r\n"),
    )
