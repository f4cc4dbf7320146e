"""A Mesos agent's executor endpoint that does what a scenario tells it, down to the byte.

One thread accepts, one more serves each connection; the test thread writes to event streams and waits for
calls. Everything that happened is in `log`, in order; every wait is a condition on it. An agent may be
stopped and started again at the same address any number of times: what it was told (`ledger`) stays, its
connections go.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable

from mesos.v1 import mesos_pb2
from mesos.v1.executor import executor_pb2

from executor.protocol import Encoding
from executor.tests.scenarios import acknowledgements, events
from executor.tests.scenarios.addresses import PORT, Tcp, Unix, listen
from executor.tests.scenarios.answers import Accept, Answer, Close, Endless, Refuse, Reset, Silence
from executor.tests.scenarios.call_rules import Identity, RefusedError, check
from executor.tests.scenarios.connection import LINGER_RESET, Connection, Entry
from executor.tests.scenarios.event_stream import EventStream
from executor.tests.scenarios.http_wire import ConnectionEndedError, Reader, Request, response, stream_head
from executor.tests.scenarios.ledger import Ledger

PATIENCE = 60.0
"""Seconds after which a condition that did not come true is a failure."""

LAST_WORDS = 2.0
"""Seconds that a wait goes on when the executor has ended: what it sent may still be on its way."""

Call = executor_pb2.Call


class ScriptedAgent:
    """See the module. A scenario sets, besides the queues of `answer`:

    * `acks`, the policy of acknowledgements;
    * `always`, the answer to every call of a type whose queue is empty;
    * `supersede`: whether a new subscription ends the older one, as an agent does;
    * `decide`: a function of the call that answers, or says None, before the queues are asked;
    * `on_subscribe`, called with each accepted SUBSCRIBE and its stream before anything is sent there;
    * `alive`: whether an executor is there to wait for;
    * `dead`: every connection is reset as soon as it is made. An agent that is down, with attempts to count.
    """

    def __init__(
        self,
        encoding: Encoding,
        where: Tcp | Unix,
        *,
        identity: Identity,
        framework: mesos_pb2.FrameworkInfo,
        executor: mesos_pb2.ExecutorInfo,
    ) -> None:
        self.encoding = encoding
        self.where = where
        self.identity = identity
        self.framework = framework
        self.executor = executor
        self.acks: acknowledgements.AckPolicy = acknowledgements.at_once
        self.always: dict[int, Answer] = {}
        self.supersede = True
        self.dead = False
        self.decide: Callable[[executor_pb2.Call], Answer | None] | None = None
        self.alive: Callable[[], bool] = lambda: True
        self.on_subscribe: Callable[[Entry, EventStream], None] | None = None
        self.log: list[Entry] = []
        self.streams: list[EventStream] = []
        self.attempts: collections.Counter[bytes] = collections.Counter()
        self.ledger = Ledger()
        self.violations: list[str] = []
        self.connected_at: list[float] = []
        self._answers: dict[int, collections.deque[Answer]] = collections.defaultdict(collections.deque)
        self._changed = threading.Condition()
        self._listener: socket.socket | None = None
        self._connections: dict[int, Connection] = {}
        self._counter = 0
        self._subscribed_here = False
        self.start()

    # Life and death

    def start(self) -> None:
        """Listen, at the same address as ever; a Unix socket gets a new inode."""
        self._subscribed_here = False
        listener = listen(self.where)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="accept", daemon=True).start()

    def stop(self, *, reset: bool = False) -> None:
        """No longer listen, and end every connection (with RST if asked): the agent process died."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            if isinstance(self.where, Unix):
                self.where.path.unlink(missing_ok=True)
        for connection in list(self._connections.values()):
            connection.end(reset)

    def play_dead(self) -> None:
        """End every connection, and reset each new one until `dead` is false again."""
        self.dead = True
        self._subscribed_here = False
        for connection in list(self._connections.values()):
            connection.end(reset=True)

    def restart(self, *, reset: bool = False) -> None:
        self.stop(reset=reset)
        self.start()

    # Script

    def answer(self, call_type: int, *answers: Answer) -> None:
        """Queue answers to the next calls of a type; when they are used up, `always` or Accept applies."""
        with self._changed:
            self._answers[call_type].extend(answers)

    # Questions and waits

    def wait(
        self, condition: Callable[[], bool], what: str | Callable[[], str], patience: float = PATIENCE
    ) -> None:
        """Until `condition()`; it is asked again after every event here, and ten times a second."""
        deadline = time.monotonic() + patience
        with self._changed:
            while not condition():
                if not self.alive():
                    deadline = min(deadline, time.monotonic() + LAST_WORDS)
                left = deadline - time.monotonic()
                if left <= 0:
                    text = what if isinstance(what, str) else what()
                    raise AssertionError(f"not in {patience:.0f} s: {text}")
                self._changed.wait(min(left, 0.1))

    def subscription(self, number: int = 1) -> EventStream:
        """The event stream of the `number`th accepted SUBSCRIBE, when it has come."""
        self.wait(lambda: len(self.streams) >= number, f"subscription {number}")
        return self.streams[number - 1]

    @property
    def stream(self) -> EventStream:
        """The current event stream; waits for the first."""
        self.subscription()
        return self.streams[-1]

    def send(self, *sent: executor_pb2.Event) -> None:
        self.stream.send(*sent)

    def calls(self, call_type: int, taken: bool = False) -> list[Entry]:
        """Entries of a type; with `taken`, only those that were accepted."""
        with self._changed:
            return [
                entry
                for entry in self.log
                if entry.call is not None
                and entry.call.type == call_type
                and (not taken or isinstance(entry.outcome, Accept))
            ]

    def subscribes(self) -> list[Entry]:
        return self.calls(Call.SUBSCRIBE)

    def statuses(self, task_id: str) -> list[mesos_pb2.TaskStatus]:
        with self._changed:
            return sorted(self.ledger.updates.get(task_id, []), key=lambda status: status.timestamp)

    def states(self, task_id: str) -> list[str]:
        with self._changed:
            return self.ledger.states(task_id)

    def wait_state(self, task_id: str, state: str, patience: float = PATIENCE) -> mesos_pb2.TaskStatus:
        """The first status of the task in `state` ("RUNNING"), when it has come."""
        number = mesos_pb2.TaskState.Value(f"TASK_{state}")

        def found() -> bool:
            return any(status.state == number for status in self.ledger.updates.get(task_id, []))

        self.wait(
            found, lambda: f"{task_id[:40]} in state {state}; seen: {self.ledger.states(task_id)}", patience
        )
        return next(status for status in self.statuses(task_id) if status.state == number)

    def wait_final(self, task_id: str, patience: float = PATIENCE) -> mesos_pb2.TaskStatus:
        """The task's terminal status, when it has come."""
        self.wait(
            lambda: self.ledger.final(task_id) is not None,
            lambda: f"terminal update of {task_id[:40]}; seen: {self.ledger.states(task_id)}",
            patience,
        )
        final = self.ledger.final(task_id)
        assert final is not None
        return final

    def transcript(self, last: int = 60) -> str:
        with self._changed:
            lines = [str(entry) for entry in self.log]
        return "\n".join(lines[-last:])

    # Service

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with self._changed:
                if self._listener is not listener:
                    peer.close()
                    return
                self._counter += 1
                number = self._counter
                self.connected_at.append(time.monotonic())
                self._changed.notify_all()
            if self.dead:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
                peer.close()
                continue
            threading.Thread(
                target=self._serve, args=(number, peer), name=f"connection {number}", daemon=True
            ).start()

    def _serve(self, number: int, peer: socket.socket) -> None:
        if isinstance(self.where, Tcp):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.where.tls is not None:
                try:
                    peer.settimeout(PATIENCE)
                    peer = self.where.tls.wrap_socket(peer, server_side=True)
                    peer.settimeout(None)
                except (OSError, ssl.SSLError):
                    peer.close()
                    return
        connection = Connection(number, peer, Reader(peer))
        with self._changed:
            self._connections[number] = connection
            gone = self._listener is None
        try:
            while not gone:
                self._exchange(connection, connection.reader.request())
        except (ConnectionEndedError, OSError):
            pass
        finally:
            if connection.reset:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            peer.close()
            connection.reader.close()
            with self._changed:
                self._connections.pop(number, None)
                connection.over.set()
                self._changed.notify_all()

    def _exchange(self, connection: Connection, request: Request) -> None:
        call: executor_pb2.Call | None = None
        try:
            call = check(request, self.identity, self.encoding)
            if call.type == Call.UPDATE:
                self.attempts[call.update.status.uuid] += 1
            outcome = self._next_answer(call)
        except RefusedError as refused:
            outcome = Refuse(refused.status, refused.text)
            with self._changed:
                self.violations.append(f"{refused.status}: {refused.text}")
        entry = Entry(time.monotonic(), connection.number, request, call, outcome)
        if call is not None and call.type == Call.SUBSCRIBE and isinstance(outcome, Accept):
            self._open_stream(connection, entry, call, outcome)
        if call is not None and call.type == Call.UPDATE and _took(outcome):
            self._take_update(connection, entry, call.update.status)
            return
        self._note(entry)
        self._answer(connection, outcome)

    def _next_answer(self, call: executor_pb2.Call) -> Answer:
        decided = self.decide(call) if self.decide is not None else None
        if decided is not None:
            return decided
        with self._changed:
            queue = self._answers[call.type]
            if queue:
                return queue.popleft()
            if call.type in self.always:
                return self.always[call.type]
            if call.type not in (Call.SUBSCRIBE, Call.HEARTBEAT) and not self._subscribed_here:
                return Refuse(403, "Executor is not subscribed")
        return Accept()

    def _answer(self, connection: Connection, outcome: Answer) -> None:
        match outcome:
            case Accept(raw=raw, hang_up=hang_up):
                connection.send(raw or response(202), singly=bool(raw))
                if hang_up:
                    raise ConnectionEndedError
            case Refuse(status, body, headers):
                connection.peer.sendall(response(status, body.encode(), dict(headers)))
            case Reset():
                connection.reset = True
                raise ConnectionEndedError
            case Close():
                raise ConnectionEndedError
            case Silence():
                connection.reader.until_woken()
            case Endless(first, again, pause):
                connection.send_without_end(first, again, pause)

    def _note(self, entry: Entry) -> None:
        with self._changed:
            self.log.append(entry)
            self._changed.notify_all()

    def _open_stream(
        self, connection: Connection, entry: Entry, call: executor_pb2.Call, accepted: Accept
    ) -> None:
        """Adopt the connection as the event stream; returns (by ConnectionEndedError) when that ends."""
        older = [stream for stream in self.streams if not stream.left.is_set()] if self.supersede else []
        head = accepted.raw or stream_head(self.encoding.content_type)
        connection.send(head, singly=bool(accepted.raw))
        stream = EventStream(
            len(self.streams) + 1, connection.number, connection.peer, self.encoding, connection.end
        )
        with self._changed:
            if self.on_subscribe is not None:
                self.on_subscribe(entry, stream)
            if not accepted.quiet:
                stream.send(self.subscribed())
            self._subscribed_here = True
            self.log.append(entry)
            self.streams.append(stream)
            for update in call.subscribe.unacknowledged_updates:
                self.ledger.add(update.status)
            self._changed.notify_all()
        for one in older:
            one.cut()
        for update in call.subscribe.unacknowledged_updates:
            self._acknowledge(update.status, self.acks(update.status))
        try:
            if isinstance(connection.peer, ssl.SSLSocket):
                connection.reader.until_woken()
            connection.reader.until_end()
        finally:
            stream.left.set()

    def subscribed(self) -> executor_pb2.Event:
        """The SUBSCRIBED event of this agent."""
        event = executor_pb2.Event(type=executor_pb2.Event.SUBSCRIBED)
        event.subscribed.executor_info.CopyFrom(self.executor)
        event.subscribed.framework_info.CopyFrom(self.framework)
        event.subscribed.agent_info.hostname = "agent.example"
        event.subscribed.agent_info.port = PORT
        event.subscribed.agent_info.id.value = self.identity.agent_id
        event.subscribed.container_id.value = "1c9a5f0e-6e0b-4f0c-8f43-1f2b6e1c0d11"
        return event

    def _take_update(self, connection: Connection, entry: Entry, status: mesos_pb2.TaskStatus) -> None:
        with self._changed:
            self.ledger.add(status)
            self.log.append(entry)
            self._changed.notify_all()
        wanted = self.acks(status)
        if wanted.before_response:
            self._acknowledge(status, wanted)
            self._answer(connection, entry.outcome)
        else:
            self._answer(connection, entry.outcome)
            self._acknowledge(status, wanted)

    def _acknowledge(self, status: mesos_pb2.TaskStatus, wanted: acknowledgements.Acknowledge) -> None:
        task_id = status.task_id.value

        def send() -> None:
            for uuid in wanted.uuids:
                if self.streams:
                    self.streams[-1].send(events.acknowledged(task_id, uuid))

        if not wanted.uuids:
            return
        if wanted.delay:
            timer = threading.Timer(wanted.delay, send)
            timer.daemon = True
            timer.start()
        else:
            send()


def _took(outcome: Answer) -> bool:
    return isinstance(outcome, Accept) or (isinstance(outcome, (Reset, Close, Endless)) and outcome.taken)
