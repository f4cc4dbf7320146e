"""HTTP in all the shapes that an agent, or what stands before it, may give its answers (RFC 9112)."""

from __future__ import annotations

from executor.tests.scenarios import acknowledgements, processes
from executor.tests.scenarios.answers import Accept, Refuse
from executor.tests.scenarios.events import kill, launch, task
from executor.tests.scenarios.http_wire import response, stream_head
from executor.tests.scenarios.scene import Scene, scenario
from executor.tests.scenarios.scripted_agent import Call

STAY = {"MESOKIT_STAY": "true"}


@scenario()
def test_answers_of_every_shape(scene: Scene) -> None:
    """One byte to a segment; no length, a chunked nothing, an interim answer, odd case and spaces."""
    agent = scene.agent()
    shapes = (
        response(202),
        b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\ntransfer-encoding:CHUNKED\r\n\r\n4;why=not\r\nbody\r\n000\r\nX: y\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\n" + response(202),
        b"HTTP/1.1 202 Accepted\r\nCONTENT-LENGTH:   3  \r\nDate: x\r\nX-Empty:\r\n\r\nabc",
        b"HTTP/1.1 202 \r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
    )
    agent.answer(Call.UPDATE, *(Accept(raw=shape) for shape in shapes))
    executor = scene.start(agent, STAY)
    for number in range(3):
        agent.send(launch(task(f"t{number}", "exit 0")))
        agent.wait_state(f"t{number}", "FINISHED")
    assert len(agent.streams) == 1
    assert max(agent.ledger.deliveries.values()) == 1
    assert executor.running


@scenario()
def test_connections_that_end_after_an_answer(scene: Scene) -> None:
    """Announced or not, after a length or by ending: the next call takes another connection."""
    agent = scene.agent()
    closing = b"HTTP/1.1 202 Accepted\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n"
    agent.answer(
        Call.UPDATE,
        Accept(raw=closing, hang_up=True),
        Accept(raw=b"HTTP/1.1 202 Accepted\r\n\r\nuntil the end", hang_up=True),
        Accept(raw=b"HTTP/1.0 202 Accepted\r\nContent-Length: 0\r\n\r\n", hang_up=True),
        *(Accept(raw=response(202), hang_up=True) for _ in range(9)),
    )
    scene.start(agent, STAY)
    for number in range(4):
        agent.send(launch(task(f"t{number}", "exit 0")))
        agent.wait_state(f"t{number}", "FINISHED")
        assert agent.states(f"t{number}") == ["STARTING", "RUNNING", "FINISHED"]


@scenario()
def test_stream_of_odd_shape(scene: Scene) -> None:
    """An interim answer, odd case, chunk extensions, sizes in capitals and with zeros, a trailer."""
    agent = scene.agent()
    head = stream_head(scene.encoding.content_type).replace(
        b"Transfer-Encoding: chunked", b"TRANSFER-encoding:Chunked"
    )
    agent.answer(Call.SUBSCRIBE, Accept(quiet=True, raw=b"HTTP/1.1 100 Continue\r\n\r\n" + head))
    executor = scene.start(agent)
    stream = agent.stream
    for event in (agent.subscribed(), launch(task("t", "exec sleep 600"))):
        record = stream.records([event])
        stream.segments(
            [b"000", f"{len(record):X}".encode(), b" ;ext=", b'"a b"\r', b"\n", record, b"\r", b"\n"]
        )
    agent.wait_state("t", "RUNNING")
    stream.segments([b"0\r\nX-Trailer: bye\r\n", b"\r\n"])
    agent.subscription(2)
    agent.send(kill("t"))
    agent.wait_state("t", "KILLED")
    assert executor.wait_exit() == 0


@scenario()
def test_answers_that_are_no_http(scene: Scene) -> None:
    """Nothing is lost to them: what was not answered is sent again."""
    agent = scene.agent()
    agent.acks = acknowledgements.at_once
    agent.answer(
        Call.SUBSCRIBE,
        Refuse(503),
        Accept(quiet=True, raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n", hang_up=True),
        Accept(quiet=True, raw=b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
        Accept(quiet=True, raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        Accept(quiet=True, raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz"),
        Accept(quiet=True, raw=b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n"),
    )
    agent.answer(
        Call.UPDATE, Accept(raw=b"\x16\x03\x01\x00\x00" * 20, hang_up=True), Accept(raw=b"HTTP/1.1 20")
    )
    executor = scene.start(agent)
    # An answer that the executor has dropped before it was written out is no subscription of the log.
    agent.wait(lambda: bool(agent.streams) and agent.log[-1].outcome == Accept(), "a sound subscription")
    agent.send(launch(task("t", "exit 0")))
    agent.wait_state("t", "FINISHED")
    assert agent.states("t") == ["STARTING", "RUNNING", "FINISHED"]
    assert executor.wait_exit() == 0


@scenario()
def test_a_header_without_end(scene: Scene) -> None:
    agent = scene.agent()
    executor = scene.start(agent, STAY)
    agent.send(launch(task("before", "exit 0")))
    agent.wait_state("before", "FINISHED")
    base = processes.memory(executor.pid)
    endless = Accept(quiet=True, raw=b"HTTP/1.1 200 OK\r\n")
    agent.answer(Call.SUBSCRIBE, endless)
    agent.restart()
    stream = agent.subscription(2)
    while stream.raw(b"X-More: " + b"x" * 60_000 + b"\r\n"):
        continue
    agent.subscription(3)
    assert processes.memory(executor.pid) < base + (4 << 20)
    agent.send(launch(task("after", "exit 0")))
    agent.wait_state("after", "FINISHED")


@scenario()
def test_a_long_refusal(scene: Scene) -> None:
    """The body of an error is logged in brief, whatever its size and bytes."""
    agent = scene.agent()
    agent.answer(Call.UPDATE, Accept(), Refuse(400, "because \N{SNOWMAN}\n" + "y" * 3_000_000))
    executor = scene.start(agent, {"MESOKIT_ACK_TIMEOUT": "2secs"})
    agent.send(launch(task("t", "sleep 0.5")))
    agent.wait_state("t", "FINISHED")
    executor.wait_exit()
    assert "because \N{SNOWMAN}" in executor.log
    assert len(executor.log) < 20_000
