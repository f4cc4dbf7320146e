"""The two encodings of the executor API, in both directions.

An executor decodes events and encodes calls; an agent does the reverse. Whatever `decode_*` returns is
complete: every required field is there and every string is text, so that nothing above has to ask again.
"""

import enum
import json
from typing import Any, TypeVar, cast

from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message
from mesos.v1.executor import executor_pb2

from executor.protocol.mesos_json import JsonMappingError, fill_message, is_map, to_json

M = TypeVar("M", bound=Message)


class DecodeError(ValueError):
    """One record does not hold the message it should; the next one still may."""


class Encoding(enum.Enum):
    """How messages are written on one subscription."""

    PROTOBUF = "protobuf"
    JSON = "json"

    @property
    def content_type(self) -> str:
        """The exact header value; an agent refuses any parameter behind it with 415."""
        return f"application/{'x-protobuf' if self is Encoding.PROTOBUF else 'json'}"

    @classmethod
    def of_content_type(cls, value: str) -> "Encoding | None":
        """The encoding with this exact content type."""
        return next((encoding for encoding in cls if encoding.content_type == value), None)


def decode_event(record: bytes, encoding: Encoding) -> executor_pb2.Event:
    """An event from an agent. An unknown type comes out as UNKNOWN. Raises DecodeError."""
    return decode(record, executor_pb2.Event(), encoding)


def encode_event(event: executor_pb2.Event, encoding: Encoding) -> bytes:
    """An event to an executor; its JSON spells out explicit defaults, as an agent's does."""
    return encode(event, encoding, explicit_defaults=True)


def decode_call(body: bytes, encoding: Encoding) -> executor_pb2.Call:
    """A call from an executor. Raises DecodeError."""
    return decode(body, executor_pb2.Call(), encoding)


def encode_call(call: executor_pb2.Call, encoding: Encoding) -> bytes:
    """A call to an agent. Raises ValueError when a required field is missing."""
    return encode(call, encoding, explicit_defaults=False)


def decode(data: bytes, message: M, encoding: Encoding) -> M:
    """Fill the empty `message` from `data` and return it. Raises DecodeError."""
    try:
        if encoding is Encoding.PROTOBUF:
            message.MergeFromString(data)
            _require_text(message)
        else:
            fill_message(message, json.loads(data))
    except (ProtobufDecodeError, JsonMappingError) as error:
        raise DecodeError(f"{message.DESCRIPTOR.full_name}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"{message.DESCRIPTOR.full_name}: no JSON: {error}") from None
    if not message.IsInitialized():
        raise DecodeError(_incomplete(message))
    return message


def encode(message: Message, encoding: Encoding, *, explicit_defaults: bool) -> bytes:
    """The bytes of a complete message. Raises ValueError when a required field is missing."""
    if not message.IsInitialized():
        raise ValueError(_incomplete(message))
    if encoding is Encoding.PROTOBUF:
        return message.SerializeToString()
    document = to_json(message, explicit_defaults=explicit_defaults)
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def missing_fields(message: Message) -> str:
    """The required fields that a message lacks, by their paths, for people."""
    return ", ".join(cast(Any, message).FindInitializationErrors())


def _incomplete(message: Message) -> str:
    return f"{message.DESCRIPTOR.full_name}: not initialized: {missing_fields(message)}"


def _require_text(message: Message) -> None:
    """proto2 does not check UTF-8 when it parses, and hands out bytes for a string that is none."""
    field: Any
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for item in value if field.is_repeated else (value,):
                if isinstance(item, bytes):
                    raise DecodeError(f"{field.full_name} is not UTF-8")
        elif field.type == field.TYPE_MESSAGE:
            if not field.is_repeated:
                _require_text(value)
            elif is_map(field):
                if any(isinstance(key, bytes) for key in value):
                    raise DecodeError(f"{field.full_name} has a key that is not UTF-8")
            else:
                for item in value:
                    _require_text(item)
