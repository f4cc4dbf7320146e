"""A scheduler's connections: the session's actions carried out over asyncio.

    async with Client(info, settings) as client:
        async for notice in client:
            match notice:
                case Connected(framework_id): ...
                case Deliver(event): ...

One task reads the stream, one sends calls, a timer watches the clock; whoever iterates owns everything else.
Events that the owner has not taken yet are bounded by their number: beyond that the stream is not read,
which the master's socket feels, and the silence watch rests meanwhile.
"""

import asyncio
import gzip
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

from mesos.v1 import mesos_pb2
from mesos.v1.scheduler import scheduler_pb2

from executor.framework.sdk import session_events as told
from executor.framework.sdk.calls import Call
from executor.framework.sdk.connection import MAX_TEXT, Connection, dial
from executor.framework.sdk.credentials import CredentialError, Credentials
from executor.framework.sdk.damage import sound
from executor.framework.sdk.session import Session
from executor.framework.sdk.session_events import (
    CloseAll,
    Connected,
    Deliver,
    Disconnected,
    Failed,
    Fate,
    OpenStream,
    Outcome,
    RefreshCredential,
    SendCall,
    Superseded,
)
from executor.framework.sdk.session_state import Phase, Policy
from executor.framework.sdk.tls import Tls
from executor.protocol.encoding import DecodeError, Encoding, encode, missing_fields
from executor.protocol.recordio import DEFAULT_MAX_RECORD, FramingError, RecordIODecoder
from executor.protocol.repair import decode_repaired

log = logging.getLogger(__name__)

PATH = "/api/v1/scheduler"

Notice = Connected | Disconnected | Deliver | Superseded | Failed


@dataclass(frozen=True, slots=True)
class Settings:
    """`masters`: `host:port` each, tried in turn; none where a detector tells. Times in seconds.

    `compress_above`: bytes from which a call's body is sent gzipped, None for never (a master inflates
    requests since Mesos 1.2; it never compresses its stream). `window`: how many calls are under way at once;
    a master takes them in order.
    """

    masters: tuple[str, ...] = ()
    encoding: Encoding = Encoding.PROTOBUF
    credentials: Credentials = field(default_factory=Credentials)
    tls: Tls | None = None
    compress_above: int | None = None
    connect_timeout: float = 10.0
    open_timeout: float = 75.0
    call_timeout: float = 75.0
    longest_delay: float = 15.0
    max_record: int = DEFAULT_MAX_RECORD
    max_waiting: int = 1000
    window: int = 32


class Client:
    """See the module. `session` may be looked at; `suppressed` and `constraints` of it count from the next
    SUBSCRIBE.
    """

    def __init__(self, info: mesos_pb2.FrameworkInfo, settings: Settings) -> None:
        self._settings = settings
        self.session = Session(
            info,
            Policy(
                settings.masters,
                lambda high: random.uniform(0.0, high),
                longest_delay=settings.longest_delay,
                open_timeout=settings.open_timeout,
                call_timeout=settings.call_timeout,
                content_type=settings.encoding.content_type,
                window=settings.window,
            ),
        )
        self.undecodable = 0
        self._notices: deque[Notice] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._timer: asyncio.TimerHandle | None = None
        self._outcomes: dict[int, asyncio.Future[Outcome]] = {}
        self._tokens = 0
        self._to_send: deque[SendCall] = deque()
        self._sendable = asyncio.Event()
        self._calls: Connection | None = None
        self._sent: deque[int] = deque()
        self._answers: asyncio.Task[None] | None = None
        self._due = asyncio.Event()
        self._stream: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Client":
        self._tasks = [asyncio.create_task(self._send_calls())]
        self._feed(told.Start())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._feed(told.Stop())
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[Notice]:
        while True:
            while self._notices:
                notice = self._notices.popleft()
                if len(self._notices) < self._settings.max_waiting:
                    self._room.set()
                yield notice
            if self.session.phase in (Phase.CLOSED, Phase.FAILED):
                return
            self._news.clear()
            await self._news.wait()

    # ---- what the framework says

    def post(self, call: Call) -> "asyncio.Future[Outcome]":
        """Queue a call, in order behind those before it. The future tells what became of it; nobody has to
        wait. One that answers an event in which a field is missing lacks it too: it is refused here, as a
        master would.
        """
        self._tokens += 1
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if not call.IsInitialized():
            missing = missing_fields(call)
            name = Call.Type.Name(call.type)
            log.warning("%s is not said: it lacks %s", name, missing)
            future.set_result(Outcome(self._tokens, Fate.REFUSED, 0, f"it lacks {missing}"))
            return future
        self._outcomes[self._tokens] = future
        self._feed(told.Say(self._tokens, call))
        return future

    async def call(self, call: Call) -> Outcome:
        """Make a call and wait for what becomes of it."""
        return await self.post(call)

    def lead(self, address: str) -> None:
        """A detector's word on who leads: `host:port`, or "" for nobody."""
        self._feed(told.Leader(address))

    def resume(self) -> None:
        """Subscribe again after Superseded: leadership was looked at, and is ours."""
        self._feed(told.Start())

    # ---- the session's actions

    def _feed(self, given: told.Input) -> None:
        before = self.session.problem
        for action in self.session.handle(given, _now()):
            self._act(action)
        if self.session.problem not in ("", before):
            log.warning("not subscribed: %s", self.session.problem)
        self._arm()

    def _act(self, action: told.Action) -> None:
        match action:
            case OpenStream():
                self._close_stream()
                self._stream = asyncio.create_task(self._read_stream(action))
            case SendCall():
                self._to_send.append(action)
                self._sendable.set()
            case CloseAll():
                self._close_stream()
                self._to_send.clear()
                self._close_calls()
            case Outcome(token):
                future = self._outcomes.pop(token, None)
                if future is not None and not future.done():
                    future.set_result(action)
            case RefreshCredential():
                self._settings.credentials.refresh()
            case _:
                self._notices.append(action)
                if len(self._notices) >= self._settings.max_waiting:
                    self._room.clear()
                self._news.set()

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None and stream is not asyncio.current_task():
            stream.cancel()

    def _close_calls(self) -> None:
        """The calls' connection, and whatever was to be heard on it."""
        if self._calls is not None:
            self._calls.close()
            self._calls = None
        self._sent.clear()
        answers, self._answers = self._answers, None
        if answers is not None and answers is not asyncio.current_task():
            answers.cancel()

    # ---- tasks

    async def _read_stream(self, action: OpenStream) -> None:
        generation, settings = action.generation, self._settings
        try:
            async with await dial(action.master, settings.tls, settings.connect_timeout) as connection:
                head = await connection.request(*self._request(action.master, action.call, "", accept=True))
                if head.status != 200:
                    text = (await connection.body(MAX_TEXT)).decode("utf-8", "replace")
                    self._feed(
                        told.Opened(
                            generation, head.status, location=head.fields.get("location", ""), text=text
                        )
                    )
                    return
                self._feed(
                    told.Opened(
                        generation,
                        200,
                        head.fields.get("mesos-stream-id", ""),
                        "",
                        head.fields.get("content-type", ""),
                    )
                )
                await self._read_records(connection, generation)
            self._feed(told.Lost(generation, f"{action.master} ended the stream"))
        except FramingError as error:
            self._feed(told.Lost(generation, f"{action.master} sent no records: {error}"))
        except (OSError, CredentialError) as error:
            self._feed(told.Lost(generation, f"{action.master}: {error or type(error).__name__}"))

    async def _read_records(self, connection: Connection, generation: int) -> None:
        decoder = RecordIODecoder(self._settings.max_record)
        async for chunk in connection.chunks():
            self.session.heard(_now())
            try:
                records = decoder.feed(chunk)
            except FramingError as error:
                self._feed_records(error.records, generation)
                raise
            self._feed_records(records, generation)
            if not self._room.is_set():
                await self._room.wait()
                self.session.heard(_now())

    def _feed_records(self, records: Iterable[bytes], generation: int) -> None:
        for record in records:
            event: scheduler_pb2.Event | None
            answer: Call | None = None
            try:
                event, damaged = decode_repaired(record, scheduler_pb2.Event(), self._settings.encoding)
            except DecodeError as error:
                self.undecodable += 1
                event = None
                log.warning("an event of %d bytes cannot be read: %s", len(record), error)
            else:
                if damaged:
                    self.undecodable += 1
                    event, answer = sound(event, damaged, record, self._settings.encoding)
            self._feed(told.Received(generation, event))
            if answer is not None:
                self.post(answer)

    async def _send_calls(self) -> None:
        while True:
            await self._sendable.wait()
            self._sendable.clear()
            while self._to_send:
                await self._send(self._to_send.popleft())

    async def _send(self, action: SendCall) -> None:
        """Send a call behind those that are under way, over a new connection where there is none to use."""
        generation = self.session.generation
        if self._calls is not None and not self._sent and not self._calls.takes_more:
            self._close_calls()
        try:
            request = self._request(action.master, action.call, action.stream_id)
            connection = self._calls
            if connection is None:
                connection = await dial(action.master, self._settings.tls, self._settings.connect_timeout)
                if generation != self.session.generation:
                    connection.close()  # all was begun anew meanwhile
                    return
                self._calls = connection
                self._answers = asyncio.create_task(self._read_answers(connection))
        except (OSError, CredentialError) as error:
            if generation == self.session.generation:
                sent = bool(self._sent)
                token = self._sent[0] if sent else action.token
                self._lose(token, str(error) or type(error).__name__, sent=sent)
            return
        self._sent.append(action.token)
        self._due.set()
        with suppress(OSError):  # whoever reads the answers finds out
            await connection.begin(*request)

    async def _read_answers(self, connection: Connection) -> None:
        """Answers, in the order of the calls."""
        while True:
            while not self._sent:
                self._due.clear()
                await self._due.wait()
            try:
                head, text = await connection.finish()
            except OSError as error:
                self._lose(self._sent[0], str(error) or type(error).__name__, sent=True)
                return
            self._feed(told.Answered(self._sent.popleft(), head.status, text))
            if self._calls is not connection:
                return
            if self._sent and connection.closes:
                # A server that says it closes looks at nothing behind its answer (RFC 9112 9.6).
                self._lose(self._sent[0], "the connection was closed behind an answer", sent=False)
                return

    def _lose(self, token: int, why: str, *, sent: bool) -> None:
        """The oldest call under way has no answer; the session says what is sent again."""
        self._close_calls()
        self._to_send.clear()
        self._feed(told.CallLost(token, why, sent))

    def _request(
        self, master: str, call: Call, stream_id: str, *, accept: bool = False
    ) -> tuple[str, str, list[tuple[str, str]], bytes]:
        settings = self._settings
        body = encode(call, settings.encoding, explicit_defaults=False)
        headers = [("Host", master), ("Content-Type", settings.encoding.content_type)]
        if accept or call.type == Call.RECONCILE_OPERATIONS:
            headers.append(("Accept", settings.encoding.content_type))
        if stream_id:
            headers.append(("Mesos-Stream-Id", stream_id))
        headers.extend(settings.credentials.header())
        if settings.compress_above is not None and len(body) > settings.compress_above:
            body = gzip.compress(body, 1)
            headers.append(("Content-Encoding", "gzip"))
        return "POST", PATH, headers, body

    def _arm(self) -> None:
        """Look at the clock when the session wants to. What only moves its alarm on costs nothing: the timer
        that is set finds out.
        """
        alarm = self.session.alarm
        if alarm is None or (self._timer is not None and self._timer.when() <= alarm):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(alarm, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = _now()
        if not self._room.is_set():
            self.session.heard(now)  # it is us who do not listen
        alarm = self.session.alarm
        if alarm is not None and now >= alarm:
            self._feed(told.Tick())
        else:
            self._arm()


def _now() -> float:
    return asyncio.get_running_loop().time()


__all__ = ["PATH", "Client", "Fate", "Notice", "Settings"]
