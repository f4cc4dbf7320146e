"""What happened, for whoever watches: numbered events, the last of them kept.

A watcher that was away says the last number it saw and gets what came since, or hears that it is too late and
has to look at the whole again. One that does not keep up is dropped, loudly, instead of filling memory.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

KEPT = 2000
BACKLOG = 500


class BehindError(Exception):
    """The watcher missed events: it has to read the whole state and begin anew."""


@dataclass(frozen=True, slots=True)
class Happened:
    """One event; `kind` as in `instance.running`, `wall` in seconds of the epoch."""

    number: int
    wall: float
    kind: str
    app: str
    body: dict[str, Any]


@dataclass(slots=True)
class Journal:
    """Add with `add`, watch with `since`."""

    last: int = 0
    _kept: deque[Happened] = field(default_factory=lambda: deque(maxlen=KEPT))
    _watchers: "set[asyncio.Queue[Happened | None]]" = field(default_factory=set)

    def add(self, kind: str, app: str, wall: float, body: dict[str, Any]) -> None:
        """Something happened."""
        self.last += 1
        event = Happened(self.last, wall, kind, app, body)
        self._kept.append(event)
        for queue in list(self._watchers):
            if queue.full():
                self._watchers.discard(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    @property
    def watchers(self) -> int:
        """How many are told of everything."""
        return len(self._watchers)

    async def since(self, number: int | None) -> AsyncIterator[Happened]:
        """Events after `number` (None: from now on), for ever. Raises BehindError."""
        queue: asyncio.Queue[Happened | None] = asyncio.Queue(BACKLOG)
        missed = [] if number is None else [event for event in self._kept if event.number > number]
        if number is not None and (
            number > self.last or (number < self.last and (not missed or missed[0].number != number + 1))
        ):
            raise BehindError(f"event {number + 1} is not kept any more")
        self._watchers.add(queue)
        try:
            for event in missed:
                yield event
            while (event_or_end := await queue.get()) is not None:
                yield event_or_end
            raise BehindError("events came faster than they were read")
        finally:
            self._watchers.discard(queue)
