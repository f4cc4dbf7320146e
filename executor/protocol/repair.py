"""Records with text that is none.

Agents and masters are C++: they hand on whatever bytes a framework, an executor or an operator has put into a
string, while Python and JSON have no such strings. Such a record is not thrown away, for what else is in it
counts: a byte that is no UTF-8, or half a surrogate pair, becomes U+FFFD, and whoever asked hears in which
fields, to judge what is to be done with the item that they belong to.
"""

import json
import re
from typing import Any, TypeVar

from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message

from executor.protocol.encoding import DecodeError, Encoding, decode
from executor.protocol.mesos_json import is_map

M = TypeVar("M", bound=Message)

_HALF_PAIRS = re.compile("[\ud800-\udfff]")


def decode_repaired(data: bytes, message: M, encoding: Encoding) -> tuple[M, tuple[str, ...]]:
    """As `decode`, and the paths of the fields that were repaired, as in `offers.offers[2].hostname`. Raises
    DecodeError for what is wrong in any other way.
    """
    try:
        return decode(data, message, encoding), ()
    except DecodeError:
        again = type(message)()
        damaged: list[str] = []
        if encoding is Encoding.JSON:
            return _repaired_json(data, again, damaged), tuple(damaged)
        try:
            again.MergeFromString(data)
        except ProtobufDecodeError:
            damaged = []
        else:
            _repair(again, "", damaged)
        if not damaged:
            raise
    if not again.IsInitialized():
        return decode(again.SerializePartialToString(), type(message)(), encoding), ()
    return again, tuple(damaged)


def _repaired_json(data: bytes, message: M, damaged: list[str]) -> M:
    try:
        document = json.loads(data.decode("utf-8", "surrogateescape"))
        text = json.dumps(_repair_json(document, "", damaged))
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"{message.DESCRIPTOR.full_name}: no JSON: {error}") from None
    return decode(text.encode(), message, Encoding.JSON)


def _repair_json(value: Any, path: str, damaged: list[str]) -> Any:
    if isinstance(value, str):
        text = _HALF_PAIRS.sub("\ufffd", value)
        if text != value:
            damaged.append(path)
        return text
    if isinstance(value, list):
        return [_repair_json(item, f"{path}[{index}]", damaged) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, item in value.items():
        name = _HALF_PAIRS.sub("\ufffd", key)
        where = f"{path}.{name}" if path else name
        if name != key:
            damaged.append(where)
        found[name] = _repair_json(item, where, damaged)
    return found


def _repair(message: Message, path: str, damaged: list[str]) -> None:
    """Make text of every string, in place."""
    field: Any
    for field, value in message.ListFields():
        where = f"{path}.{field.name}" if path else field.name
        if is_map(field):
            if any(isinstance(key, bytes) for key in value):
                damaged.append(where)
                _repair_map(message, field.name)
        elif field.type == field.TYPE_STRING and field.is_repeated:
            for index, item in enumerate(value):
                if isinstance(item, bytes):
                    damaged.append(f"{where}[{index}]")
                    value[index] = item.decode("utf-8", "replace")
        elif field.type == field.TYPE_STRING:
            if isinstance(value, bytes):
                damaged.append(where)
                setattr(message, field.name, value.decode("utf-8", "replace"))
        elif field.type == field.TYPE_MESSAGE and field.is_repeated:
            for index, item in enumerate(value):
                _repair(item, f"{where}[{index}]", damaged)
        elif field.type == field.TYPE_MESSAGE:
            _repair(value, where, damaged)


def _repair_map(message: Message, name: str) -> None:
    """Entries whose key is no text go: no resource has such a name. All of Mesos' maps are of messages."""
    entries = getattr(message, name)
    good = {key: entries[key].SerializePartialToString() for key in entries if isinstance(key, str)}
    message.ClearField(name)
    for key, value in good.items():
        getattr(message, name)[key].MergeFromString(value)
