"""One connection to the scripted agent, and the calls that came over it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field

from mesos.v1.executor import executor_pb2

from executor.tests.scenarios.answers import Answer
from executor.tests.scenarios.http_wire import ConnectionEndedError, Reader, Request
from executor.tests.scenarios.ledger import state_name

LINGER_RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: a close sends RST."""

CLOSE_PATIENCE = 60.0
"""Seconds to wait for a connection's thread to close it."""

Call = executor_pb2.Call


@dataclass(frozen=True, slots=True)
class Entry:
    """One call as it arrived. `at`: monotonic seconds; `connection`: from 1; `outcome`: what was done."""

    at: float
    connection: int
    request: Request
    call: executor_pb2.Call | None
    outcome: Answer

    def __str__(self) -> str:
        call = self.call
        words = "?" if call is None else Call.Type.Name(call.type)
        if call is not None and call.type == Call.UPDATE:
            status = call.update.status
            words += f" {status.task_id.value[:40]} {state_name(status)} {status.message!r}"
        if call is not None and call.type == Call.SUBSCRIBE:
            tasks = [one.task_id.value[:40] for one in call.subscribe.unacknowledged_tasks]
            updates = [state_name(one.status) for one in call.subscribe.unacknowledged_updates]
            words += f" tasks={tasks[:5]} updates={updates[:9]}"
        return f"{self.at:.3f} connection {self.connection}: {words} -> {self.outcome}"


@dataclass(slots=True)
class Connection:
    """`reset`: close with RST; `over`: closed."""

    number: int
    peer: socket.socket
    reader: Reader
    reset: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    def end(self, reset: bool) -> None:
        """Ask the connection's thread to close, and wait until it has."""
        self.reset = self.reset or reset
        with contextlib.suppress(OSError):
            self.reader.wake()
        if threading.current_thread().name != f"connection {self.number}":
            self.over.wait(CLOSE_PATIENCE)

    def send(self, data: bytes, *, singly: bool) -> None:
        """Bytes to the peer, each in a segment of its own if `singly`. Raises OSError."""
        for piece in (data[i : i + 1] for i in range(len(data))) if singly else (data,):
            self.peer.sendall(piece)

    def send_without_end(self, first: bytes, again: bytes, pause: float) -> None:
        """`first`, then `again` for ever, as it is taken. Raises ConnectionEndedError when asked for the end,
        and OSError when the peer has gone.
        """
        self.peer.settimeout(0.1)
        data = first
        while not self.reader.woken(pause if not data else 0.0):
            data = data or again
            with contextlib.suppress(TimeoutError):
                data = data[self.peer.send(data) :]
        raise ConnectionEndedError
