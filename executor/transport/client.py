"""The link of an executor with its agent: a stream connection and a call connection, as the API wants
them."""

from collections.abc import Callable

from executor.transport.calls import Calls
from executor.transport.reports import Report
from executor.transport.stream import Stream
from executor.transport.target import Target


class Link:
    """Used by the owner thread. `report` is called from the link's threads and must only hand on."""

    def __init__(self, target: Target, report: Callable[[Report], None]) -> None:
        self._target = target
        self._report = report
        self._stream: Stream | None = None
        self._calls: Calls | None = None

    def subscribe(self, attempt: int, body: bytes) -> None:
        """Open the stream of a new attempt; what belongs to an older one is dropped."""
        self.drop()
        self._stream = Stream(self._target, attempt, body, self._report)
        if self._calls is not None:
            self._calls.begin(attempt)

    def send(self, attempt: int, uuid: bytes | None, body: bytes) -> None:
        """Post a call of the current attempt, after those before it."""
        if self._calls is None:
            self._calls = Calls(self._target, self._report)
            self._calls.begin(attempt)
        self._calls.send(attempt, uuid, body)

    def drop(self) -> None:
        """Close the current attempt's connections; calls that wait are forgotten."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._calls is not None:
            self._calls.begin(0)

    def close(self) -> None:
        """Close everything and let the threads end."""
        self.drop()
        if self._calls is not None:
            self._calls.close()
            self._calls = None
