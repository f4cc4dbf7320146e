"""Bytes in, messages out, and back: RecordIO framing and both encodings, for both ends. No I/O."""

from executor.codec.encoding import (
    DecodeError,
    Encoding,
    decode_call,
    decode_event,
    encode_call,
    encode_event,
)
from executor.codec.recordio import DEFAULT_MAX_RECORD, FramingError, RecordIODecoder, frame

__all__ = [
    "DEFAULT_MAX_RECORD",
    "DecodeError",
    "Encoding",
    "FramingError",
    "RecordIODecoder",
    "decode_call",
    "decode_event",
    "encode_call",
    "encode_event",
    "frame",
]
