"""The events of one subscription on their way to an executor: RecordIO in chunks that know nothing of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mesos.v1.executor import executor_pb2

from executor.protocol import Encoding, encode_event, frame

MAX_PENDING = 64 * 1024 * 1024
"""Bytes that may wait for an executor that does not read; then its stream is closed, as if it had gone."""


class EventStream:
    """A queue of events that is the body of the answer to SUBSCRIBE.

    All that waits when the connection is ready goes out as one chunk, however many records that is; with
    `chunk_size` (bytes) it is cut into pieces of that size instead, wherever that falls inside a record.
    """

    def __init__(self, encoding: Encoding, chunk_size: int | None = None) -> None:
        self.encoding = encoding
        self._chunk_size = chunk_size
        self._pending = bytearray()
        self._closed = False
        self._wake = asyncio.Event()

    def send(self, event: executor_pb2.Event) -> None:
        """Put an event on its way; a closed stream loses it, as an agent's dead pipe does."""
        if not self._closed:
            self._pending += frame(encode_event(event, self.encoding))
            self._wake.set()
            if len(self._pending) > MAX_PENDING:
                self.close()

    def close(self) -> None:
        """End the stream behind what was sent."""
        self._closed = True
        self._wake.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of the answer, until the stream is closed."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            data = bytes(self._pending)
            self._pending.clear()
            size = self._chunk_size or len(data)
            for start in range(0, len(data), size or 1):
                yield data[start : start + size]
            if self._closed and not self._pending:
                return
