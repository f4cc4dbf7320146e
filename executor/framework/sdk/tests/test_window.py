"""Calls sent ahead of their answers, on the wire."""

import asyncio
from collections.abc import Awaitable, Callable

from executor.framework.fake_master.server import FakeMasterServer, Fault
from executor.framework.sdk import calls
from executor.framework.sdk.client import Client, Settings
from executor.framework.sdk.connection import dial
from executor.framework.sdk.session_events import Fate
from executor.framework.sdk.tests.test_client import Call, Reader, framework, play

ANSWER = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"


def test_calls_do_not_wait_for_each_others_answers_and_keep_their_order() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        server.faults.append(Fault(Call.REVIVE, delay=0.3, done=True))
        async with Client(framework(), settings) as client:
            await Reader(client).connected()
            first = client.post(calls.revive(["web"]))
            others = [client.post(calls.kill(calls.TaskRef(f"t{number}", "A"))) for number in range(100)]
            assert (await first).fate is Fate.TAKEN
            assert {(await other).fate for other in others} == {Fate.TAKEN}
            killed = [call.kill.task_id.value for call in server.calls(Call.KILL)]
            assert killed == [f"t{number}" for number in range(100)]
            assert len({item.connection for item in server.log[1:]}) == 1

    play(scenario)


def test_a_break_among_calls_leaves_the_accept_unknown_and_repeats_the_others() -> None:
    async def scenario(server: FakeMasterServer, settings: Settings) -> None:
        server.faults.append(Fault(Call.REVIVE, reset=True, delay=0.1))
        async with Client(framework(), settings) as client:
            reader = Reader(client)
            await reader.connected()
            said = [calls.revive(["web"]), calls.accept(["O"], [], 0.0), calls.suppress(["web"])]
            revived, accepted, suppressed = [client.post(call) for call in said]
            assert (await accepted).fate is Fate.UNKNOWN
            await reader.connected()
            assert (await revived).fate is (await suppressed).fate is Fate.TAKEN
            assert not server.calls(Call.ACCEPT)

    play(scenario)


Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def test_answers_that_come_in_one_piece_are_told_apart_and_a_close_is_heard() -> None:
    async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\n")
        closing = ANSWER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        writer.write(ANSWER + ANSWER.replace(b": 0\r\n\r\n", b": 2\r\n\r\nhi") + closing)
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(answering, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        async with server, await dial(f"{host}:{port}", None, 5.0) as connection:
            for _ in range(3):
                await connection.begin("POST", "/", [("Host", "x")])
            await asyncio.sleep(0.1)  # all of it is there, and the end of the stream
            found = []
            for _ in range(3):
                assert not connection.closes
                head, text = await connection.finish()
                found.append((head.status, text))
            assert found == [(202, ""), (202, "hi"), (202, "")]
            assert connection.closes and not connection.takes_more

    asyncio.run(scenario())
