"""What is said between an executor and its agent, without I/O: records, both encodings, and the subscription.

`recordio`, `encoding` and `mesos_json` serve both ends of the wire; `session` is the executor's side of the
subscription, `actions` what it asks for.
"""

from executor.protocol.actions import (
    Acknowledged,
    Action,
    Deliver,
    Drop,
    Send,
    Shutdown,
    Subscribe,
)
from executor.protocol.encoding import (
    DecodeError,
    Encoding,
    decode_call,
    decode_event,
    encode_call,
    encode_event,
)
from executor.protocol.recordio import DEFAULT_MAX_RECORD, FramingError, RecordIODecoder, frame
from executor.protocol.repair import decode_repaired
from executor.protocol.session import Session
from executor.protocol.session_input import Phase, Policy

__all__ = [
    "DEFAULT_MAX_RECORD",
    "Acknowledged",
    "Action",
    "DecodeError",
    "Deliver",
    "Drop",
    "Encoding",
    "FramingError",
    "Phase",
    "Policy",
    "RecordIODecoder",
    "Send",
    "Session",
    "Shutdown",
    "Subscribe",
    "decode_call",
    "decode_event",
    "decode_repaired",
    "encode_call",
    "encode_event",
    "frame",
]
