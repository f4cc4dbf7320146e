"""The fake master on a socket: HTTP/1.1, streams of records, and faults to order.

    async with serve(Master(Options())) as server:
        server.master.register(FakeAgent(...), server.now())
        ... server.address ...

Faults are for the calls to come (`Fault`), or for what goes out: `cut` says how the stream's bytes fall into
chunks, `stalled` keeps them back. `log` is what was asked, in order, with the time and the number of its
connection.
"""

import asyncio
import socket
import ssl
import struct
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from mesos.v1.scheduler import scheduler_pb2

from executor.framework.fake_master import sandboxes
from executor.framework.fake_master.calls import carry_out
from executor.framework.fake_master.ladder import Refused, check
from executor.framework.fake_master.master import Master
from executor.framework.fake_master.state import Stream
from executor.http1 import Budget, HttpError, Request, Server
from executor.protocol.encoding import Encoding, encode
from executor.protocol.recordio import frame

Call = scheduler_pb2.Call
Event = scheduler_pb2.Event

_READ = 64 * 1024
JSON = "application/json"


@dataclass(slots=True)
class Fault:
    """For the next `times` calls of one type: `status` instead of an answer of ours; `delay` before it;
    `reset` without one, before (`done` False) or after the call was carried out.
    """

    type: Call.Type
    times: int = 1
    status: int = 0
    text: str = ""
    delay: float = 0.0
    reset: bool = False
    done: bool = False


@dataclass(frozen=True, slots=True)
class Logged:
    """One request that was a call."""

    time: float
    connection: int
    fields: Mapping[str, str]
    call: Call


@dataclass(slots=True)
class FakeMasterServer:
    """See the module. Made by `serve`."""

    master: Master
    address: str = ""
    faults: list[Fault] = field(default_factory=list)
    log: list[Logged] = field(default_factory=list)
    cut: Callable[[bytes], Sequence[bytes]] = lambda data: [data]
    stalled: bool = False
    without_stream_id: bool = False
    connections: int = 0
    """How many came."""
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _streams: "dict[str, asyncio.Queue[bytes | None]]" = field(default_factory=dict)

    def now(self) -> float:
        """The clock of everything here."""
        return asyncio.get_running_loop().time()

    def calls(self, kind: Call.Type) -> list[Call]:
        """The calls of one type, in order."""
        return [item.call for item in self.log if item.call.type == kind]

    def push(self, data: bytes) -> None:
        """Bytes onto every stream, as they are: no record around them."""
        for queue in self._streams.values():
            queue.put_nowait(data)

    def break_streams(self) -> None:
        """End every stream in the middle, as a master that dies does."""
        for queue in self._streams.values():
            queue.put_nowait(None)

    async def close_connections(self) -> None:
        """Drop every connection."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- connections

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection came."""
        self.connections += 1
        task = asyncio.ensure_future(self._serve(reader, writer, self.connections))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        http = Server(Budget(body=256 * 1024 * 1024))
        try:
            while http.open:
                asked = await _request(http, reader, writer)
                if asked is None:
                    break
                await self._answer(http, writer, *asked, number)
        except (OSError, HttpError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(
        self, http: Server, writer: asyncio.StreamWriter, request: Request, body: bytes, number: int
    ) -> None:
        agents = (
            sandboxes.answer(self.master, request.target, request.fields) if request.method == "GET" else None
        )
        if agents is not None:
            status, data = agents
            writer.write(http.answer(status, HTTPStatus(status).phrase, [("Content-Type", JSON)], data))
            await writer.drain()
            return
        try:
            checked = check(self.master, request.method, request.target, request.fields, body)
        except Refused as refused:
            await _reply(http, writer, refused.status, refused.text, refused.fields)
            return
        call = checked.call
        self.log.append(Logged(self.now(), number, request.fields, call))
        fault = next((item for item in self.faults if item.type == call.type and item.times > 0), None)
        if fault is not None:
            fault.times -= 1
            if fault.done and call.type != Call.SUBSCRIBE:
                carry_out(self.master, call, self.now())
            await asyncio.sleep(fault.delay)
            if fault.reset:
                _reset(writer)
                raise ConnectionResetError
            if fault.status:
                await _reply(http, writer, fault.status, fault.text)
                return
        if call.type == Call.SUBSCRIBE:
            await self._stream(http, writer, call, checked.encoding)
            return
        if fault is None or not fault.done:
            try:
                carry_out(self.master, call, self.now())
            except Refused as refused:
                await _reply(http, writer, refused.status, refused.text)
                return
        status = 200 if call.type == Call.UPDATE_FRAMEWORK else 202
        await _reply(http, writer, status, "")

    async def _stream(
        self, http: Server, writer: asyncio.StreamWriter, call: Call, encoding: Encoding
    ) -> None:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        stream = Stream(
            str(uuid.uuid4()),
            lambda event: queue.put_nowait(frame(encode(event, encoding, explicit_defaults=True))),
            lambda: queue.put_nowait(None),
        )
        self._streams[stream.id] = queue
        fields = [("Content-Type", encoding.content_type), ("Transfer-Encoding", "chunked")]
        if not self.without_stream_id:
            fields.append(("Mesos-Stream-Id", stream.id))
        try:
            writer.write(http.head(200, "OK", fields))
            self.master.subscribe(call, stream, self.now())
            while (data := await queue.get()) is not None:
                while self.stalled:
                    await asyncio.sleep(0.01)
                for piece in self.cut(data):
                    writer.write(http.body(piece))
                    await writer.drain()
                    if writer.transport.is_closing():
                        raise ConnectionResetError
        finally:
            del self._streams[stream.id]
            self.master.stream_closed(stream, self.now())
        raise ConnectionResetError

    async def run_clock(self, every: float) -> None:
        """Let time pass for the master."""
        while True:
            self.master.tick(self.now())
            await asyncio.sleep(every)


async def _request(
    http: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[Request, bytes] | None:
    """The next request, whole; None when the client has closed."""
    request: Request | None = None
    body = bytearray()
    while True:
        part = http.next()
        if part is None:
            if http.expects_continue:
                writer.write(http.proceed())
            http.receive(await reader.read(_READ))
        elif isinstance(part, Request):
            request = part
        elif part:
            body += part
        else:
            return (request, bytes(body)) if request is not None else None


async def _reply(
    http: Server,
    writer: asyncio.StreamWriter,
    status: int,
    text: str,
    fields: Sequence[tuple[str, str]] = (),
) -> None:
    writer.write(http.answer(status, HTTPStatus(status).phrase, fields, text.encode()))
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a process does that died with data unread."""
    connection: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def serve(
    master: Master,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    tick: float = 0.01,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[FakeMasterServer]:
    """A master that listens, until the block ends; over TLS alone where `tls` is given. Its own address is
    set to what it listens on.
    """
    found = FakeMasterServer(master)
    server = await asyncio.start_server(found.connected, host, port, ssl=tls)
    found.address = f"{host}:{server.sockets[0].getsockname()[1]}"
    if master.leader == master.address:
        master.leader = found.address
    master.address = found.address
    clock = asyncio.create_task(found.run_clock(tick))
    try:
        yield found
    finally:
        clock.cancel()
        server.close()
        await found.close_connections()
        await server.wait_closed()
        (ended,) = await asyncio.gather(clock, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended  # since then no time has passed for the master
