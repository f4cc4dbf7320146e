"""What `mesokit web` sends as it happens: one watcher of the node for all pages, none while no page is open.

A stream of server-sent events (WHATWG HTML 9.2) begins with `all`, the document of `mesokit ls --json`, and
`past`, a list of events; then come `changes` (attachments that are new or other, and those that are gone),
`event` (as `mesokit events --json` writes one) and `trouble` (a sentence; "" when it is over). A page that
does not keep up is ended: it begins anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

from cni_plugins.cli.look import Place
from cni_plugins.spec.errors import CniError
from cni_plugins.view import events
from cni_plugins.view.events import Event, Watch
from cni_plugins.view.node import Node
from cni_plugins.view.plain import attachment, document

log = logging.getLogger("mesokit.web")

T = TypeVar("T")
Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str, str], Row]

MOST_STREAMS = 16
PAUSE = 0.5
"""Seconds between two looks; more where a look takes long, so that it is a tenth of a core at most."""
_SHARE = 10
_HEARTBEAT = 15.0
_QUEUE = 256


class Work(Protocol):
    """Does what blocks elsewhere, one thing after another."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


class TooManyError(Exception):
    """There are as many streams as there may be."""


@dataclass(slots=True)
class Live:
    """The streams of one node."""

    place: Place
    work: Work
    _queues: set[asyncio.Queue[bytes | None]] = field(default_factory=set)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _watch: Watch | None = None
    _task: asyncio.Task[None] | None = None
    _rows: Rows = field(default_factory=dict)
    _trouble: str = ""
    _open: int = 0

    def stream(self, since: float) -> AsyncGenerator[bytes, None]:
        """A stream whose past begins `since` seconds ago. TooManyError."""
        if self._open >= MOST_STREAMS:
            raise TooManyError
        return self._stream(since)

    async def _stream(self, since: float) -> AsyncGenerator[bytes, None]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(_QUEUE)
        self._open += 1
        try:
            async with self._lock:
                self._watch = self._watch or Watch(self.place.roots, self.place.host, tasks=True)
                found = await self._look(self._watch)
                rows = list(self._rows.values())
                told, hidden = await self.work(partial(_past, self.place, found, time.time() - since))
                self._queues.add(queue)
            yield message("all", listing(found, hidden, rows))
            yield message("past", [asdict(item) for item in told])
            if self._task is None:
                self._task = asyncio.create_task(self._run())
            while True:
                try:
                    data = await asyncio.wait_for(queue.get(), _HEARTBEAT)
                except TimeoutError:
                    data = b": still here\n\n"
                if data is None:
                    return
                yield data
        except CniError as error:
            yield message("trouble", str(error))
        finally:
            self._open -= 1
            self._queues.discard(queue)
            if not self._open:
                await self.close()

    async def close(self) -> None:
        """Stop looking."""
        task, self._task, self._watch = self._task, None, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            async with self._lock:
                if self._watch is None:
                    return
                try:
                    await self._look(self._watch)
                    trouble = ""
                except CniError as error:
                    trouble = str(error)
                except Exception as error:  # pages would show what was, as if it still were
                    log.exception("cannot look")
                    trouble = f"the node cannot be looked at: {type(error).__name__}: {error}"
                if trouble != self._trouble:
                    self._trouble = trouble
                    self._publish("trouble", trouble)
            await asyncio.sleep(max(PAUSE, (time.monotonic() - began) * _SHARE))

    async def _look(self, watch: Watch) -> Node:
        """Look, and tell all streams what is different."""
        found, happened, rows = await self.work(partial(_seen, watch))
        changed = [row for key, row in rows.items() if self._rows.get(key) != row]
        gone = [list(key) for key in self._rows.keys() - rows.keys()]
        self._rows = rows
        if changed or gone:
            self._publish("changes", {"items": changed, "gone": gone})
        for event in happened:
            self._publish("event", asdict(event))
        return found

    def _publish(self, kind: str, body: Any) -> None:
        if not self._queues:
            return
        data = message(kind, body)
        for queue in list(self._queues):
            if queue.full():
                self._queues.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(data)


def message(kind: str, body: Any) -> bytes:
    """One server-sent event. JSON has no line breaks, so a body is one line."""
    return f"event: {kind}\ndata: {json.dumps(body)}\n\n".encode()


def listing(found: Node, hidden: tuple[str, ...] = (), rows: Sequence[Row] | None = None) -> dict[str, Any]:
    """The document of `mesokit ls --json`, with the node's name, and sentences of what this user may
    not see. `rows` are the items, where they are made already.
    """
    items = [attachment(found, item) for item in found.attachments] if rows is None else list(rows)
    more = {"node": socket.gethostname(), "hidden": [*found.seen.hidden, *hidden]}
    return {**document("attachments", (), **more), "items": items}


def _seen(watch: Watch) -> tuple[Node, list[Event], Rows]:
    found, happened = watch.look()
    rows = {
        (item.network, item.container_id, item.ifname): attachment(found, item) for item in found.attachments
    }
    return found, happened, rows


def _past(place: Place, found: Node, start: float) -> tuple[list[Event], tuple[str, ...]]:
    try:
        return events.past(found, place.roots, start), ()
    except PermissionError:
        told = [*events.attached(found, start), *events.differing(found, start)]
        return told, (events.FAILURES_HIDDEN,)
