"""RecordIO, the framing of every Mesos event stream.

A record is its length in ASCII decimal digits, a newline, and exactly that many bytes. Records know nothing
of HTTP chunks or TCP segments: a feed may end anywhere, inside the digits too. A decoder that meets a bad
length cannot find the next record any more, so it stays failed and its stream must be dropped.
"""

DEFAULT_MAX_RECORD = 256 * 1024 * 1024
"""Bytes. The protocol has no limit; a length beyond this is taken for garbage rather than allocated."""

MAX_LENGTH_DIGITS = 20
"""Decimal digits of the largest 64-bit length."""

_DIGITS = frozenset(b"0123456789")


class FramingError(ValueError):
    """The stream is no RecordIO from here on. `records` came whole before that point, in the same feed."""

    def __init__(self, why: str, records: list[bytes]) -> None:
        super().__init__(why)
        self.records = records


def frame(record: bytes) -> bytes:
    """One record as it travels."""
    return b"%d\n%s" % (len(record), record)


class RecordIODecoder:
    """Cuts a stream into records. `max_record` is the largest record accepted, in bytes."""

    def __init__(self, max_record: int = DEFAULT_MAX_RECORD) -> None:
        self._max_record = max_record
        self._buffer = bytearray()
        self._wanted: int | None = None
        self._failure: str | None = None

    @property
    def inside_record(self) -> bool:
        """Whether a stream that ended now would have ended in the middle of a record."""
        return self._wanted is not None or bool(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """The records completed by `data`, in order. Raises FramingError, then and at every later call."""
        if self._failure is not None:
            raise FramingError(self._failure, [])
        self._buffer += data
        records: list[bytes] = []
        while True:
            if self._wanted is None:
                self._wanted = self._take_length()
                if self._failure is not None:
                    self._buffer.clear()
                    raise FramingError(self._failure, records)
                if self._wanted is None:
                    return records
            if len(self._buffer) < self._wanted:
                return records
            records.append(bytes(memoryview(self._buffer)[: self._wanted]))
            del self._buffer[: self._wanted]
            self._wanted = None

    def _take_length(self) -> int | None:
        """The length at the head of the buffer; None when it is not all there yet, or bad (`_failure`)."""
        end = self._buffer.find(b"\n", 0, MAX_LENGTH_DIGITS + 1)
        head = bytes(self._buffer[: MAX_LENGTH_DIGITS + 1] if end < 0 else self._buffer[:end])
        if not _DIGITS.issuperset(head):
            self._failure = f"record length {head!r} is not a decimal number"
        elif len(head) > MAX_LENGTH_DIGITS:
            self._failure = f"record length {head!r} has more than {MAX_LENGTH_DIGITS} digits"
        elif end == 0:
            self._failure = "a record has no length"
        elif end > 0 and int(head) > self._max_record:
            self._failure = f"a record of {int(head)} bytes is larger than the {self._max_record} accepted"
        elif end > 0:
            del self._buffer[: end + 1]
            return int(head)
        return None
